// A hit: the slice the answer points at, what is known, what its report says, and why it is here.

import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { sliceUrl } from "../api";
import { named, t, type Key } from "../i18n";
import { Menu, type Item } from "../parts/Menu";
import { collecting } from "../collections/AddTo";
import { ask, askFor, go, openStudy, route } from "../route";
import { chipText, defaultWindow, distinctFindings, facts, folded, Marked, ReportText, termSpans } from "../text";
import type { Explanation, Finding, Hit, Study } from "../types";
import { canCollect, currentQuestion, explanationOf } from "./search";

export const thumbs = signal("auto"); // window of the key slices

const CHIPS = 7;

export function Card({ hit, best }: { hit: Hit; best: Record<string, number> }) {
  const { study } = hit;
  const isOpen = route.value.study === hit.study_id;
  const chips = distinctFindings(study.findings);
  const ref = useRef<HTMLLIElement>(null);
  const [where, setWhere] = useState<Explanation | null>(null);
  useEffect(() => {
    if (isOpen) ref.current?.scrollIntoView({ block: "nearest" });
  }, [isOpen]);
  const open = () => (where ? go({ study: study.study_id, compare: null, place: { plane: "axial", index: where.slices.axial } }) : openStudy(study.study_id));
  return (
    <li ref={ref} class={`card${isOpen ? " open" : ""}`} data-study={study.study_id} aria-current={isOpen || undefined}>
      <KeySlice study={study} onOpen={open} onWhere={setWhere} />
      <div class="card-body">
        <div class="card-head">
          <span class="rank" aria-hidden="true">{hit.rank}</span>
          <h3><button class="title" type="button" onClick={open}>{study.study_id}</button></h3>
          <p class="facts">{facts(study).join(" · ")}</p>
          <span class="score" title={t("card.score.note")}><span class="visually-hidden">{t("card.score")} </span>{hit.score.toFixed(3)}</span>
        </div>
        {chips.length > 0 && (
          <ul class="chips" aria-label={t("card.findings")}>
            {chips.slice(0, CHIPS).map((f) => <li key={chipText(f)}><FindingChip finding={f} /></li>)}
            {chips.length > CHIPS && <li class="muted small-text">+ {chips.length - CHIPS}</li>}
          </ul>
        )}
        {study.report && <Excerpt hit={hit} />}
        <p class="why small-text">{whyText(hit, best, where)}</p>
        <div class="card-foot">
          <Parts hit={hit} best={best} />
          <Actions study={study} />
        </div>
      </div>
    </li>
  );
}

function Actions({ study }: { study: Study }) {
  const { study_id: id } = study;
  const { like, unlike, base } = ask.value;
  const refine: Item[] = [
    { label: t("refine.like"), isOn: like.includes(id), act: () => askFor({ like: [...new Set([...like, id])], unlike: unlike.filter((u) => u !== id) }) },
    { label: t("refine.unlike"), isOn: unlike.includes(id), act: () => askFor({ unlike: [...new Set([...unlike, id])], like: like.filter((l) => l !== id) }) },
  ];
  const query = base?.kind === "study" ? base.id : base?.kind === "region" ? base.region.study_id : null;
  if (query && query !== id) refine.push({ label: t("card.compare.query"), act: () => go({ study: id, compare: query, place: {} }) });
  const open = route.value.study;
  if (open && open !== id) refine.push({ label: t("card.compare", { id: open }), act: () => go({ compare: id }) });
  if (canCollect()) refine.push({ label: t("collect.add"), act: () => { collecting.value = [id]; } });
  return (
    <div class="card-actions">
      <button class="quiet small similar" type="button" aria-label={t("card.similar.of", { id })} onClick={() => moreLike(id)}>{t("card.similar")}</button>
      <Menu label={t("card.more", { id })} items={refine}>⋯</Menu>
    </div>
  );
}

// A new question, under the filters that are set.
export function moreLike(id: string): void {
  askFor({ base: { kind: "study", id }, keywords: [], without: [], like: [], unlike: [], sort: "score", hasSamePatient: false });
}

function FindingChip({ finding }: { finding: Finding }) {
  const { keywords, without, base } = ask.value;
  const { name } = finding;
  const own = base ?? null;
  return (
    <Menu class={`chip ${finding.status}`} label={t("card.finding", { name: chipText(finding) })} items={[
      { label: t("refine.with", { name }), isOn: keywords.includes(name), act: () => askFor({ base: own, keywords: [...new Set([...keywords, name])], without: without.filter((w) => w !== name) }) },
      { label: t("refine.without", { name }), isOn: without.includes(name), act: () => askFor({ without: [...new Set([...without, name])], keywords: keywords.filter((k) => k !== name) }) },
    ]}>{chipText(finding)}</Menu>
  );
}

