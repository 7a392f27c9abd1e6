// The review: a queue of doubted studies, one study at a time, and what a reader decides.
// The address never holds who reads or what was decided; the name stays in this tab.

import { computed, signal } from "@preact/signals";
import { Failure, get, send as request, studyUrl } from "../api";
import { hideFailure, session, show, vocabulary } from "../state";
import { t } from "../i18n";
import { kept } from "../kept";
import type { Finding, Study } from "../types";

export type State = "todo" | "waiting" | "disputed" | "taken" | "settled";
export type Verdict = "accept" | "edit" | "reject";
export type List = "work" | "waiting" | "settled" | "all";

export interface QueueItem {
  study_id: string;
  weight: number;
  rules: string[];
  state: State;
}

export interface Text {
  text: string;
  language: "en" | "es";
  findings: Finding[];
}

export interface Decision {
  verdict: Verdict;
  translation: string | null;
  labels: string[] | null;
  reason: string;
}

export interface Item {
  study_id: string;
  state: State;
  doubts: { rule: string; reason: string; weight: number }[];
  original: Text | null;
  english: Text | null;
  is_candidate: boolean;
  problems: string[];
  labels: string[];
  source_hash: string;
  ct: "indexed" | "another" | "none";
  mine: Decision | null;
  others: { reader: string; decision: Decision; is_adjudication: boolean }[];
  outcome: Decision | null;
}

export interface Agreement {
  n_items: number;
  observed: number | null;
  kappa: number | null;
}

export interface Status {
  progress: { n_items: number; n_settled: number; n_disputed: number; n_started: number };
  agreement: Agreement;
  agreement_by_finding: Record<string, Agreement>;
}

export interface Draft {
  english: string;
  labels: string[];
}

const PAGE = 200;
const UNREAD_MS = 250; // a key that bounces must not decide on a study that nobody has seen
export const LISTS: Record<List, State[]> = { work: ["todo", "disputed"], waiting: ["waiting"], settled: ["settled"], all: [] };

export const reader = signal("");
export const items = signal<QueueItem[]>([]);
export const nItems = signal(0);
export const list = signal<List>("work");
export const item = signal<Item | null>(null); // the study that is open
export const draft = signal<Draft | null>(null); // while it is edited
export const pendingLabel = signal(""); // typed, but not yet entered
export const progress = signal<Status | null>(null);
export const said = signal("");
export const study = signal<Study | null>(null); // whose CT is shown
export const hasFailedCt = signal(false);

const drafts = new Map<string, Draft>(); // leaving a study loses no edit
let turn = 0;
let since = 0; // when the study came up
let isBusy = false;

export const canDecide = computed(() => ["todo", "disputed", "waiting"].includes(item.value?.state ?? ""));
export const hasEnglish = computed(() => item.value?.original != null && item.value.original.language !== "en");
export const isUnread = (): boolean => performance.now() - since < UNREAD_MS;

// A header holds Latin letters only: the name goes percent-encoded.
const call = <T>(method: string, path: string, body?: unknown): Promise<T> =>
  request<T>(method, `/v1/review/${path}`, body, undefined, { "x-reader": encodeURIComponent(reader.value) });

const at = (id: string, what = ""): string => `items/${encodeURIComponent(id)}${what && `/${what}`}`;

// ---- the queue ------------------------------------------------------------------------------

export async function loadItems(isMore = false): Promise<void> {
  const query = new URLSearchParams({ limit: String(PAGE), offset: String(isMore ? items.value.length : 0) });
  for (const name of LISTS[list.value]) query.append("state", name);
  const answer = await call<{ items: QueueItem[]; n_items: number }>("GET", `items?${query}`);
  const known = new Set(isMore ? items.value.map((i) => i.study_id) : []);
  items.value = isMore ? [...items.value, ...answer.items.filter((i) => !known.has(i.study_id))] : answer.items;
  nItems.value = answer.n_items;
}

function setState(id: string, state: State): void {
  items.value = items.value.map((i) => (i.study_id === id ? { ...i, state } : i));
}

async function loadStatus(): Promise<void> {
  progress.value = await call<Status>("GET", "status");
}

// ---- one study ------------------------------------------------------------------------------

export async function open(id: string): Promise<void> {
  keepDraft();
  const own = ++turn;
  hideFailure();
  let next: Item;
  try {
    next = await call<Item>("POST", at(id, "lease"));
  } catch (error) {
    if (own !== turn) return;
    if (!(error instanceof Failure) || error.status !== 409) return show(error);
    setState(id, "taken"); // others were faster; it can still be looked at
    try {
      next = await call<Item>("GET", at(id));
    } catch (again) {
      return show(again);
    }
  }
  if (own !== turn) return; // another was opened meanwhile
  item.value = next;
  since = performance.now();
  draft.value = null;
  if (drafts.has(id) && canDecide.value) draft.value = drafts.get(id)!;
  setState(id, next.state);
  void showCt(next, own);
}

