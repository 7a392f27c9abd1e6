// The URL's hash ↔ where one is. It is the only home of that state: views read it, and change it by
// going elsewhere.

import { computed, signal } from "@preact/signals";
import { askFromParams, askToParams, NOTHING, type Ask } from "./ask";
import type { Place } from "./types";

export type View = "search" | "collections" | "collection" | "review" | "card" | "benchmark" | "accounts" | "audit" | "add" | "lost";

export interface Route {
  view: View;
  id: string | null; // of a collection
  study: string | null; // the one that is open
  compare: string | null;
  place: Partial<Place>;
  ask: Ask;
}

const PLANES = ["axial", "coronal", "sagittal", "all", "3d"];
const PLAIN: View[] = ["collections", "review", "card", "benchmark", "accounts", "audit", "add"];

export function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const params = new URLSearchParams(query);
  const route: Route = { view: "search", id: null, study: null, compare: null, place: {}, ask: askFromParams(params) };
  let parts: string[];
  try {
    parts = path.split("/").map(decodeURIComponent);
  } catch {
    return { ...route, view: "lost" };
  }
  let at = 0;
  const first = parts[0] ?? "";
  if (first === "collections" && parts[1] && parts[1] !== "study") {
    route.view = "collection";
    route.id = parts[1];
    at = 2;
  } else if (PLAIN.includes(first as View)) {
    route.view = first as View;
    at = 1;
  } else if (first !== "" && first !== "search" && first !== "study") return { ...route, view: "lost" };
  if (first === "search") at = 1;
  if (parts[at] === "study" && parts[at + 1]) {
    route.study = parts[at + 1]!;
    const [plane, index] = [parts[at + 2], parts[at + 3]];
    if (plane && PLANES.includes(plane)) {
      route.place.plane = plane as Place["plane"];
      if (index && /^\d+$/.test(index)) route.place.index = Number(index);
    }
    const window = params.get("window");
    if (window) route.place.window = window;
    route.compare = params.get("compare");
  }
  return route;
}

export function format(route: Route): string {
  const start = route.view === "search" ? "" : route.view === "collection" ? `collections/${encodeURIComponent(route.id ?? "")}` : route.view;
  const path = [start];
  const params = askToParams(route.view === "search" ? route.ask : NOTHING);
  if (route.study) {
    path.push("study", encodeURIComponent(route.study));
    const { plane, index, window } = route.place;
    if (plane) path.push(plane);
    if (plane && index !== undefined) path.push(String(index));
    if (window) params.set("window", window);
    if (route.compare) params.set("compare", route.compare);
  }
  const query = params.toString();
  return `#/${path.filter(Boolean).join("/")}${query ? `?${query}` : ""}`;
}

export const route = signal<Route>(parse(location.hash));
// A part of the route changes only when its own text does.
const askText = computed(() => (route.value.view === "search" ? askToParams(route.value.ask).toString() : ""));
export const ask = computed<Ask>(() => askFromParams(new URLSearchParams(askText.value)));

const read = () => {
  const next = parse(location.hash);
  if (format(next) !== format(route.value)) route.value = next;
};
addEventListener("hashchange", read);
addEventListener("popstate", read);

export function go(change: Partial<Route>, how: "push" | "replace" = "push"): boolean {
  const next = { ...route.value, ...change };
  const hash = format(next);
  if (hash === format(route.value) && how === "push") return false;
  if (how === "push") history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
  route.value = next;
  return true;
}

export const href = (change: Partial<Route>): string => format({ view: "search", id: null, study: null, compare: null, place: {}, ask: NOTHING, ...change });

// Tells whether that is another question than before.
export function askFor(change: Partial<Ask>): boolean {
  const { view, ask: now } = route.value;
  const from = view === "search" ? now : NOTHING;
  return go({ view: "search", id: null, ask: { ...from, ...change }, ...(view === "search" ? {} : { study: null, compare: null, place: {} }) });
}

// Slices go by faster than an address need follow.
let timer = 0;
export function goPlace(place: Place): void {
  clearTimeout(timer);
  const { study } = route.value;
  timer = window.setTimeout(() => {
    if (route.value.study === study && study) go({ place }, "replace");
  }, 150);
}

export function openStudy(id: string): void {
  clearTimeout(timer);
  go({ study: id, compare: null, place: {} });
}

export function closeStudy(): void {
  clearTimeout(timer);
  go({ study: null, compare: null, place: {} });
}
