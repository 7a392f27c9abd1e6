// What is asked: one base, findings that narrow it, refinements, filters and order; and how the
// URL's hash holds it. A hash never reaches the server. A pasted report is not even there: the hash
// holds a key, and the text stays in the tab.

import { kept } from "./kept";
import type { Box, Filters, PlaneName, Question, Region, SearchRequest, Sort } from "./types";

export type Base =
  | { kind: "text"; text: string }
  | { kind: "report"; key: string }
  | { kind: "study"; id: string } // a study of the index, or an uploaded CT that the service holds
  | { kind: "region"; region: Region };

export interface Ask {
  base: Base | null;
  keywords: string[];
  without: string[];
  like: string[];
  unlike: string[];
  filters: Filters;
  sort: Sort;
  hasSamePatient: boolean;
}

export const NOTHING: Ask = { base: null, keywords: [], without: [], like: [], unlike: [], filters: {}, sort: "score", hasSamePatient: false };

export const LISTS = ["sex", "findings", "findings_absent", "laterality", "location", "body_part", "manufacturer", "source", "split", "language"] as const;
const NUMBERS = ["age_min", "age_max", "slice_mm_min", "slice_mm_max"] as const;
const DATES = ["date_from", "date_to"] as const;
const SORTS: Sort[] = ["score", "date", "-date", "age", "-age"];
const PLANES = ["axial", "coronal", "sagittal"];
const UPLOADED = /^query-[0-9a-f]{32}$/;

export const isUploaded = (studyId: string): boolean => UPLOADED.test(studyId);

// A sentence fits a line; what has lines, or is longer than anybody types, is a report.
export const isReport = (text: string): boolean => text.trim().includes("\n") || text.length > 300;

export function keepReport(text: string): Base {
  const key = crypto.randomUUID?.().slice(0, 8) ?? String(Date.now());
  reports.set(key, text);
  kept("session", `report-${key}`, text);
  return { kind: "report", key };
}

const reports = new Map<string, string>();
export const reportOf = (key: string): string | null => reports.get(key) ?? kept("session", `report-${key}`);

export function isAsked(ask: Ask): boolean {
  return ask.base !== null || ask.keywords.length > 0 || ask.like.length > 0 || Boolean(ask.filters.findings?.length);
}

// The words of a search; null where they are lost, as a report is with its tab.
export function question(ask: Ask): Question | null {
  const { base } = ask;
  const keywords = ask.keywords.length ? ask.keywords : base ? [] : (ask.filters.findings ?? []);
  const words: Question = keywords.length ? { keywords } : {};
  if (base?.kind === "text") words.text = base.text;
  else if (base?.kind === "study") words.study_id = base.id;
  else if (base?.kind === "region") words.region = base.region;
  else if (base?.kind === "report") {
    const report = reportOf(base.key);
    if (report === null) return null;
    words.report = report;
  }
  return words;
}

export function requestOf(ask: Ask): SearchRequest | null {
  const words = question(ask);
  if (!words) return null;
  const request: SearchRequest = { ...words, filters: ask.filters };
  if (ask.like.length) request.like = ask.like;
  if (ask.unlike.length) request.unlike = ask.unlike;
  if (ask.without.length) request.without = ask.without;
  if (ask.sort !== "score") request.sort = ask.sort;
  if (ask.hasSamePatient) request.exclude_same_patient = false;
  return request;
}

export function askToParams(ask: Ask): URLSearchParams {
  const out = new URLSearchParams();
  const { base } = ask;
  if (base?.kind === "text") out.set("q", base.text);
  else if (base?.kind === "report") out.set("report", base.key);
  else if (base?.kind === "study") out.set("similar", base.id);
  else if (base?.kind === "region") {
    const { study_id, plane, index, box } = base.region;
    out.set("region", [plane, index, ...box.map((v) => v.toFixed(4)), study_id].join("_"));
  }
  for (const name of ask.keywords) out.append("finding", name);
  for (const name of ask.without) out.append("without", name);
  for (const id of ask.like) out.append("like", id);
  for (const id of ask.unlike) out.append("unlike", id);
  for (const key of LISTS) for (const value of ask.filters[key] ?? []) out.append(`f.${key}`, value);
  for (const key of [...NUMBERS, ...DATES]) if (ask.filters[key] !== undefined) out.set(`f.${key}`, String(ask.filters[key]));
  if (ask.sort !== "score") out.set("sort", ask.sort);
  if (ask.hasSamePatient) out.set("same", "1");
  return out;
}

function regionOf(text: string): Region | null {
  const [plane, index, x0, y0, x1, y1, ...id] = text.split("_");
  const box = [x0, y0, x1, y1].map(Number) as Box;
  if (!PLANES.includes(plane ?? "") || !id.length || !Number.isInteger(Number(index)) || box.some((v) => !(v >= 0 && v <= 1))) return null;
  return { study_id: id.join("_"), plane: plane as PlaneName, index: Number(index), box };
}

// What is wrong in it is left out: an address may have been written by hand.
export function askFromParams(params: URLSearchParams): Ask {
  const text = params.get("q")?.slice(0, 4000);
  const report = params.get("report");
  const similar = params.get("similar");
  const region = regionOf(params.get("region") ?? "");
  let base: Base | null = null;
  if (text) base = { kind: "text", text };
  else if (report) base = { kind: "report", key: report };
  else if (similar) base = { kind: "study", id: similar };
  else if (region) base = { kind: "region", region };
  const filters: Filters = {};
  for (const key of LISTS) {
    const values = params.getAll(`f.${key}`).filter(Boolean).slice(0, 50);
    if (values.length) filters[key] = values;
  }
  for (const key of NUMBERS) {
    const value = params.get(`f.${key}`);
    if (value && Number.isFinite(Number(value))) filters[key] = Number(value);
  }
  for (const key of DATES) {
    const value = params.get(`f.${key}`);
    if (value && /^\d{4}-\d{2}-\d{2}$/.test(value)) filters[key] = value;
  }
  const sort = params.get("sort") as Sort | null;
  return {
    base,
    keywords: params.getAll("finding").slice(0, 50),
    without: params.getAll("without").slice(0, 50),
    like: params.getAll("like").slice(0, 20),
    unlike: params.getAll("unlike").slice(0, 20),
    filters,
    sort: sort && SORTS.includes(sort) ? sort : "score",
    hasSamePatient: params.get("same") === "1",
  };
}
