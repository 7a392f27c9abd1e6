// The search: filters, the box, what was found, and the study that is open beside it.

import { useState } from "preact/hooks";
import { pages, show, status, vocabulary } from "../state";
import { isAsked, isUploaded, NOTHING, question, type Ask } from "../ask";
import { count, t } from "../i18n";
import { Failed, Progress } from "../parts/messages";
import { ask, askFor, openStudy } from "../route";
import type { Sort } from "../types";
import { AskBox } from "./AskBox";
import { bestParts, Card, thumbs } from "./Card";
import { FacetsPane } from "./Facets";
import { SavedSearches, SaveSearch } from "./Saved";
import { busy, cancel, found, more, uploadName } from "./search";

const EXAMPLES = ["lung mass in a patient with cancer", "left pleural effusion without pneumothorax", "derrame pleural bilateral"];
const SORTS: Sort[] = ["score", "-date", "date", "age", "-age"];

export function SearchView() {
  const [hasFilters, setFilters] = useState(false);
  const now = found.value;
  const work = busy.value;
  const isStart = !isAsked(ask.value) && !now && !work;
  const n = Object.keys(ask.value.filters).length;
  return (
    <>
      <div class={`filters-wrap${hasFilters ? " shown" : ""}`}><FacetsPane onClose={() => setFilters(false)} /></div>
      <main id="main" aria-busy={work ? "true" : undefined}>
        <AskBox />
        <button class="quiet small only-narrow" type="button" aria-expanded={hasFilters} onClick={() => setFilters(!hasFilters)}>{t("facet.title")}{n ? ` (${n})` : ""}</button>
        {work && <Progress text={work.text} share={work.share} onCancel={cancel} />}
        <Failed />
        {isStart ? <Start /> : <Results />}
      </main>
    </>
  );
}

function Start() {
  const common = vocabulary.value.filter((f) => f.n_studies > 0).sort((a, b) => b.n_studies - a.n_studies).slice(0, 6);
  return (
    <section id="start" class="start" aria-label={t("start.label")}>
      <h2 class="start-title">{t("start.title")}</h2>
      <p>{t("start.text")}</p>
      <ul id="examples" class="examples" aria-label={t("start.examples")}>
        {EXAMPLES.map((text) => <li key={text}><button class="example" type="button" onClick={() => askFor({ base: { kind: "text", text } })}>“{text}”</button></li>)}
      </ul>
      <ul id="common" class="examples" aria-label={t("start.common")}>
        {common.map((f) => <li key={f.name}><button class="example" type="button" onClick={() => askFor({ keywords: [f.name] })}>+ {f.name} <span class="n">{f.n_studies}</span></button></li>)}
      </ul>
      {pages.value.collections && <SavedSearches />}
      <dl class="keys">
        {(["/", "J K", "↑ ↓", "A C S M", "1 … 5", "?"] as const).map((key) => (
          <div key={key}><dt>{key.split(" ").map((k) => <><kbd>{k}</kbd> </>)}</dt><dd>{t(`key.${key}`)}</dd></div>
        ))}
      </dl>
    </section>
  );
}

function Results() {
  const now = found.value;
  const isWaiting = busy.value !== null;
  const windows = Object.keys(status.value?.windows ?? {});
  const asked = ask.value;
  const best = bestParts(now?.hits ?? []);
  if (!now && !isWaiting) return null;
  return (
    <section id="found" aria-label={t("found.label")}>
      <div class="found-head">
        <h2 id="summary" tabIndex={-1} aria-live="polite">{now ? (now.hits.length ? count(now.next !== null ? "found.best" : "found", now.hits.length) : t("found.none")) : ""}</h2>
        <div class="found-tools">
          <label>{t("found.sort")} <select id="sort" value={asked.sort} onChange={(event) => askFor({ sort: event.currentTarget.value as Sort })}>{SORTS.map((sort) => <option key={sort} value={sort}>{t(`sort.${sort}`)}</option>)}</select></label>
          <label>{t("found.thumbs")} <select id="thumb-window" value={thumbs.value} onChange={(event) => { thumbs.value = event.currentTarget.value; }}>{["auto", ...windows].map((name) => <option key={name} value={name}>{name === "auto" ? t("found.auto") : name}</option>)}</select></label>
          {pages.value.collections && question(asked) && !(asked.base?.kind === "report" || (asked.base?.kind === "study" && isUploaded(asked.base.id))) && <SaveSearch />}
        </div>
      </div>
      <Asked asked={asked} isEmpty={now?.hits.length === 0} />
      <ol id="hits" class={`hits${isWaiting && now ? " stale" : ""}`}>
        {now ? now.hits.map((hit) => <Card key={hit.study_id} hit={hit} best={best} />) : [0, 1, 2, 3].map((i) => <Skeleton key={i} />)}
      </ol>
      {now && now.next !== null && <button id="more-hits" class="quiet" type="button" disabled={isWaiting} onClick={() => void more().catch(show)}>{t("found.more")}</button>}
    </section>
  );
}

function Skeleton() {
  return (
    <li class="card skeleton" aria-hidden="true">
      <div class="thumb" />
      <div class="lines"><span /><span /><span /></div>
    </li>
  );
}

// What is not in the box: whose patient is left out, what to do when nothing is found.
function Asked({ asked, isEmpty }: { asked: Ask; isEmpty: boolean }) {
  const { base } = asked;
  const parts = [];
  if (base?.kind === "study" && !isUploaded(base.id)) {
    parts.push(
      <p>
        {t(asked.hasSamePatient ? "found.same" : "found.similar", { id: base.id })}{" "}
        <button class="link" type="button" onClick={() => askFor({ hasSamePatient: !asked.hasSamePatient })}>{t(asked.hasSamePatient ? "found.same.hide" : "found.same.show")}</button>
      </p>,
    );
  } else if (base?.kind === "study") {
    parts.push(<p>{t("found.looks", { name: uploadName.value || t("ask.uploaded") })} <button class="link" type="button" onClick={() => openStudy(base.id)}>{t("found.look")}</button></p>);
  }
  if (isEmpty) {
    parts.push(
      <p>
        {t("found.none.hint")}{" "}
        {Object.keys(asked.filters).length > 0 && <button class="link" type="button" onClick={() => askFor({ filters: {} })}>{t("facet.clear")}</button>}
      </p>,
    );
  }
  const refined = asked.like.length + asked.unlike.length + asked.without.length;
  if (refined) parts.push(<p><button class="link" type="button" onClick={() => askFor({ ...NOTHING, base: asked.base, keywords: asked.keywords, filters: asked.filters })}>{t("refine.clear")}</button></p>);
  return <div id="asked" class="asked" hidden={!parts.length}>{parts}</div>;
}
