// Runs what is asked, keeps the last answers, and uploads CTs.

import { effect, signal } from "@preact/signals";
import { Failure, get, isAbort, post, studyUrl, upload } from "../api";
import { hideFailure, isSignedIn, may, pages, show, status } from "../state";
import { zipped } from "../archive";
import { isAsked, NOTHING, question, requestOf, type Ask } from "../ask";
import { t } from "../i18n";
import { ask, askFor, go, route } from "../route";
import type { Explanation, Facets, Hit, Question, SearchResponse, Study } from "../types";

const PAGE = 12; // hits at first, and how many more each time
const KEPT = 24; // answers, so that going back is instant
const MAX_FILES = 20000;

export interface Found {
  key: string;
  kind: string;
  hits: Hit[];
  next: number | null; // where more begin
}

export const found = signal<Found | null>(null);
export const busy = signal<{ text: string; share: number | null } | null>(null);
const answers = new Map<string, Found>();
let abort: AbortController | null = null;

// The uploaded file's name is shown while the page is open, and kept nowhere: it may tell who it is.
export const uploadName = signal("");

export const cancel = (): void => abort?.abort();

function begin(text: string, share: number | null = null): AbortController {
  abort?.abort();
  abort = new AbortController();
  busy.value = { text, share };
  return abort;
}

function end(own: AbortController): void {
  if (abort !== own) return;
  abort = null;
  busy.value = null;
}

function keep(key: string, answer: SearchResponse, before: Hit[] = []): void {
  const known = new Set(before.map((h) => h.study_id));
  const hits = [...before, ...answer.hits.filter((h) => !known.has(h.study_id))];
  const made = { key, kind: answer.query_kind, hits, next: answer.next_offset ?? null };
  answers.set(key, made);
  if (answers.size > KEPT) answers.delete(answers.keys().next().value!);
  found.value = made;
}

async function run(now: Ask): Promise<void> {
  const request = requestOf(now);
  if (!request) return show(new Failure(t("search.lost"), t("search.lost.hint")));
  const key = JSON.stringify(request);
  const known = answers.get(key);
  if (known) {
    cancel();
    found.value = known;
    return;
  }
  const own = begin(t("search.busy"));
  hideFailure();
  try {
    keep(key, await post<SearchResponse>("/v1/search", { ...request, k: PAGE }, own.signal));
  } catch (error) {
    if (!isAbort(error)) found.value = null;
    show(error);
  } finally {
    end(own);
  }
}

// Ask once more what was asked, as after a failure.
export function again(): void {
  if (!busy.value) void run(ask.value);
}

export async function more(): Promise<void> {
  const now = found.value;
  if (!now || now.next === null) return;
  const own = begin(t("search.busy"));
  try {
    const request = { ...JSON.parse(now.key), k: PAGE, offset: now.next };
    keep(now.key, await post<SearchResponse>("/v1/search", request, own.signal), now.hits);
  } catch (error) {
    show(error);
  } finally {
    end(own);
  }
}

// Files → one upload → a study that the service holds for a while, which then is what is asked.
export async function searchFiles(files: File[]): Promise<void> {
  const limit = status.value?.max_upload_bytes ?? 0;
  if (!files.length || !status.value || !("volume" in status.value.encoders)) return;
  const size = files.reduce((sum, f) => sum + f.size, 0);
  if (size > Math.min(limit, 2 ** 32 - 1) || files.length > MAX_FILES) {
    return show(new Failure(t("upload.large"), t("upload.large.hint", { n: Math.round(limit / 2 ** 20) })));
  }
  const own = begin(t("upload.gather"));
  hideFailure();
  try {
    let body: Blob = files[0]!;
    if (files.length > 1) {
      try {
        body = await zipped(files, own.signal);
      } catch (error) {
        if (isAbort(error)) throw error;
        throw new Failure(t("upload.unread"), t("upload.unread.hint"));
      }
    }
    const { filters } = ask.value;
    busy.value = { text: t("upload.send"), share: 0 };
    const options = { filters, k: PAGE, hold: true };
    const answer = await upload(body, options, (share) => {
      if (abort === own) busy.value = { text: t(share < 1 ? "upload.send" : "upload.read"), share: share < 1 ? share : null };
    }, own.signal);
    uploadName.value = files.length === 1 ? files[0]!.name : t("upload.files", { n: files.length });
    const id = answer.query_study?.study_id;
    if (id) {
      const asked: Ask = { ...NOTHING, base: { kind: "study", id }, filters };
      studies.set(id, answer.query_study!);
      keep(JSON.stringify(requestOf(asked)), answer);
      askFor(asked);
    } else keep("upload", answer);
  } catch (error) {
    show(error);
  } finally {
    end(own);
  }
}

