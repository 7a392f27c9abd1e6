// Filters, with how many studies each would leave.

import { useState } from "preact/hooks";
import { LISTS } from "../ask";
import { named, t, type Key } from "../i18n";
import { ask, askFor } from "../route";
import { folded } from "../text";
import type { Filters } from "../types";
import { facets } from "./search";

const SHOWN = 7;
const ORDER = ["findings", "laterality", "location", "body_part", "sex", "age", "year", "manufacturer", "slice_mm", "source", "split", "language"];
type ListKey = (typeof LISTS)[number];
type Counts = Record<string, number>;

const change = (filters: Filters): boolean => askFor({ filters });

function without(filters: Filters, key: keyof Filters): Filters {
  const { [key]: _, ...rest } = filters;
  return rest;
}

export function FacetsPane({ onClose }: { onClose?: () => void }) {
  const counted = facets.value;
  const { filters } = ask.value;
  const isOn = Object.keys(filters).length > 0;
  return (
    <aside id="filters" class="filters" aria-label={t("facet.title")}>
      <div class="filters-head">
        <h2>{t("facet.title")}</h2>
        {isOn && <button id="clear-filters" class="quiet small" type="button" onClick={() => change({})}>{t("facet.clear")}</button>}
        {onClose && <button class="icon only-narrow" type="button" aria-label={t("app.close")} onClick={onClose}>✕</button>}
      </div>
      {counted ? (
        <>
          <p class="count" role="status">
            {isOn ? t("facet.some", { n: counted.now.n_studies, all: counted.all.n_studies }) : t("facet.all", { n: counted.all.n_studies })}
          </p>
          {ORDER.filter((name) => name in counted.all.facets).map((name) => (
            <Facet key={name} name={name} all={counted.all.facets[name]!} now={counted.now.facets[name] ?? {}} />
          ))}
        </>
      ) : (
        <div class="facet-skeleton" aria-hidden="true">{[0, 1, 2, 3, 4, 5].map((i) => <span key={i} />)}</div>
      )}
    </aside>
  );
}

function Facet({ name, all, now }: { name: string; all: Counts; now: Counts }) {
  const values = Object.keys(all);
  if (name === "age") return values.length ? <Ages all={all} now={now} /> : null;
  if (name === "slice_mm") return values.length ? <Spacing all={all} now={now} /> : null;
  if (name === "year") return values.length ? <Dates all={all} now={now} /> : null;
  const isChosen = Boolean(ask.value.filters[name as ListKey]?.length);
  if (!values.length || (values.length < 2 && !isChosen && name !== "sex" && name !== "findings")) return null;
  return <Choice name={name as ListKey} all={all} now={now} />;
}

function Choice({ name, all, now }: { name: ListKey; all: Counts; now: Counts }) {
  const [word, setWord] = useState("");
  const [isLong, setLong] = useState(false);
  const chosen = ask.value.filters[name] ?? [];
  const absent = name === "findings" ? (ask.value.filters.findings_absent ?? []) : [];
  const entries = Object.entries(all).sort((a, b) =>
    Number(chosen.includes(b[0]) || absent.includes(b[0])) - Number(chosen.includes(a[0]) || absent.includes(a[0])) || b[1] - a[1] || a[0].localeCompare(b[0]));
  const matching = entries.filter(([value]) => folded(label(name, value)).includes(folded(word)));
  const shown = matching.slice(0, isLong ? 60 : SHOWN);
  const toggle = (key: ListKey, value: string, isOn: boolean) => {
    const { filters } = ask.value;
    const next = isOn ? [...(filters[key] ?? []), value] : (filters[key] ?? []).filter((v) => v !== value);
    change(next.length ? { ...filters, [key]: next } : without(filters, key));
  };
  return (
    <fieldset data-facet={name}>
      <legend>{t(`facet.${name}` as Key)}</legend>
      {entries.length > SHOWN + 2 && (
        <input class="find" type="search" value={word} placeholder={t("facet.find", { n: entries.length })} aria-label={t("facet.find.in", { name: t(`facet.${name}` as Key) })} onInput={(event) => setWord(event.currentTarget.value)} />
      )}
      <ul>
        {shown.map(([value]) => {
          const id = `f-${name}-${value.replace(/\W+/g, "-")}`;
          const n = now[value] ?? 0;
          const isAbsent = absent.includes(value);
          return (
            <li key={value} class={n || isAbsent ? undefined : "none"}>
              <input type="checkbox" id={id} checked={chosen.includes(value)} onChange={(event) => toggle(name, value, event.currentTarget.checked)} />
              <label for={id}>{label(name, value)}</label>
              {name === "findings" && (
                <button type="button" class="negate" aria-pressed={isAbsent} aria-label={t("facet.absent", { name: value })} title={t("facet.absent", { name: value })} onClick={() => toggle("findings_absent", value, !isAbsent)}>−</button>
              )}
              <span class="n">{n}</span>
            </li>
          );
        })}
      </ul>
      {matching.length > SHOWN && (
        <button class="link small-text" type="button" aria-expanded={isLong} onClick={() => setLong(!isLong)}>{isLong ? t("facet.fewer") : t("facet.more", { n: matching.length - SHOWN })}</button>
      )}
    </fieldset>
  );
}

const label = (name: string, value: string): string => named(name === "sex" ? "sex.many" : name, value);

