// Keeps a value in the browser ("local": for good, "session": as long as the tab), and returns what
// is kept; null removes it. A browser that keeps nothing still shows the page.
export function kept(where: "local" | "session", name: string, value?: string | null): string | null {
  try {
    const storage = where === "local" ? localStorage : sessionStorage;
    if (value === null) storage.removeItem(name);
    else if (value !== undefined) storage.setItem(name, value);
    return storage.getItem(name);
  } catch {
    return null;
  }
}
