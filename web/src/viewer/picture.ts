// One plane of one study on one canvas: what is drawn, and what the pointer does there.

import { effect, signal } from "@preact/signals";
import type { PlaneName } from "../types";
import type { Desk, Pane } from "./desk";
import { clamp, crossing, extent, through, type Point } from "./geometry";
import { heatPicture } from "./heat";
import { distance, huAt, N_POINTS, type HuSlice, type Measure } from "./measure";

const INK = "#ffd166";
const CHOSEN = "#5eead4";

interface Frame {
  left: number;
  top: number;
  width: number;
  height: number;
}

export class Picture {
  private readonly stops: (() => void)[] = [];
  private grabbed: { x: number; y: number; button: number; moved: boolean; level: number; width: number; pan: Point; isPan: boolean; began: boolean } | null = null;
  private hover: Point | null = null;
  private wheeled = 0;
  private later = 0;
  private resting = 0;
  private readonly size = signal(0); // grows with each change of the stage's size
  private heatKey: unknown[] = [];
  private heat: ReturnType<typeof heatPicture> = null;
  private readonly touches = new Map<number, Point>();
  private pinch = 0;

  constructor(
    private readonly desk: Desk,
    private readonly pane: Pane,
    private readonly plane: PlaneName,
    private readonly canvas: HTMLCanvasElement,
    private readonly stage: HTMLElement,
  ) {
    const observer = new ResizeObserver(() => (this.size.value += 1));
    observer.observe(stage);
    const on = <K extends keyof HTMLElementEventMap>(type: K, act: (event: HTMLElementEventMap[K]) => void, options?: AddEventListenerOptions) => {
      canvas.addEventListener(type, act, options);
      this.stops.push(() => canvas.removeEventListener(type, act, options));
    };
    on("wheel", (event) => this.wheel(event), { passive: false });
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.moved(event));
    on("pointerup", (event) => this.up(event));
    on("pointercancel", () => this.cancel());
    on("pointerleave", () => this.leave());
    on("dblclick", () => desk.tool.value === "window" && desk.reset(pane, plane));
    on("focus", () => this.activate());
    this.stops.push(
      () => observer.disconnect(),
      effect(() => this.fetch()),
      effect(() => this.draw()),
    );
  }

  close(): void {
    clearTimeout(this.later);
    clearTimeout(this.resting);
    for (const stop of this.stops) stop();
  }

  private get index(): number {
    return this.pane.spot.value[this.plane];
  }

  private get query(): string {
    const { name, level, width } = this.pane.grey.value;
    const window = name ? `window=${name}` : `level=${level}&width=${width}`;
    const slab = this.desk.slabQuery.value;
    return slab ? `${window}&${slab}` : window;
  }

  // While a window is dragged, voxels that are here already are drawn with it, and the service is
  // asked for pictures only once the hand rests.
  private fetch(): void {
    const { index, query } = this;
    clearTimeout(this.later);
    const slices = this.pane.slices[this.plane];
    const has = this.pane.hu.get(this.plane, index, this.desk.slabQuery.value);
    if (this.grabbed?.moved && has) this.later = window.setTimeout(() => slices.show(index, query), 150);
    else slices.show(index, query);
  }

  // Where the slice lies on the stage, in CSS pixels.
  private frame(): Frame {
    const { clientWidth: w, clientHeight: h } = this.stage;
    const [wide, high] = extent(this.pane.study, this.plane);
    const { zoom, pan } = this.pane.looks.value[this.plane];
    const scale = Math.min(w / wide, h / high) * zoom;
    const [width, height] = [wide * scale, high * scale];
    return { width, height, left: (w - width) / 2 + pan[0] * w, top: (h - height) / 2 + pan[1] * h };
  }

  private at(event: MouseEvent): Point {
    const box = this.canvas.getBoundingClientRect();
    const f = this.frame();
    return [(event.clientX - box.left - f.left) / f.width, (event.clientY - box.top - f.top) / f.height];
  }

  // ---- pointer

  private activate(): void {
    this.desk.active.value = this.pane;
    this.desk.activePlane.value = this.plane;
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    if (event.ctrlKey) {
      const box = this.canvas.getBoundingClientRect();
      const about: Point = [(event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5];
      this.desk.zoom(this.pane, this.plane, event.deltaY < 0 ? 1.15 : 1 / 1.15, about);
      return;
    }
    this.wheeled += event.deltaMode === 0 ? event.deltaY : event.deltaY * 40;
    const steps = Math.trunc(this.wheeled / 40);
    if (!steps) return;
    this.wheeled -= steps * 40;
    this.desk.step(this.pane, this.plane, -clamp(steps, -3, 3));
  }

  private down(event: PointerEvent): void {
    if (event.button > 1) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.activate();
    this.touches.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.touches.size === 2) {
      this.pinch = this.spread();
      this.grabbed = null;
      this.desk.draft.value = null;
      return;
    }
    const { level, width } = this.pane.grey.value;
    const { pan } = this.pane.looks.value[this.plane];
    const tool = this.desk.tool.value;
    const isPan = tool === "pan" || event.shiftKey || event.button === 1;
    this.grabbed = { x: event.clientX, y: event.clientY, button: event.button, moved: false, level, width, pan, isPan, began: false };
    if (isPan) return;
    if (tool === "window") void this.pane.hu.load(this.plane, this.index, this.desk.slabQuery.value);
    else if (!this.drafted) {
      this.grabbed.began = true;
      this.desk.addPoint(this.pane, this.plane, this.at(event), N_POINTS[tool as Measure["kind"]]);
    }
  }

  private spread(): number {
    const [a, b] = [...this.touches.values()] as [Point, Point];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  }

  private get drafted(): boolean {
    const draft = this.desk.draft.value;
    return draft !== null && draft.study_id === this.pane.id && draft.plane === this.plane && draft.index === this.index;
  }

  private moved(event: PointerEvent): void {
    this.hover = this.at(event);
    if (this.touches.has(event.pointerId)) this.touches.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.touches.size === 2) {
      const now = this.spread();
      this.desk.zoom(this.pane, this.plane, now / this.pinch);
      this.pinch = now;
      return;
    }
    const from = this.grabbed;
    if (!from) {
      this.probe();
      if (this.drafted) this.draw();
      return;
    }
    const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
    if (Math.hypot(dx, dy) > 3) from.moved = true;
    if (!from.moved) return;
    if (from.isPan) {
      const { clientWidth, clientHeight } = this.stage;
      const { zoom } = this.pane.looks.value[this.plane];
      this.desk.setLook(this.pane, this.plane, { zoom, pan: [from.pan[0] + dx / clientWidth, from.pan[1] + dy / clientHeight] });
    } else if (this.desk.tool.value === "window") {
      const speed = Math.max(1, from.width / 400);
      this.desk.setLevels(this.pane, from.level + dy * speed, from.width + dx * speed);
    } else this.draw();
  }

  private up(event: PointerEvent): void {
    const wasPinch = this.touches.size > 1;
    this.touches.delete(event.pointerId);
    const from = this.grabbed;
    this.grabbed = null;
    if (!from || wasPinch) return;
    const tool = this.desk.tool.value;
    const at = this.at(event);
    if (from.isPan) return;
    if (tool === "window") {
      if (from.moved) this.fetch();
      else this.click(at);
    } else if (from.moved || !from.began) this.desk.addPoint(this.pane, this.plane, at, N_POINTS[tool as Measure["kind"]]);
  }

  private cancel(): void {
    this.touches.clear();
    this.grabbed = null;
  }

  private leave(): void {
    this.hover = null;
    this.pane.probe.value = null;
    if (this.drafted) this.draw();
  }

  // A click chooses a measure; with all planes shown, the others go through that point.
  private click(at: Point): void {
    const f = this.frame();
    const near = this.shown()
      .map((measure) => ({ measure, away: distance(measure, at, [f.width, f.height]) }))
      .filter(({ away }) => away < 8)
      .sort((a, b) => a.away - b.away)[0];
    if (near) this.desk.selected.value = near.measure.id;
    else if (this.desk.layout.value === "all" && at.every((v) => v >= 0 && v < 1)) this.desk.move(this.pane, through(this.pane.study, this.plane, at));
  }

  // What lies under the pointer, once it rests there.
  private probe(): void {
    const slab = this.desk.slabQuery.value;
    const slice = this.pane.hu.get(this.plane, this.index, slab);
    if (slice) this.tellProbe(slice);
    else {
      this.pane.probe.value = null;
      clearTimeout(this.resting);
      const index = this.index;
      this.resting = window.setTimeout(async () => {
        const come = await this.pane.hu.load(this.plane, index, slab);
        if (come && index === this.index) this.tellProbe(come);
      }, 200);
    }
  }

  private tellProbe(slice: HuSlice): void {
    const hu = this.hover && huAt(slice, this.hover);
    this.pane.probe.value = hu === null ? null : { plane: this.plane, hu };
  }

  // ---- drawing

  private shown(): Measure[] {
    return this.desk.measures.value.filter((m) => m.study_id === this.pane.id && m.plane === this.plane && m.index === this.index);
  }

  private draw(): void {
    const { desk, pane, plane, stage, canvas } = this;
    const slices = pane.slices[plane];
    slices.arrived.value; // drawn again with each picture that comes
    pane.hu.arrived.value;
    this.size.value;
    const { clientWidth: w, clientHeight: h } = stage;
    const { index, query } = this;
    const f = this.frame();
    const bitmap = slices.get(index, query);
    const voxels = bitmap ? null : pane.hu.get(plane, index, desk.slabQuery.value);
    const failed = slices.failure.value;
    stage.dataset.state = bitmap || voxels ? "drawn" : failed ? "failed" : "loading";
    stage.dataset.index = String(index);
    if (!w || !h) return;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(w * ratio), Math.round(h * ratio)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const pen = canvas.getContext("2d")!;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, w, h);
    pen.imageSmoothingQuality = "high";
    const shown = bitmap ?? (voxels ? this.grey(voxels) : slices.last);
    if (shown) pen.drawImage(shown, f.left, f.top, f.width, f.height);
    this.drawHeat(pen, f, index);
    if (desk.layout.value === "all") this.drawCrosshair(pen, f);
    for (const measure of this.shown()) this.drawMeasure(pen, f, measure, measure.id === desk.selected.value);
    this.drawDraft(pen, f);
    const bar = stage.querySelector<HTMLElement>(".bar");
    if (bar) bar.style.width = `${(50 / extent(pane.study, plane)[0]) * f.width}px`;
  }

  private grey(slice: HuSlice): OffscreenCanvas {
    const { level, width } = this.pane.grey.value;
    const [low, scale] = [level - width / 2, 255 / width];
    const image = new ImageData(slice.columns, slice.rows);
    const words = new Uint32Array(image.data.buffer);
    for (let i = 0; i < words.length; i++) {
      const value = Math.min(255, Math.max(0, Math.round((slice.values[i]! - low) * scale)));
      words[i] = 0xff000000 | (value << 16) | (value << 8) | value;
    }
    const picture = new OffscreenCanvas(slice.columns, slice.rows);
    picture.getContext("2d")!.putImageData(image, 0, 0);
    return picture;
  }

  private drawHeat(pen: CanvasRenderingContext2D, f: Frame, index: number): void {
    const map = this.pane.heat.value;
    const share = this.desk.heatShare.value;
    const isOn = this.desk.isHeatOn.value && map !== null;
    this.stage.dataset.heat = isOn ? "on" : "off";
    if (!map || !isOn) return;
    const key = [map, index];
    if (key.some((part, i) => part !== this.heatKey[i])) {
      this.heat = heatPicture(map, this.pane.study, this.plane, index);
      this.heatKey = key;
    }
    if (!this.heat) return;
    const [x, y, width, height] = this.heat.box;
    pen.save();
    pen.beginPath();
    pen.rect(f.left, f.top, f.width, f.height);
    pen.clip();
    pen.globalAlpha = share;
    pen.drawImage(this.heat.picture, f.left + x * f.width, f.top + y * f.height, width * f.width, height * f.height);
    pen.restore();
  }

  private drawCrosshair(pen: CanvasRenderingContext2D, f: Frame): void {
    const [x, y] = crossing(this.pane.study, this.plane, this.pane.spot.value);
    pen.strokeStyle = "rgba(45, 212, 191, .55)";
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(f.left + x * f.width, f.top);
    pen.lineTo(f.left + x * f.width, f.top + f.height);
    pen.moveTo(f.left, f.top + y * f.height);
    pen.lineTo(f.left + f.width, f.top + y * f.height);
    pen.stroke();
  }

  private path(pen: CanvasRenderingContext2D, f: Frame, kind: Measure["kind"] | "region", points: Point[]): void {
    const at = points.map(([x, y]) => [f.left + x * f.width, f.top + y * f.height] as Point);
    const [a, b] = at as [Point, Point];
    pen.beginPath();
    if (kind === "roi") pen.ellipse((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, Math.abs(a[0] - b[0]) / 2, Math.abs(a[1] - b[1]) / 2, 0, 0, 2 * Math.PI);
    else if (kind === "region") pen.rect(Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1]));
    else at.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    for (const [style, width] of [["rgba(0, 0, 0, .75)", 4], [pen.strokeStyle, 1.75]] as const) {
      const kept = pen.strokeStyle;
      pen.strokeStyle = style;
      pen.lineWidth = width;
      pen.stroke();
      pen.strokeStyle = kept;
    }
    if (kind === "length" || kind === "angle") {
      for (const [x, y] of at) {
        pen.fillStyle = pen.strokeStyle;
        pen.fillRect(x - 2.5, y - 2.5, 5, 5);
      }
    }
  }

  private drawMeasure(pen: CanvasRenderingContext2D, f: Frame, measure: Measure, isChosen: boolean): void {
    pen.strokeStyle = isChosen ? CHOSEN : INK;
    this.path(pen, f, measure.kind, measure.points);
    const [x, y] = measure.points.reduce((a, b) => (b[0] > a[0] ? b : a));
    pen.font = "600 13px system-ui, 'DejaVu Sans', sans-serif";
    pen.textBaseline = "middle";
    const text = this.desk.label(measure);
    const wide = pen.measureText(text).width;
    const left = clamp(f.left + x * f.width + 8, 2, Math.max(2, this.stage.clientWidth - wide - 10));
    const top = clamp(f.top + (measure.kind === "roi" ? (measure.points[0]![1] + measure.points[1]![1]) / 2 : y) * f.height, 12, Math.max(12, this.stage.clientHeight - 12));
    pen.fillStyle = "rgba(0, 0, 0, .72)";
    pen.fillRect(left - 4, top - 10, wide + 8, 20);
    pen.fillStyle = isChosen ? CHOSEN : INK;
    pen.fillText(text, left, top);
  }

  private drawDraft(pen: CanvasRenderingContext2D, f: Frame): void {
    const { desk } = this;
    const cursor = desk.cursor.value?.pane === this.pane && desk.cursor.value.plane === this.plane ? desk.cursor.value.at : null;
    const draft = desk.draft.value;
    pen.strokeStyle = CHOSEN;
    const end = cursor ?? this.hover;
    if (draft && this.drafted) {
      const points = end ? [...draft.points, end] : draft.points;
      if (points.length > 1) this.path(pen, f, draft.kind, points);
      else this.path(pen, f, "length", [points[0]!, points[0]!]);
    }
    if (!cursor) return;
    const [x, y] = [f.left + cursor[0] * f.width, f.top + cursor[1] * f.height];
    pen.lineWidth = 1.5;
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]] as const) {
      pen.moveTo(x + dx * 4, y + dy * 4);
      pen.lineTo(x + dx * 14, y + dy * 14);
    }
    pen.stroke();
  }
}
