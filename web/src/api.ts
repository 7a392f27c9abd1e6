// Talks to /v1. Every answer that is not a result becomes a Failure with what to do.

import { t } from "./i18n";
import type { SearchResponse } from "./types";

export class Failure extends Error {
  constructor(
    message: string,
    readonly hint = "",
    readonly status = 0,
    readonly requestId = "",
    readonly type = "",
  ) {
    super(message);
  }
}

interface ErrorBody {
  error?: { type?: string; message?: string; hint?: string };
  request_id?: string;
}

const session: { csrf: string | null; onSignedOut: () => void } = { csrf: null, onSignedOut() {} };

// The session's token, which every unsafe request must carry where a cookie signs in.
export function useCsrf(csrf: string | null): void {
  session.csrf = csrf;
}

// Called when an answer says that nobody is signed in any more.
export function onSignedOut(act: () => void): void {
  session.onSignedOut = act;
}

export const isAbort = (error: unknown): boolean => (error as Error | null)?.name === "AbortError";

function failure(status: number, body: ErrorBody | null): Failure {
  if (status === 401) session.onSignedOut();
  const { type = "", message = t("error.status", { status }), hint = t("error.again") } = body?.error ?? {};
  return new Failure(message, hint, status, body?.request_id ?? "", type);
}

export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (session.csrf && init.method && init.method !== "GET") headers.set("x-csrf-token", session.csrf);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Failure(t("error.gone"), t("error.gone.hint"));
  }
  if (response.ok) return response;
  throw failure(response.status, await response.json().catch(() => null));
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await ask(path, signal ? { signal } : {})).json();
}

// Any method with a JSON body; an answer without a body is undefined.
export async function send<T>(method: string, path: string, body?: unknown, signal?: AbortSignal, headers: Record<string, string> = {}): Promise<T> {
  const init: RequestInit = { method, headers: { ...headers } };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { ...headers, "content-type": "application/json" };
  }
  if (signal) init.signal = signal;
  const response = await ask(path, init);
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

export const post = <T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> => send("POST", path, body, signal);

export async function getImage(path: string, signal?: AbortSignal): Promise<ImageBitmap> {
  return createImageBitmap(await (await ask(path, signal ? { signal } : {})).blob());
}

// fetch tells nothing of how far an upload is; XMLHttpRequest does.
export function uploadTo<T>(path: string, form: FormData, onProgress: (share: number) => void, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    if (session.csrf) request.setRequestHeader("x-csrf-token", session.csrf);
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onload = () => (request.status < 300 ? resolve(request.response) : reject(failure(request.status, request.response)));
    request.onerror = () => reject(new Failure(t("error.cut"), t("error.cut.hint")));
    request.onabort = () => reject(new DOMException("Cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

export function upload(file: Blob, options: unknown, onProgress: (share: number) => void, signal: AbortSignal): Promise<SearchResponse> {
  const form = new FormData();
  form.append("options", JSON.stringify(options));
  form.append("file", file, "volume"); // the file's own name may tell who the patient is
  return uploadTo("/v1/search/volume", form, onProgress, signal);
}

export const studyUrl = (studyId: string, what = ""): string => `/v1/studies/${encodeURIComponent(studyId)}${what}`;

export const sliceUrl = (studyId: string, plane: string, index: number | "key", query: string): string =>
  studyUrl(studyId, `/slices/${plane}/${index}.png?${query}`);
