// Every word that a user reads, in the language that is chosen.

import { signal } from "@preact/signals";
import { en } from "./words/en";
import { es } from "./words/es";
import { kept } from "./kept";

export type Key = keyof typeof en;
export type Language = "en" | "es";

const TABLES: Record<Language, Record<Key, string>> = { en, es };

function first(): Language {
  const chosen = kept("local", "language") ?? navigator.language.slice(0, 2);
  return chosen === "es" ? "es" : "en";
}

export const language = signal<Language>(first());

export function setLanguage(to: Language): void {
  language.value = to;
  kept("local", "language", to);
}

// A key's text; "{name}" in it becomes values.name. Reading it inside a component makes the component
// follow the language.
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return TABLES[language.value][key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

// "key.one" or "key.many", with {n}.
export function count(key: string, n: number): string {
  return t(`${key}.${n === 1 ? "one" : "many"}` as Key, { n: n.toLocaleString(language.value) });
}

// The text of a name that may have none: findings and facets have names of their own.
export function named(prefix: string, name: string): string {
  const key = `${prefix}.${name}`;
  return key in en ? t(key as Key) : name;
}
