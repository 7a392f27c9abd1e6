// What lies beside the pictures: reports with their findings, what was measured, how it was scanned.

import { useState } from "preact/hooks";
import { language, named, t, type Key } from "../i18n";
import { chipText, distinctFindings, facts, ReportText } from "../text";
import type { Study, Why } from "../types";
import type { Desk, Pane } from "./desk";
import type { Measure } from "./measure";

function Findings({ study }: { study: Study }) {
  const found = distinctFindings(study.findings, true);
  if (!found.length) return null;
  return (
    <ul class="chips" aria-label={t("viewer.findings")}>
      {found.map((finding) => (
        <li key={chipText(finding)} class={`chip ${finding.status}`} title={finding.cui ?? undefined}>
          {chipText(finding)}
        </li>
      ))}
    </ul>
  );
}

function ReportOf({ study, why }: { study: Study; why: Why | null }) {
  const { report, translation } = study;
  // The report in the reader's language, where there is one.
  const [chosen, setChosen] = useState<"original" | "translation" | null>(null);
  if (!report) return <p class="muted">{t("viewer.report.none")}</p>;
  const shows = chosen ?? (translation && language.value === "en" && report.language !== "en" ? "translation" : "original");
  return (
    <>
      <h3>
        {t("viewer.report")}
        {why !== null && why.sentences.length > 0 && <span class="legend">{t("viewer.report.marked")}</span>}
        {translation && (
          <span class="group" role="group" aria-label={t("viewer.report.language")}>
            <button type="button" data-report="original" aria-pressed={shows === "original"} onClick={() => setChosen("original")}>
              {t(`viewer.language.${report.language}`)}
            </button>
            <button type="button" data-report="translation" aria-pressed={shows === "translation"} onClick={() => setChosen("translation")}>
              {t("viewer.report.translation")}
            </button>
          </span>
        )}
      </h3>
      {shows === "translation" && translation ? (
        <ReportText text={translation} language="en" findings={[]} why={why} />
      ) : (
        <ReportText text={report.text} language={report.language} findings={study.findings} why={why} />
      )}
    </>
  );
}

function Parts({ why }: { why: Why }) {
  const parts = Object.entries(why.parts);
  if (!parts.length) return null;
  return (
    <>
      <h3>{t("viewer.why")}</h3>
      <ul class="parts">
        {parts.map(([name, value]) => (
          <li key={name}>
            <span>{named("part", name)}</span> <span class="value">{value.toFixed(2)}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

function Acquisition({ study }: { study: Study }) {
  const rows: [Key, string][] = [
    ["viewer.scan.voxels", study.shape.join(" × ")],
    ["viewer.scan.spacing", `${study.spacing_mm.map((v) => v.toFixed(2)).join(" × ")} mm`],
    ["viewer.scan.size", `${study.shape.map((n, i) => Math.round((n * study.spacing_mm[i]!) / 10)).join(" × ")} cm`],
  ];
  if (study.manufacturer) rows.push(["viewer.scan.scanner", study.manufacturer]);
  if (study.source) rows.push(["viewer.scan.source", study.source]);
  if (study.split) rows.push(["viewer.scan.split", study.split]);
  return (
    <>
      <h3>{t("viewer.scan")}</h3>
      <dl class="scan">
        {rows.map(([key, value]) => (
          <div key={key}>
            <dt>{t(key)}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

function Measures({ desk }: { desk: Desk }) {
  const measures = desk.measures.value;
  if (!measures.length) return null;
  const goTo = (measure: Measure) => {
    const pane = desk.panes.find((p) => p.id === measure.study_id);
    if (!pane) return;
    desk.selected.value = measure.id;
    if (!desk.planes.includes(measure.plane)) desk.setLayout(measure.plane);
    desk.move(pane, { [measure.plane]: measure.index });
  };
  return (
    <section class="measures" aria-label={t("viewer.measures")}>
      <h3>{t("viewer.measures")}</h3>
      <ul>
        {measures.map((measure) => (
          <li key={measure.id} data-measure={measure.kind} class={measure.id === desk.selected.value ? "chosen" : ""}>
            <button type="button" class="quiet small go" onClick={() => goTo(measure)} onFocus={() => (desk.selected.value = measure.id)}>
              <b>{desk.label(measure)}</b>
              <span class="muted">{`${t(`viewer.tool.${measure.kind}`)} · `}{`${desk.beside.value ? `${measure.study_id} · ` : ""}${t(`viewer.plane.${measure.plane}`)} ${measure.index + 1}`}</span>
            </button>
            <button type="button" class="quiet small" aria-label={t("viewer.measures.remove", { what: desk.label(measure) })} onClick={() => desk.remove(measure.id)}>
              ✕
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function About({ pane, why }: { pane: Pane; why: Why | null }) {
  return (
    <>
      <Findings study={pane.study} />
      <ReportOf key={pane.id} study={pane.study} why={why} />
      {why && <Parts why={why} />}
      <Acquisition study={pane.study} />
    </>
  );
}

export function Side({ desk, why }: { desk: Desk; why: Why | null }) {
  const beside = desk.beside.value;
  return (
    <div class="report-pane" tabIndex={0} role="region" aria-label={t("viewer.side")}>
      <Measures desk={desk} />
      {beside ? (
        [desk.main, beside].map((pane) => (
          <section key={pane.id} class="about" aria-label={t("viewer.about", { study: pane.id })} data-study={pane.id}>
            <h3 class="whose">{pane.id}</h3>
            <p class="facts">{facts(pane.study).join(" · ")}</p>
            <About pane={pane} why={pane === desk.main ? why : null} />
          </section>
        ))
      ) : (
        <About pane={desk.main} why={why} />
      )}
    </div>
  );
}
