// The study that the address names, in the viewer.

import { useEffect, useRef, useState } from "preact/hooks";
import { Failure, isAbort } from "./api";
import { show } from "./state";
import { collecting } from "./collections/AddTo";
import { t } from "./i18n";
import { askFor, closeStudy, go, goPlace, route } from "./route";
import { moreLike } from "./search/Card";
import { canCollect, currentQuestion, explanationOf, found, studyOf } from "./search/search";
import type { Place, Study } from "./types";
import { Viewer } from "./viewer/Viewer";

export function ViewerPane({ id }: { id: string }) {
  const { compare: compareId, place, view } = route.value;
  const [study, setStudy] = useState<Study | null>(null);
  const [compare, setCompare] = useState<Study | null>(null);
  const [start, setStart] = useState<Place | null>(null);
  const pane = useRef<HTMLElement>(null);
  const asked = view === "search" ? currentQuestion() : null;
  useEffect(() => {
    let isHere = true;
    const load = async () => {
      try {
        const now = await studyOf(id);
        // An address that names no slice begins at the one that the answer points at.
        let first: Partial<Place> = route.value.place;
        if (first.index === undefined && asked) {
          const where = await Promise.race([explanationOf(id, asked), new Promise<null>((resolve) => setTimeout(() => resolve(null), 1500))]);
          const plane = first.plane === "coronal" || first.plane === "sagittal" ? first.plane : "axial";
          if (where && first.plane !== "3d") first = { ...first, index: where.slices[plane] };
        }
        if (!isHere) return;
        setStart({ plane: "axial", ...first });
        setStudy(now);
      } catch (error) {
        if (!isHere || isAbort(error)) return;
        show(error);
        if (error instanceof Failure) go({ study: null, compare: null, place: {} }, "replace");
      }
    };
    void load();
    const before = document.activeElement;
    return () => {
      isHere = false;
      // The focus goes back to the card that opened the study.
      const title = document.querySelector<HTMLElement>(`[data-study="${CSS.escape(id)}"] .title`);
      if (before !== document.body || !document.activeElement || document.activeElement === document.body) title?.focus({ preventScroll: true });
    };
  }, [id]);
  useEffect(() => {
    if (!compareId) return setCompare(null);
    let isHere = true;
    studyOf(compareId).then((now) => isHere && setCompare(now), (error) => { show(error); go({ compare: null }, "replace"); });
    return () => {
      isHere = false;
    };
  }, [compareId]);
  useEffect(() => {
    if (study) pane.current?.querySelector<HTMLElement>("h2")?.focus({ preventScroll: true });
  }, [study]);
  const hit = found.value?.hits.find((h) => h.study_id === id);
  return (
    <section id="viewer" ref={pane} class="viewer" aria-label={t("app.study", { id })} aria-busy={study ? undefined : "true"}>
      {study && start && (
        <Viewer
          study={study} compare={compare} place={place.index === undefined && place.plane !== "3d" ? start : { plane: "axial", ...place }} question={asked} why={hit?.why ?? null}
          onPlace={goPlace} onClose={closeStudy} onSimilar={(s) => moreLike(s.study_id)}
          onRegion={(region) => askFor({ base: { kind: "region", region }, keywords: [], without: [], like: [], unlike: [], sort: "score" })}
          onCompare={(other) => go({ compare: other?.study_id ?? null })}
          actions={canCollect() && <button class="quiet" type="button" id="collect" onClick={() => { collecting.value = [id]; }}>{t("collect.add")}</button>}
        />
      )}
    </section>
  );
}
