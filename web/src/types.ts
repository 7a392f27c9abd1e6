// What /v1 answers and takes, as far as the page uses it.

export type PlaneName = "axial" | "coronal" | "sagittal";
export type Status = "present" | "absent" | "uncertain";
export type Role = "viewer" | "reviewer" | "curator" | "admin";
export type Box = [number, number, number, number];
export type Sort = "score" | "date" | "-date" | "age" | "-age";

export interface Finding {
  name: string;
  cui: string | null;
  status: Status;
  laterality: string | null;
  location: string | null;
  start: number;
  end: number;
}

export interface Report {
  text: string;
  language: "en" | "es";
}

export interface Plane {
  n_slices: number;
  width: number;
  height: number;
  pixel_mm: number;
  step_mm: number;
  left: string;
  right: string;
  top: string;
  bottom: string;
}

export interface Study {
  study_id: string;
  patient_id: string;
  sex: "F" | "M" | null;
  age: number | null;
  study_date: string | null;
  manufacturer: string | null;
  body_part: string | null;
  split: string | null;
  source: string;
  shape: [number, number, number];
  spacing_mm: [number, number, number];
  planes: Record<PlaneName, Plane>;
  report: Report | null;
  translation: string | null; // English of a report in another language
  findings: Finding[];
}

export interface Why {
  parts: Record<string, number>;
  terms: string[];
  sentences: string[];
}

export interface Hit {
  rank: number;
  study_id: string;
  score: number;
  why: Why;
  study: Study;
}

// A rectangle on a slice, as fractions of the slice's PNG.
export interface Region {
  study_id: string;
  plane: PlaneName;
  index: number;
  box: Box;
}

export interface Filters {
  sex?: string[];
  age_min?: number;
  age_max?: number;
  date_from?: string;
  date_to?: string;
  findings?: string[];
  findings_absent?: string[];
  body_part?: string[];
  manufacturer?: string[];
  source?: string[];
  split?: string[];
  language?: string[];
  laterality?: string[];
  location?: string[];
  slice_mm_min?: number;
  slice_mm_max?: number;
}

// One of text, report, study_id and region; keywords may stand alone.
export interface Words {
  text?: string;
  keywords?: string[];
  report?: string;
  study_id?: string;
  region?: Region;
}

// What an explanation can be asked for: the body of /explanation.
export type Question = Words;

export interface SearchRequest extends Words {
  filters?: Filters;
  where?: string;
  k?: number;
  offset?: number;
  sort?: Sort;
  like?: string[];
  unlike?: string[];
  without?: string[];
  exclude_same_patient?: boolean;
}

export interface SearchResponse {
  query_kind: string;
  hits: Hit[];
  duration_ms: number;
  request_id: string;
  next_offset?: number | null;
  query_study?: Study | null;
}

export interface Explanation {
  study_id: string;
  shape: [number, number, number];
  origin: [number, number, number];
  step: [number, number, number];
  values: number[];
  peak: [number, number, number];
  slices: Record<PlaneName, number>;
}

export interface Facets {
  n_studies: number;
  facets: Record<string, Record<string, number>>;
}

export interface FindingName {
  name: string;
  cui: string | null;
  synonyms: string[];
  n_studies: number;
}

export interface WindowPreset {
  level: number;
  width: number;
}

export interface ServiceStatus {
  version: string;
  n_studies: number;
  encoders: Record<string, string>;
  windows: Record<string, WindowPreset>;
  max_upload_bytes: number;
  max_k: number;
}

export interface Account {
  name: string;
  role: Role;
  sources: string[] | null;
}

export interface Session {
  access: "off" | "required";
  account: Account | null;
  csrf: string | null;
  oidc: boolean;
  has_password?: boolean;
}

export interface AccountOut extends Account {
  is_active?: boolean;
  created?: string;
}

export interface Token {
  token_id: string;
  name: string;
  role: Role;
  created: string;
  expires: string | null;
  revoked: string | null;
  token?: string; // told once
}

export interface AuditEntry {
  seq: number;
  at: string;
  account: string;
  action: string;
  objects: string[];
  request_id: string;
  hash: string;
}

export interface Collection {
  collection_id: string;
  name: string;
  description: string;
  owner: string;
  permission: "owner" | "write" | "read";
  n_studies: number;
  created: string;
  changed: string;
}

export interface CollectionStudy {
  study_id: string;
  note: string;
  added: string;
  study: Study | null;
}

export interface CollectionFull extends Collection {
  studies: CollectionStudy[];
  shares: { account: string; permission: "read" | "write" }[];
}

export interface SavedSearch {
  search_id: string;
  name: string;
  query: Record<string, unknown>;
}

export interface Pages {
  card: boolean;
  benchmark: boolean;
  review: boolean;
  collections: boolean;
  ingest: boolean;
}

export interface Job {
  job_id: string;
  state: "queued" | "running" | "done" | "failed" | "cancelled" | "interrupted";
  stage: "waiting" | "checking" | "embedding" | "indexed";
  done: number;
  total: number;
  created: number;
  source: string;
  studies: string[];
  rejections: { rule: string; reason: string }[];
  doubts: { rule: string; reason: string }[];
  error: { type: string; message: string } | null;
}

// Where one looks inside a study.
export interface Place {
  plane: PlaneName | "all" | "3d";
  index?: number;
  window?: string;
}