effect(() => {
  const now = ask.value;
  const isReady = status.value !== null && isSignedIn.value;
  if (!isReady || route.value.view !== "search") return;
  queueMicrotask(() => {
    if (isAsked(now)) void run(now);
    else if (found.value?.key !== "upload") {
      cancel();
      found.value = null;
    }
  });
});

// ---- facets ---------------------------------------------------------------------------------

export const facets = signal<{ all: Facets; now: Facets } | null>(null);
let facetAbort: AbortController | null = null;
const facetsText = () => JSON.stringify(ask.value.filters);
let facetsFor = "";

effect(() => {
  const text = facetsText();
  if (!status.value || !isSignedIn.value || text === facetsFor) return;
  facetsFor = text;
  void count(text);
});

async function count(filters: string): Promise<void> {
  facetAbort?.abort();
  const own = (facetAbort = new AbortController());
  try {
    const all = facets.peek()?.all ?? (await get<Facets>("/v1/facets", own.signal));
    const now = filters === "{}" ? all : await post<Facets>("/v1/facets", { filters: JSON.parse(filters) }, own.signal);
    if (facetAbort === own) facets.value = { all, now };
  } catch (error) {
    show(error);
  }
}

// ---- studies and explanations -----------------------------------------------------------------

const studies = new Map<string, Study>();

export async function studyOf(id: string): Promise<Study> {
  const hit = found.peek()?.hits.find((h) => h.study_id === id)?.study ?? studies.get(id);
  if (hit) return hit;
  const study = await get<Study>(studyUrl(id));
  studies.set(id, study);
  if (studies.size > 200) studies.delete(studies.keys().next().value!);
  return study;
}

let isExplained = true; // until the service says that it cannot
let firstAsked: Promise<unknown> | null = null; // others wait for the first one's answer
const explanations = new Map<string, Promise<Explanation | null>>();

// Where in a study the answer lies; null where nobody can tell.
export function explanationOf(studyId: string, asked: Question): Promise<Explanation | null> {
  const key = `${studyId} ${JSON.stringify(asked)}`;
  let known = explanations.get(key);
  if (!known) {
    known = isExplained ? explain(studyId, asked) : Promise.resolve(null);
    explanations.set(key, known);
    if (explanations.size > 300) explanations.delete(explanations.keys().next().value!);
  }
  return known;
}

async function explain(studyId: string, asked: Question): Promise<Explanation | null> {
  const isFirst = firstAsked === null;
  if (!isFirst) await firstAsked;
  if (!isExplained) return null;
  const answer = post<Explanation>(studyUrl(studyId, "/explanation"), asked);
  if (isFirst) firstAsked = answer.then(() => {}, () => {});
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Failure && (error.type === "NoExplanation" || error.status === 405)) isExplained = false;
    return null;
  }
}

// What an explanation can be asked for: liked studies alone are no question.
export function currentQuestion(): Question | null {
  const asked = isAsked(ask.value) ? question(ask.value) : null;
  return asked && Object.keys(asked).length ? asked : null;
}

export function nextStudy(step: number): void {
  const hits = found.value?.hits ?? [];
  const now = hits.findIndex((h) => h.study_id === route.value.study);
  const next = hits[now < 0 ? 0 : now + step];
  if (next) go({ study: next.study_id, compare: null, place: {} });
}

export const canCollect = (): boolean => pages.value.collections && may("viewer");
