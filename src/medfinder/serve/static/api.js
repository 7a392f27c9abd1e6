// Talks to /v1, and makes elements. Text from outside only ever becomes text nodes.

export class Failure extends Error {
  constructor(message, hint = "", status = 0, requestId = "") {
    super(message);
    this.hint = hint;
    this.status = status;
    this.requestId = requestId;
  }
}

async function failureOf(response) {
  try {
    const body = await response.json();
    return new Failure(body.error.message, body.error.hint, response.status, body.request_id);
  } catch {
    return new Failure(`The service answered ${response.status}.`, "Try again.", response.status);
  }
}

async function ask(path, init) {
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The service does not answer.", "Is 'medfinder serve' still running?");
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

export async function post(path, body, signal) {
  const init = {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  };
  return (await ask(path, init)).json();
}

export async function getImage(path, signal) {
  const response = await ask(path, { signal });
  return createImageBitmap(await response.blob());
}

// fetch tells nothing of how far an upload is; XMLHttpRequest does.
export function upload(file, options, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("options", JSON.stringify(options));
    form.append("file", file, "volume"); // the file's own name may tell who the patient is
    request.open("POST", "/v1/search/volume");
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onload = () => {
      const body = request.response;
      if (request.status === 200) resolve(body);
      else
        reject(
          new Failure(
            body?.error?.message ?? `The service answered ${request.status}.`,
            body?.error?.hint ?? "Try again.",
            request.status,
            body?.request_id ?? "",
          ),
        );
    };
    request.onerror = () =>
      reject(new Failure("The upload was cut off.", "Is the file too large, or the service gone?"));
    request.onabort = () => reject(new DOMException("Cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

export const sliceUrl = (studyId, plane, index, query) =>
  `/v1/studies/${encodeURIComponent(studyId)}/slices/${plane}/${index}.png?${query}`;

// make("button.primary", {type: "button", onclick: f}, "text", child, …)
export function make(what, properties = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Python counts code points, JavaScript UTF-16 units: they part at the first emoji.
export function unitOffsets(text) {
  if (!/[\ud800-\udfff]/.test(text)) return (offset) => offset;
  const units = [];
  let at = 0;
  for (const letter of text) {
    units.push(at);
    at += letter.length;
  }
  units.push(at);
  return (offset) => units[Math.min(offset, units.length - 1)];
}

// Cut a text at the spans' ends and wrap each piece in what covers it.
// spans: [{start, end, kind: "sentence" | "present" | "absent" | "uncertain" | "term", title}]
export function annotate(text, spans) {
  const cuts = new Set([0, text.length]);
  for (const span of spans) cuts.add(span.start).add(span.end);
  const order = [...cuts].filter((c) => c >= 0 && c <= text.length).sort((a, b) => a - b);
  const fragment = document.createDocumentFragment();
  let mark = null;
  for (let i = 0; i + 1 < order.length; i++) {
    const [start, end] = [order[i], order[i + 1]];
    const over = spans.filter((s) => s.start <= start && s.end >= end);
    const inSentence = over.some((s) => s.kind === "sentence");
    const inner = over.filter((s) => s.kind !== "sentence");
    let node = document.createTextNode(text.slice(start, end));
    if (inner.length) {
      const classes = [...new Set(inner.map((s) => s.kind))].join(".");
      const title = inner.map((s) => s.title).filter(Boolean).join(", ");
      node = make(`span.${classes}`, { title: title || null }, node);
    }
    if (inSentence) {
      if (!mark) fragment.append((mark = make("mark")));
      mark.append(node);
    } else {
      mark = null;
      fragment.append(node);
    }
  }
  return fragment;
}

const LETTER = /[\p{L}\p{N}]/u;
export const folded = (text) =>
  [...text].map((c) => c.normalize("NFD")[0].toLowerCase()).map((c) => (c.length === 1 ? c : "?")).join("");

export function termSpans(text, terms) {
  const spans = [];
  if (text.length !== [...text].length) return spans; // offsets would drift
  const low = folded(text);
  for (const term of terms) {
    const wanted = folded(term);
    if (!wanted) continue;
    for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, at + 1)) {
      const end = at + wanted.length;
      const isWord = !LETTER.test(low[at - 1] ?? " ") && /^(e?s)?([^\p{L}\p{N}]|$)/u.test(low.slice(end, end + 3));
      if (isWord) spans.push({ start: at, end, kind: "term" });
    }
  }
  return spans;
}

export function sentenceSpans(text, sentences) {
  return sentences
    .map((sentence) => ({ start: text.indexOf(sentence), length: sentence.length }))
    .filter((s) => s.start >= 0)
    .map((s) => ({ start: s.start, end: s.start + s.length, kind: "sentence" }));
}

export function findingLabel(finding) {
  const where = [finding.laterality, finding.location].filter(Boolean).join(" ");
  return where ? `${finding.name}, ${where}` : finding.name;
}

// Chips of a study: each finding once, affirmed ones first. A mention that also stands for a
// broader label comes twice over the same words; the first, its own name, is shown.
export function findingChips(findings, { absent = false } = {}) {
  const seen = new Set();
  const spans = new Set();
  const order = { present: 0, uncertain: 1, absent: 2 };
  return findings
    .filter((f) => {
      const span = `${f.start} ${f.end}`;
      return f.end === f.start || (!spans.has(span) && spans.add(span));
    })
    .sort((a, b) => order[a.status] - order[b.status])
    .filter((f) => absent || f.status !== "absent")
    .filter((f) => {
      const key = `${f.status} ${findingLabel(f)}`;
      return !seen.has(key) && seen.add(key);
    })
    .map((f) => {
      const sign = { present: "", uncertain: "? ", absent: "no " }[f.status];
      return make(`span.chip.${f.status}`, { title: `${f.status}${f.cui ? ` · ${f.cui}` : ""}` }, sign + findingLabel(f));
    });
}

export function facts(study) {
  return [
    study.sex === "F" ? "woman" : study.sex === "M" ? "man" : null,
    study.age !== null ? `${study.age} y` : null,
    study.body_part,
    study.study_date,
    study.manufacturer,
  ].filter(Boolean);
}

export const isChest = (study) => !study.body_part || /chest|thorax|tórax|torax|lung/i.test(study.body_part);
export const defaultWindow = (study) => (isChest(study) ? "lung" : "abdomen");
