// One plane of one study: its canvas, what is written over it, and its slider.

import { useEffect, useRef } from "preact/hooks";
import { t, type Key } from "../i18n";
import type { PlaneName } from "../types";
import type { Desk, Pane } from "./desk";
import { Picture } from "./picture";

export function Stage({ desk, pane, plane }: { desk: Desk; pane: Pane; plane: PlaneName }) {
  const stage = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const picture = new Picture(desk, pane, plane, canvas.current!, stage.current!);
    return () => picture.close();
  }, [desk, pane, plane]);

  const geometry = pane.study.planes[plane];
  const index = pane.spot.value[plane];
  const { level, width } = pane.grey.value;
  const failure = pane.slices[plane].failure.value;
  const probe = pane.probe.value?.plane === plane ? pane.probe.value.hu : null;
  const name = t(`viewer.plane.${plane}`);
  const nth = t("viewer.nth", { index: index + 1, n: geometry.n_slices });
  return (
    <div class="view" data-plane={plane}>
      <div class="stage" data-plane={plane} data-study={pane.id} data-tool={desk.tool.value} ref={stage}>
        <canvas tabIndex={0} role="img" data-plane={plane} ref={canvas} aria-label={t("viewer.canvas", { plane: name, index: index + 1, n: geometry.n_slices, study: pane.id })} />
        <span class="edge at-left" aria-hidden="true">{t(`viewer.edge.${geometry.left}` as Key)}</span>
        <span class="edge at-right" aria-hidden="true">{t(`viewer.edge.${geometry.right}` as Key)}</span>
        <span class="edge at-top" aria-hidden="true">{t(`viewer.edge.${geometry.top}` as Key)}</span>
        <span class="edge at-bottom" aria-hidden="true">{t(`viewer.edge.${geometry.bottom}` as Key)}</span>
        <span class="number">{`${name} ${nth}`}<span class="waits"> · {t("viewer.loading")}</span></span>
        <span class="grey">
          {`L ${Math.round(level)}  W ${Math.round(width)}`}
          {desk.projection.value && <span class="slab">{`${t(`viewer.slab.${desk.projection.value}`)} ${desk.slabMm.value} mm`}</span>}
          {probe !== null && <span class="probe">{`${probe} HU`}</span>}
        </span>
        <span class="bar" title="50 mm">50 mm</span>
        {failure && (
          <p class="failed" role="alert">
            {failure.message}
            <br />
            {failure.hint}
          </p>
        )}
      </div>
      <input
        class="slider" type="range" min={0} max={geometry.n_slices - 1} step={1} value={index}
        aria-label={t("viewer.slider", { plane: name })} aria-valuetext={nth}
        onInput={(event) => desk.move(pane, { [plane]: Number(event.currentTarget.value) })}
      />
    </div>
  );
}
