// Texts with marks in them, and what is said of a study in a line.

import type { ComponentChildren } from "preact";
import { language, named, t } from "./i18n";
import type { Finding, Status, Study, Why } from "./types";

export interface Span {
  start: number;
  end: number;
  kind: "sentence" | "term" | Status;
  title?: string;
}

// Python counts code points, JavaScript UTF-16 units: they part at the first emoji.
export function unitOffsets(text: string): (offset: number) => number {
  if (!/[\ud800-\udfff]/.test(text)) return (offset) => offset;
  const units: number[] = [];
  let at = 0;
  for (const letter of text) {
    units.push(at);
    at += letter.length;
  }
  units.push(at);
  return (offset) => units[Math.min(offset, units.length - 1)]!;
}

// A text cut at the spans' ends, each piece wrapped in what covers it; text only ever becomes text.
export function Marked({ text, spans }: { text: string; spans: Span[] }) {
  const cuts = new Set([0, text.length]);
  for (const span of spans) cuts.add(span.start).add(span.end);
  const order = [...cuts].filter((c) => c >= 0 && c <= text.length).sort((a, b) => a - b);
  const out: ComponentChildren[] = [];
  let marked: ComponentChildren[] | null = null;
  for (let i = 0; i + 1 < order.length; i++) {
    const [start, end] = [order[i]!, order[i + 1]!];
    const over = spans.filter((s) => s.start <= start && s.end >= end);
    const inner = over.filter((s) => s.kind !== "sentence");
    let piece: ComponentChildren = text.slice(start, end);
    if (inner.length) {
      const title = inner.map((s) => s.title).filter(Boolean).join(", ");
      piece = <span class={[...new Set(inner.map((s) => s.kind))].join(" ")} title={title || undefined}>{piece}</span>;
    }
    if (over.some((s) => s.kind === "sentence")) {
      if (!marked) out.push(<mark>{(marked = [])}</mark>);
      marked.push(piece);
    } else {
      marked = null;
      out.push(piece);
    }
  }
  return <>{out}</>;
}

const LETTER = /[\p{L}\p{N}]/u;

// Lower case without accents, letter by letter, so that offsets stay.
export const folded = (text: string): string =>
  [...text].map((c) => c.normalize("NFD")[0]!.toLowerCase()).map((c) => (c.length === 1 ? c : "?")).join("");

export function termSpans(text: string, terms: string[]): Span[] {
  const spans: Span[] = [];
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

export function sentenceSpans(text: string, sentences: string[]): Span[] {
  return sentences
    .map((sentence) => ({ start: text.indexOf(sentence), end: text.indexOf(sentence) + sentence.length, kind: "sentence" as const }))
    .filter((s) => s.start >= 0);
}

export function findingSpans(text: string, findings: Finding[]): Span[] {
  const unit = unitOffsets(text);
  return findings
    .filter((f) => f.end > f.start)
    .map((f) => ({ start: unit(f.start), end: unit(f.end), kind: f.status, title: `${t(`status.${f.status}`)}: ${findingLabel(f)}` }));
}

// A report with its findings underlined, and what made it a hit marked.
export function ReportText({ text, language: lang, findings, why }: { text: string; language: string; findings: Finding[]; why?: Why | null }) {
  const spans = findingSpans(text, findings);
  if (why) spans.push(...sentenceSpans(text, why.sentences), ...termSpans(text, why.terms));
  return (
    <p class="report" lang={lang}>
      <Marked text={text} spans={spans} />
    </p>
  );
}

export function findingLabel(finding: Finding): string {
  const where = [finding.laterality && named("laterality", finding.laterality), finding.location].filter(Boolean).join(" ");
  return where ? `${finding.name}, ${where}` : finding.name;
}

// Each finding once, affirmed ones first. A mention that also stands for a broader label comes twice
// over the same words; the first, its own name, is shown.
export function distinctFindings(findings: Finding[], hasAbsent = false): Finding[] {
  const seen = new Set<string>();
  const spans = new Set<string>();
  const order: Record<Status, number> = { present: 0, uncertain: 1, absent: 2 };
  const isNew = (set: Set<string>, key: string) => !set.has(key) && Boolean(set.add(key));
  return findings
    .filter((f) => f.end === f.start || isNew(spans, `${f.start} ${f.end}`))
    .sort((a, b) => order[a.status] - order[b.status])
    .filter((f) => hasAbsent || f.status !== "absent")
    .filter((f) => isNew(seen, `${f.status} ${findingLabel(f)}`));
}

export function chipText(finding: Finding): string {
  const sign = finding.status === "uncertain" ? "? " : finding.status === "absent" ? `${t("finding.no")} ` : "";
  return sign + findingLabel(finding);
}

export function facts(study: Study): string[] {
  return [
    study.sex === "F" ? t("sex.F") : study.sex === "M" ? t("sex.M") : null,
    study.age !== null ? t("age.years", { n: study.age }) : null,
    study.body_part,
    study.study_date,
    study.manufacturer,
  ].filter((fact): fact is string => Boolean(fact));
}

export const day = (iso: string): string => {
  const date = new Date(iso);
  return Number.isNaN(date.getTime()) ? iso : date.toLocaleDateString(language.value, { year: "numeric", month: "short", day: "numeric" });
};

const CHEST = /chest|thorax|tórax|torax|lung/i;
export const defaultWindow = (study: Study): string => (!study.body_part || CHEST.test(study.body_part) ? "lung" : "abdomen");
