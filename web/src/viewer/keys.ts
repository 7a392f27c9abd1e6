// The keyboard in the viewer. Nothing is taken from a field that is being typed in.

import type { Desk, Layout, Projection, Tool } from "./desk";
import { clamp, type Point } from "./geometry";
import { N_POINTS, type Kind } from "./measure";

const LAYOUT_KEYS: Record<string, Layout> = { a: "axial", c: "coronal", s: "sagittal", m: "all", v: "3d" };
const TOOL_OF: Record<string, Tool> = { w: "window", p: "pan", l: "length", n: "angle", o: "roi", r: "region" };
const STEPS: Record<string, number> = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
const ARROWS: Record<string, Point> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const NEXT: Record<Projection | "off", Projection | null> = { off: "mip", mip: "minip", minip: "mean", mean: null };

export function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || target.matches("input:not([type=range]), textarea, select");
}

// Returns whether the key meant something.
export function onKey(event: KeyboardEvent, desk: Desk, actions: { help(): void; close(): void }): boolean {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const { key } = event;
  const target = event.target;
  if (key === "Escape") {
    if (desk.draft.value || desk.cursor.value) {
      desk.draft.value = null;
      desk.cursor.value = null;
    } else if (desk.isPlaying.value) desk.isPlaying.value = false;
    else if (desk.tool.value !== "window") desk.setTool("window");
    else actions.close();
    return true;
  }
  if (isTyping(target)) return false;
  if (target instanceof HTMLInputElement && (key in STEPS || key === "Home" || key === "End")) return false; // a slider's own
  if (key === "?") {
    actions.help();
    return true;
  }
  const pane = desk.active.value;
  const plane = desk.planes.includes(desk.activePlane.value) ? desk.activePlane.value : desk.plane;
  const isFlat = desk.layout.value !== "3d";
  const letter = key.length === 1 ? key.toLowerCase() : "";
  const layout = LAYOUT_KEYS[letter];
  if (layout) {
    desk.setLayout(layout);
    return true;
  }
  if (letter === "y" && desk.beside.value) {
    desk.setSynced(!desk.isSynced.value);
    return true;
  }
  if (!isFlat) return false;
  const tool = TOOL_OF[letter];
  if (tool) {
    desk.setTool(tool);
    return true;
  }
  if (/^[1-9]$/.test(key)) {
    const name = Object.keys(desk.windows)[Number(key) - 1];
    if (name) desk.setWindow(name);
    return Boolean(name);
  }
  const isControl = target instanceof HTMLElement && target.matches("button, a, summary, [role=option], [role=menuitem]");
  const drawn = desk.tool.value;
  if (drawn !== "window" && drawn !== "pan" && target instanceof HTMLCanvasElement) {
    const now = desk.cursor.value;
    const at: Point = now && now.pane === pane && now.plane === plane ? now.at : [0.5, 0.5];
    const arrow = ARROWS[key];
    if (arrow) {
      const far = event.shiftKey ? 0.002 : 0.02;
      desk.cursor.value = { pane, plane, at: [clamp(at[0] + arrow[0] * far, 0, 1), clamp(at[1] + arrow[1] * far, 0, 1)] };
      return true;
    }
    if (key === "Enter" || key === " ") {
      if (!now) desk.cursor.value = { pane, plane, at };
      desk.addPoint(pane, plane, at, N_POINTS[drawn as Kind]);
      return true;
    }
  }
  if (drawn === "pan" && ARROWS[key] && target instanceof HTMLCanvasElement) {
    const look = pane.looks.value[plane];
    desk.setLook(pane, plane, { ...look, pan: [look.pan[0] + ARROWS[key][0] * 0.05, look.pan[1] + ARROWS[key][1] * 0.05] });
    return true;
  }
  const steps = STEPS[key];
  if (steps) desk.step(pane, plane, steps);
  else if (key === "Home") desk.move(pane, { [plane]: pane.study.planes[plane].n_slices - 1 });
  else if (key === "End") desk.move(pane, { [plane]: 0 });
  else if (key === "+" || key === "=") desk.zoom(pane, plane, 1.25);
  else if (key === "-") desk.zoom(pane, plane, 0.8);
  else if (key === "0") desk.reset(pane, plane);
  else if ((key === "Delete" || key === "Backspace") && desk.selected.value !== null) desk.remove(desk.selected.value);
  else if (key === " " && !isControl) desk.isPlaying.value = !desk.isPlaying.value;
  else if (letter === "t") desk.setProjection(NEXT[desk.projection.value ?? "off"]);
  else if (key === "[" || key === "]") desk.setSlabMm(desk.slabMm.value + (key === "]" ? 5 : -5));
  else if (letter === "h" && desk.panes.some((p) => p.heat.value)) desk.toggleHeat();
  else if (letter === "g") desk.goToMatch(pane.heat.value ? pane : desk.panes.find((p) => p.heat.value));
  else return false;
  return true;
}