async function showCt(next: Item, own: number): Promise<void> {
  study.value = null;
  hasFailedCt.value = false;
  if (next.ct !== "indexed") return;
  try {
    const found = await get<Study>(studyUrl(next.study_id));
    if (own === turn) study.value = found;
  } catch {
    if (own === turn) hasFailedCt.value = true;
  }
}

// ---- deciding -------------------------------------------------------------------------------

// One thing at a time, up to the next study: a key that is pressed twice decides once.
async function once(work: () => Promise<void>): Promise<void> {
  if (isBusy) return;
  isBusy = true;
  try {
    await work();
  } finally {
    isBusy = false;
  }
}

async function act(what: string, body: unknown, words: (id: string) => string): Promise<boolean> {
  const id = item.value!.study_id;
  hideFailure();
  try {
    const next = await call<Item>("POST", at(id, what), body);
    drafts.delete(id);
    draft.value = null;
    setState(id, next.state);
    said.value = words(id);
    if (item.value?.study_id === id) item.value = next;
    await loadStatus();
    return true;
  } catch (error) {
    show(error);
    return false;
  }
}

export const decide = (decision: Partial<Decision> & { verdict: Verdict }): Promise<void> =>
  once(async () => {
    const before = item.value!;
    const verdict = t(`review.verdict.${decision.verdict}`);
    if (!(await act("decision", { ...decision, source_hash: before.source_hash }, (id) => t("review.recorded", { verdict, id })))) return;
    if (item.value?.study_id !== before.study_id) return;
    const next = nextToDo();
    if (next) await open(next);
    else said.value += ` ${t("review.done")}`;
  });

export function accept(): void {
  if (canDecide.value && !draft.value) void decide({ verdict: "accept" });
}

export function startEdit(): void {
  if (!canDecide.value || draft.value) return;
  const now = item.value!;
  const mine = now.mine?.verdict === "edit" ? now.mine : null;
  pendingLabel.value = "";
  draft.value = { english: mine?.translation ?? now.english?.text ?? "", labels: [...(mine?.labels ?? now.labels)] };
}

export function change(part: Partial<Draft>): void {
  if (draft.value) draft.value = { ...draft.value, ...part };
}

function keepDraft(): void {
  if (draft.value && item.value) drafts.set(item.value.study_id, draft.value);
}

export function leaveEdit(): void {
  keepDraft();
  draft.value = null;
}

export function saveEdit(): void {
  const now = item.value;
  if (!draft.value || !now) return;
  const { english, labels } = draft.value;
  const pending = pendingLabel.value.trim();
  const names = pending ? [...new Set([...labels, pending])] : labels;
  const isSame = names.length === now.labels.length && names.every((name) => now.labels.includes(name));
  const isChanged = hasEnglish.value && english.trim() !== (now.english?.text ?? "").trim();
  void decide({ verdict: "edit", translation: isChanged ? english : null, labels: isSame ? null : names });
}

export const reopen = (reason: string): Promise<void> =>
  once(async () => {
    await act("reopen", { reason }, (id) => t("review.reopened", { id }));
  });

// ---- moving on ------------------------------------------------------------------------------

function nextToDo(): string | undefined {
  const here = items.value.findIndex((i) => i.study_id === item.value?.study_id);
  const order = [...items.value.slice(here + 1), ...items.value.slice(0, Math.max(here, 0))];
  return order.find((i) => i.state === "todo" || i.state === "disputed")?.study_id;
}

export function step(by: number): void {
  const here = items.value.findIndex((i) => i.study_id === item.value?.study_id);
  const to = items.value[here < 0 ? 0 : here + by];
  if (to) void open(to.study_id);
}

// ---- who reads ------------------------------------------------------------------------------

// The tab's reader; with a sign-in, whoever is signed in.
export function knownReader(): string | null {
  return session.value?.access === "required" ? (session.value.account?.name ?? null) : kept("session", "reader");
}

// Tell whether the name was taken; one that is no name is asked for again.
export async function begin(name: string): Promise<boolean> {
  reader.value = name;
  kept("session", "reader", name);
  item.value = null;
  study.value = null;
  draft.value = null;
  drafts.clear(); // another reader's edits are not this one's
  hideFailure();
  try {
    await Promise.all([loadStatus(), loadItems()]);
    const first = nextToDo();
    if (first) await open(first);
    else said.value = t("review.done");
    return true;
  } catch (error) {
    show(error);
    return !(error instanceof Failure && error.status === 422);
  }
}

export const findingNames = computed(() => vocabulary.value.map((f) => f.name));