// The slice that the answer points at, once it is told; until then the one that shows most.
function KeySlice({ study, onOpen, onWhere }: { study: Study; onOpen: () => void; onWhere: (where: Explanation) => void }) {
  const [where, setWhere] = useState<Explanation | null>(null);
  const [isGone, setGone] = useState(false);
  const ref = useRef<HTMLButtonElement>(null);
  const asked = currentQuestion();
  const askedText = JSON.stringify(asked);
  useEffect(() => {
    setWhere(null);
    if (!asked) return;
    let isHere = true;
    // Asked for when the card comes into sight: an explanation costs the service some work.
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((e) => e.isIntersecting)) return;
      observer.disconnect();
      void explanationOf(study.study_id, asked).then((found) => {
        if (!isHere || !found) return;
        setWhere(found);
        onWhere(found);
      });
    });
    observer.observe(ref.current!);
    return () => {
      isHere = false;
      observer.disconnect();
    };
  }, [study.study_id, askedText]);
  const plane = study.planes.axial;
  const window = thumbs.value === "auto" ? defaultWindow(study) : thumbs.value;
  const src = sliceUrl(study.study_id, "axial", where ? where.slices.axial : "key", `window=${window}`);
  const [d, h, w] = study.shape;
  const peak = where?.peak;
  const isFlat = !d || !plane;
  return (
    <button ref={ref} class="thumb" type="button" tabIndex={-1} aria-label={t("card.open", { id: study.study_id })} onClick={onOpen} data-explained={where ? "" : undefined}>
      {isGone ? <span class="no-image">{t("card.no-ct")}</span> : (
        <span class="thumb-in" style={isFlat ? undefined : { aspectRatio: `${plane.width} / ${plane.height}` }}>
          <img src={src} alt={where ? t("card.slice.at", { id: study.study_id, n: where.slices.axial + 1 }) : t("card.slice", { id: study.study_id })} loading="lazy" decoding="async" onError={() => setGone(true)} />
          {peak && <i class="peak" aria-hidden="true" style={{ left: `${100 * (1 - (peak[2] + 0.5) / w)}%`, top: `${100 * (1 - (peak[1] + 0.5) / h)}%` }} />}
        </span>
      )}
      {where && !isGone && <span class="thumb-note">{t("card.at", { n: where.slices.axial + 1 })}</span>}
    </button>
  );
}

function Excerpt({ hit }: { hit: Hit }) {
  const [isOpen, setOpen] = useState(false);
  const { text, language } = hit.study.report!;
  const { sentences, terms } = hit.why;
  // In the order of the report, which is the order in which one reads.
  const ordered = [...sentences].sort((a, b) => text.indexOf(a) - text.indexOf(b));
  return (
    <div class="card-report">
      <p class="excerpt" lang={language}>
        {ordered.length ? ordered.map((sentence, i) => (
          <>{i > 0 && <span class="gap"> … </span>}<mark><Marked text={sentence} spans={termSpans(sentence, terms)} /></mark></>
        )) : text.length > 220 ? `${text.slice(0, 220)} …` : text}
      </p>
      {(text.length > 220 || sentences.length > 0) && (
        <details onToggle={(event) => setOpen(event.currentTarget.open)}>
          <summary>{t("card.report")}</summary>
          {isOpen && <ReportText text={text} language={language} findings={hit.study.findings} why={hit.why} />}
        </details>
      )}
    </div>
  );
}

export function bestParts(hits: Hit[]): Record<string, number> {
  const best: Record<string, number> = {};
  for (const hit of hits) for (const [part, value] of Object.entries(hit.why.parts)) best[part] = Math.max(best[part] ?? -Infinity, value);
  return best;
}

export function Parts({ hit, best }: { hit: Hit; best: Record<string, number> }) {
  return (
    <ul class="parts" aria-label={t("card.parts")}>
      {Object.entries(hit.why.parts).map(([part, value]) => {
        const share = best[part]! > 0 ? Math.max(0, value / best[part]!) : 0;
        const name = named("part", part);
        return (
          <li key={part} data-part={part}>
            <span>{name}</span>
            <meter min={0} max={1} value={share} aria-label={t("card.part", { name, share: Math.round(100 * share) })} />
            <span class="value">{value.toFixed(2)}</span>
          </li>
        );
      })}
    </ul>
  );
}

// Why, in a sentence: what it is near by, the words it shares, where it shows.
export function whyText(hit: Hit, best: Record<string, number>, where: Explanation | null): string {
  const strong = Object.entries(hit.why.parts)
    .filter(([part, value]) => value > 0 && value >= 0.75 * best[part]!)
    .map(([part]) => t(`why.${part}` as Key in WHY ? (`why.${part}` as Key) : "why.other"));
  const parts: string[] = [];
  if (strong.length) parts.push(t("why.near", { parts: [...new Set(strong)].join(t("why.and")) }));
  // A phrase says its words.
  const all = hit.why.terms;
  const terms = all.filter((term) => !all.some((o) => o !== term && ` ${folded(o)} `.includes(` ${folded(term)} `))).slice(0, 5);
  if (terms.length) parts.push(t("why.terms", { terms: terms.join(", ") }));
  if (where) parts.push(t("why.slice", { n: where.slices.axial + 1 }));
  return parts.join(" ");
}

const WHY: Partial<Record<Key, true>> = { "why.bm25": true, "why.report": true, "why.volume": true, "why.joint": true, "why.findings": true };
