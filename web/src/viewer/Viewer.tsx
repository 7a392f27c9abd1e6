// A study: its slices in three planes and in 3D, alone or beside another, its report and its findings.

import { untracked } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get } from "../api";
import { t } from "../i18n";
import { facts } from "../text";
import type { Place, Question, Region, ServiceStatus, Study, WindowPreset, Why } from "../types";
import { Desk, type Pane } from "./desk";
import { Help } from "./Help";
import { isTyping, onKey } from "./keys";
import { Side } from "./Side";
import { Solid, type Material } from "./Solid";
import { Stage } from "./Stage";
import { Tools } from "./Tools";
import "./viewer.css";

export interface ViewerProps {
  study: Study;
  compare: Study | null; // shown beside it, synchronised
  place: Place;
  question: Question | null; // for the heat map
  why: Why | null;
  onPlace(place: Place): void;
  onClose(): void;
  onSimilar(study: Study): void;
  onRegion(region: Region): void;
  onCompare(study: Study | null): void;
  actions?: ComponentChildren; // further buttons in its head
  isBare?: boolean; // pictures alone, inside a view that has its own head, report and letters
}

// Until the service has told its own.
const USUAL: Record<string, WindowPreset> = {
  lung: { level: -600, width: 1500 },
  mediastinum: { level: 40, width: 400 },
  bone: { level: 400, width: 1800 },
  abdomen: { level: 60, width: 360 },
  brain: { level: 40, width: 80 },
};

let windows: Promise<Record<string, WindowPreset>> | null = null;

function loadWindows(): Promise<Record<string, WindowPreset>> {
  windows ??= get<ServiceStatus>("/v1/status").then(
    (status) => status.windows,
    () => {
      windows = null;
      return USUAL;
    },
  );
  return windows;
}

export function Viewer(props: ViewerProps) {
  const [presets, setPresets] = useState<Record<string, WindowPreset> | null>(null);
  useEffect(() => {
    let isGone = false;
    void loadWindows().then((found) => isGone || setPresets(found));
    return () => void (isGone = true);
  }, []);
  if (!presets) return <div class="reading" aria-busy="true" />;
  return <Reading key={props.study.study_id} {...props} presets={presets} />;
}

const samePlace = (a: Place, b: Place): boolean => a.plane === b.plane && a.index === b.index && a.window === b.window;

function Reading({ presets, ...props }: ViewerProps & { presets: Record<string, WindowPreset> }) {
  const { study, compare, place, question, why, isBare = false } = props;
  const latest = useRef(props);
  latest.current = props;
  const told = useRef<Place[]>([place]); // what the viewer said last, which the address follows later
  const desk = useMemo(
    () =>
      untracked(
        () =>
          new Desk(study, presets, place, () => ({
            onPlace: (to) => {
              told.current = [...told.current.slice(-50), to];
              latest.current.onPlace(to);
            },
            onRegion: (region) => latest.current.onRegion(region),
          })),
      ),
    [],
  );
  const [isHelp, setHelp] = useState(false);
  const [material, setMaterial] = useState<Material>("surface");
  const [cut, setCut] = useState(0);
  const root = useRef<HTMLDivElement>(null);
  const title = useRef<HTMLHeadingElement>(null);

  useEffect(() => {
    if (!isBare) title.current?.focus({ preventScroll: true });
    return () => desk.close();
  }, []);
  useEffect(() => desk.compare(compare), [compare?.study_id]);
  const asked = JSON.stringify(question);
  useEffect(() => void desk.explain(question), [asked, compare?.study_id]);
  useEffect(() => {
    const own = told.current.findIndex((to) => samePlace(place, to));
    if (own >= 0) {
      told.current = told.current.slice(own + 1);
      return;
    }
    told.current = [];
    desk.go(place);
  }, [place.plane, place.index, place.window]);
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
      if (isTyping(event.target) && !root.current?.contains(event.target as Node)) return;
      if (isBare && (/^[a-z?/]$/i.test(event.key) || (event.key === "Escape" && !desk.isBusy))) return;
      if (onKey(event, desk, { help: () => setHelp(true), close: () => latest.current.onClose() })) event.preventDefault();
    };
    document.addEventListener("keydown", listen);
    return () => document.removeEventListener("keydown", listen);
  }, []);

  const views = (pane: Pane) =>
    desk.layout.value === "3d" ? <Solid key={pane.id} pane={pane} material={material} cut={cut} /> : desk.planes.map((plane) => <Stage key={`${pane.id} ${plane}`} desk={desk} pane={pane} plane={plane} />);
  const beside = desk.beside.value;
  return (
    <div class="reading" ref={root} data-bare={isBare ? "yes" : undefined} data-compare={beside ? "yes" : "no"}>
      {!isBare && (
        <header class="viewer-head">
          <div>
            <h2 tabIndex={-1} ref={title}>{study.study_id}</h2>
            <p class="facts">{facts(study).join(" · ")}</p>
          </div>
          <div class="actions">
            {props.actions}
            <button type="button" class="secondary" data-control="similar" onClick={() => props.onSimilar(study)}>{t("viewer.similar")}</button>
            <button type="button" class="quiet" data-control="help" aria-label={t("viewer.help")} title={`${t("viewer.help")} (?)`} onClick={() => setHelp(true)}>?</button>
            <button type="button" class="quiet" data-control="close" aria-label={t("viewer.close")} title={`${t("viewer.close")} (Esc)`} onClick={() => props.onClose()}>✕</button>
          </div>
        </header>
      )}
      <Tools desk={desk} isBare={isBare} material={material} cut={cut} onMaterial={setMaterial} onCut={setCut} />
      <div class="viewer-body">
        <div class="panes">
          {desk.panes.map((pane) => (
            <section key={pane.id} class={`pane ${pane === desk.active.value && beside ? "active" : ""}`} data-study={pane.id} aria-label={t("viewer.pictures", { study: pane.id })}>
              {beside && (
                <div class="pane-head">
                  <b>{pane.id}</b>
                  {pane === beside && (
                    <button type="button" class="quiet small" data-control="uncompare" aria-label={t("viewer.uncompare", { study: pane.id })} onClick={() => props.onCompare(null)}>✕</button>
                  )}
                </div>
              )}
              <div class="stages" data-layout={desk.layout.value === "all" ? "all" : "one"}>{views(pane)}</div>
            </section>
          ))}
        </div>
        {!isBare && <Side desk={desk} why={why} />}
      </div>
      <p class="visually-hidden" role="status" aria-live="polite">{desk.said.value}</p>
      {isHelp && <Help onClose={() => setHelp(false)} />}
    </div>
  );
}
