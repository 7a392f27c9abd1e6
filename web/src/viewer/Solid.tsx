// A study in 3D. What draws it is large, so it is loaded when it is first asked for.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Niivue } from "@niivue/niivue";
import { ask, Failure, isAbort, studyUrl } from "../api";
import { t, type Key } from "../i18n";
import type { Pane } from "./desk";

// HU from clear to opaque, and the colours between.
export const MATERIALS = {
  lungs: { colormap: "ct_airways", low: -950, high: -500 },
  surface: { colormap: "ct_surface", low: -600, high: 100 },
  soft: { colormap: "ct_soft_tissue", low: -200, high: 300 },
  bones: { colormap: "ct_bones", low: 110, high: 550 },
} as const;
export type Material = keyof typeof MATERIALS;

// Without a graphics card a frame takes seconds: pixels are coarse until one was drawn fast.
const COARSE = 0.5;
const FAST_MS = 25;

function frameMs(nv: Niivue): number {
  const start = performance.now();
  nv.drawScene();
  nv.gl.readPixels(0, 0, 1, 1, nv.gl.RGBA, nv.gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits for it
  return performance.now() - start;
}

const TURN = 6; // degrees a key press
const START = { azimuth: 160, elevation: 12 };

const hasWebGL2 = (): boolean => {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl2"));
  } catch {
    return false;
  }
};

export function Solid({ pane, material, cut }: { pane: Pane; material: Material; cut: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const nv = useRef<Niivue | null>(null);
  const turn = useRef({ ...START });
  const [state, setState] = useState<"loading" | "drawn" | "failed" | "no-webgl">("loading");
  const [failure, setFailure] = useState<Failure | null>(null);

  useEffect(() => {
    const abort = new AbortController();
    setState("loading");
    turn.current = { ...START };
    const start = async () => {
      if (!hasWebGL2()) return setState("no-webgl");
      const bytes = ask(studyUrl(pane.id, "/volume.nii.gz"), { signal: abort.signal }).then((response) => response.arrayBuffer());
      const [{ Niivue, SLICE_TYPE }, buffer] = await Promise.all([import("@niivue/niivue"), bytes]);
      if (abort.signal.aborted || !canvas.current) return;
      const made = new Niivue({
        backColor: [0, 0, 0, 1], clipPlaneColor: [0, 0, 0, 0], show3Dcrosshair: false, isOrientCube: true, dragAndDropEnabled: false, loadingText: "",
        forceDevicePixelRatio: COARSE, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", logLevel: "error", isColorbar: false, sliceType: SLICE_TYPE.RENDER,
      });
      nv.current = made;
      await made.attachToCanvas(canvas.current);
      await made.loadFromArrayBuffer(buffer, "volume.nii.gz");
      await made.setVolumeRenderIllumination(0.5);
      if (abort.signal.aborted) return;
      if (frameMs(made) < FAST_MS) made.setHighResolutionCapable(0); // as fine as the screen
      setState("drawn");
    };
    start().catch((error: unknown) => {
      if (isAbort(error) || abort.signal.aborted) return;
      setFailure(error instanceof Failure ? error : new Failure(t("viewer.solid.failed"), t("error.again")));
      setState("failed");
    });
    return () => {
      abort.abort();
      const made = nv.current;
      nv.current = null;
      if (!made) return;
      made.cleanup();
      made.gl?.getExtension("WEBGL_lose_context")?.loseContext(); // browsers hold but a few
    };
  }, [pane]);

  useEffect(() => {
    const [made, volume] = [nv.current, nv.current?.volumes[0]];
    if (state !== "drawn" || !made || !volume) return;
    const { colormap, low, high } = MATERIALS[material];
    volume.cal_min = low;
    volume.cal_max = high;
    made.setColormap(volume.id, colormap);
    made.setRenderAzimuthElevation(turn.current.azimuth, turn.current.elevation);
  }, [state, material]);

  useEffect(() => {
    // Beyond 1.8 the plane lies outside of the volume. It cuts from the front.
    if (state === "drawn") nv.current?.setClipPlane([cut > 0 ? 0.55 - cut * 0.9 : 2, 180, 0]);
  }, [state, cut]);

  const onKey = (event: KeyboardEvent) => {
    const made = nv.current;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!made || !steps) return;
    event.preventDefault();
    event.stopPropagation();
    turn.current.azimuth = made.scene.renderAzimuth + steps[0]! * TURN;
    turn.current.elevation = Math.max(-90, Math.min(90, made.scene.renderElevation + steps[1]! * TURN));
    made.setRenderAzimuthElevation(turn.current.azimuth, turn.current.elevation);
  };

  return (
    <div class="view" data-plane="3d">
      <div class="stage" data-plane="3d" data-study={pane.id} data-state={state === "no-webgl" ? "failed" : state} aria-busy={state === "loading"}>
        <canvas key={pane.id} tabIndex={0} role="img" ref={canvas} aria-label={t("viewer.solid", { study: pane.id, material: t(`viewer.material.${material}`) })} onKeyDown={onKey} />
        <span class="number">3D<span class="waits"> · {t("viewer.loading")}</span></span>
        {state === "no-webgl" && (
          <p class="failed" role="alert">
            {t("viewer.solid.none")}
            <br />
            {t("viewer.solid.none.hint")}
          </p>
        )}
        {state === "failed" && failure && (
          <p class="failed" role="alert">
            {failure.message}
            <br />
            {failure.hint}
          </p>
        )}
      </div>
    </div>
  );
}

export const materialKey = (material: Material): Key => `viewer.material.${material}`;