type Bound = "age_min" | "age_max" | "slice_mm_min" | "slice_mm_max";

function Bounds({ low, high, unit, max, step, hints }: { low: Bound; high: Bound; unit: string; max: number; step: number | "any"; hints: [string, string] }) {
  const { filters } = ask.value;
  const input = (key: Bound, hint: string) => (
    <input id={`f-${key}`} type="number" min={0} max={max} step={step} value={filters[key] ?? ""} placeholder={hint} aria-label={t(`facet.${key}`)}
      onChange={(event) => {
        const { value } = event.currentTarget;
        if (event.currentTarget.checkValidity()) change(value === "" ? without(filters, key) : { ...filters, [key]: Number(value) });
      }} />
  );
  return <div class="range">{input(low, hints[0])}<span>{t("facet.to")}</span>{input(high, hints[1])}<span>{unit}</span></div>;
}

function Ages({ all, now }: { all: Counts; now: Counts }) {
  return (
    <fieldset data-facet="age">
      <legend>{t("facet.age")}</legend>
      <Bars all={all} now={now} step={10} unit={t("facet.years")} onPick={(from, to) => change({ ...ask.value.filters, age_min: from, age_max: to })} />
      <Bounds low="age_min" high="age_max" unit={t("facet.years")} max={150} step={1} hints={["0", "100"]} />
    </fieldset>
  );
}

// Ranges as the service counts them: "3-5" is above 3 mm, up to 5; "10-" is above 10.
function Spacing({ all, now }: { all: Counts; now: Counts }) {
  const { filters } = ask.value;
  const { slice_mm_min: min, slice_mm_max: max, ...rest } = filters;
  const groups = Object.keys(all).map((text) => {
    const [low, high] = text.split("-");
    return { text, low: Number(low), high: high ? Number(high) : undefined };
  });
  return (
    <fieldset data-facet="slice_mm">
      <legend>{t("facet.slice_mm")}</legend>
      <ul>
        {groups.sort((a, b) => a.low - b.low).map(({ text, low, high }) => {
          const isOn = min === (low || undefined) && max === high && (min !== undefined || max !== undefined);
          return (
            <li key={text} class={now[text] ? undefined : "none"}>
              <input type="checkbox" id={`f-slice_mm-${text}`} checked={isOn} onChange={() => change(isOn ? rest : { ...rest, ...(low ? { slice_mm_min: low } : {}), ...(high ? { slice_mm_max: high } : {}) })} />
              <label for={`f-slice_mm-${text}`}>{high === undefined ? `> ${low}` : `${low}–${high}`} mm</label>
              <span class="n">{now[text] ?? 0}</span>
            </li>
          );
        })}
      </ul>
      <Bounds low="slice_mm_min" high="slice_mm_max" unit="mm" max={100} step="any" hints={["0", "10"]} />
    </fieldset>
  );
}

function Dates({ all, now }: { all: Counts; now: Counts }) {
  const { filters } = ask.value;
  const set = (key: "date_from" | "date_to", value: string) => change(value ? { ...filters, [key]: value } : without(filters, key));
  return (
    <fieldset data-facet="year">
      <legend>{t("facet.year")}</legend>
      <Bars all={all} now={now} step={1} unit="" onPick={(from, to) => change({ ...filters, date_from: `${from}-01-01`, date_to: `${to}-12-31` })} />
      <div class="range dates">
        <input id="f-date_from" type="date" value={filters.date_from ?? ""} aria-label={t("facet.date_from")} onChange={(event) => set("date_from", event.currentTarget.value)} />
        <input id="f-date_to" type="date" value={filters.date_to ?? ""} aria-label={t("facet.date_to")} onChange={(event) => set("date_to", event.currentTarget.value)} />
      </div>
    </fieldset>
  );
}

// A histogram; a bar that is clicked becomes the range. The number fields say the same by keyboard.
function Bars({ all, now, step, unit, onPick }: { all: Counts; now: Counts; step: number; unit: string; onPick: (from: number, to: number) => void }) {
  const numbers = Object.keys(all).map(Number).filter(Number.isFinite);
  if (!numbers.length) return null;
  const bin = (value: number) => Math.floor(value / step);
  const first = Math.min(...numbers.map(bin));
  const last = Math.min(first + 29, Math.max(...numbers.map(bin)));
  const sums = (counts: Counts) => {
    const bins: number[] = Array(last - first + 1).fill(0);
    for (const [value, n] of Object.entries(counts)) {
      const at = Math.min(last, bin(Number(value))) - first;
      bins[at] = (bins[at] ?? 0) + n;
    }
    return bins;
  };
  const [whole, part] = [sums(all), sums(now)];
  const most = Math.max(...whole, 1);
  const tall = (n: number) => `${n ? 8 + (92 * n) / most : 2}%`;
  return (
    <div class="bars" aria-hidden="true">
      {whole.map((n, i) => {
        const from = (first + i) * step;
        const to = step === 1 ? from : from + step - 1;
        return (
          <span key={from} class="bar" title={`${from}${step === 1 ? "" : `–${to}`} ${unit}: ${part[i]}`} onClick={() => onPick(from, to)}>
            <i style={{ height: tall(n) }} />
            <b style={{ height: tall(part[i]!) }} />
          </span>
        );
      })}
    </div>
  );
}
