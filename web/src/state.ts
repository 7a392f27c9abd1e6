// What the whole page knows: who is signed in, what the service is, and the error that is shown.

import { computed, signal } from "@preact/signals";
import { Failure, get, isAbort, onSignedOut, send, useCsrf } from "./api";
import { kept } from "./kept";
import type { FindingName, Pages, Role, ServiceStatus, Session } from "./types";

const RANKS: Role[] = ["viewer", "reviewer", "curator", "admin"];

export const session = signal<Session | null>(null);
export const status = signal<ServiceStatus | null>(null);
export const vocabulary = signal<FindingName[]>([]);
export const pages = signal<Pages>({ card: false, benchmark: false, review: false, collections: false, ingest: false });
export const failure = signal<Failure | null>(null);
export const told = signal(""); // what a screen reader hears, and what a toast shows

export const isSignedIn = computed(() => session.value?.account != null);
export const mustSignIn = computed(() => session.value !== null && session.value.access === "required" && !session.value.account);

export function may(role: Role): boolean {
  const own = session.value?.account?.role;
  return own !== undefined && RANKS.indexOf(own) >= RANKS.indexOf(role);
}

export function show(error: unknown): void {
  if (isAbort(error)) return;
  failure.value = error instanceof Failure ? error : new Failure(String((error as Error)?.message ?? error));
}

export const hideFailure = (): void => {
  failure.value = null;
};

let toast = 0;
export function tell(text: string): void {
  told.value = text;
  clearTimeout(toast);
  toast = window.setTimeout(() => (told.value = ""), 4000);
}

export async function start(): Promise<void> {
  onSignedOut(() => {
    if (!session.value?.account || session.value.access !== "required") return;
    lastName = session.value.account.name;
    session.value = { ...session.value, account: null };
  });
  try {
    enter(await get<Session>("/v1/session"));
    if (isSignedIn.value) await load();
  } catch (error) {
    show(error);
  }
}

function enter(now: Session): void {
  useCsrf(now.csrf);
  session.value = now;
}

async function load(): Promise<void> {
  const [now, findings, there] = await Promise.all([
    get<ServiceStatus>("/v1/status"),
    get<{ findings: FindingName[] }>("/v1/findings"),
    get<Pages>("/v1/pages"),
  ]);
  vocabulary.value = findings.findings;
  pages.value = there;
  status.value = now;
}

let lastName = ""; // whose session ended while the page was open

export async function signIn(name: string, password: string): Promise<void> {
  const now = await send<Session>("POST", "/v1/session", { name, password });
  if (lastName && lastName !== now.account?.name) return leave(); // what is held here is another's
  enter(now);
  hideFailure();
  await load();
}

export async function signOut(): Promise<void> {
  await send("DELETE", "/v1/session");
  leave();
}

// What one account has seen is not for the next one at this screen.
function leave(): void {
  try {
    sessionStorage.clear();
  } finally {
    history.replaceState(null, "", "#/");
    location.reload();
  }
}

// ---- light and dark -------------------------------------------------------------------------

export const theme = signal<string | null>(kept("local", "theme"));

export function isDark(): boolean {
  return theme.value ? theme.value === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

export function applyTheme(): void {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
}

export function switchTheme(): void {
  theme.value = isDark() ? "light" : "dark";
  kept("local", "theme", theme.value);
  applyTheme();
}
