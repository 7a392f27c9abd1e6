// What is looked at, and how: the state that the viewer's parts share.

import { batch, computed, effect, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { Failure, get, isAbort, post, studyUrl } from "../api";
import { named, t, type Key } from "../i18n";
import { defaultWindow } from "../text";
import type { Explanation, Place, PlaneName, Question, Region, Study, WindowPreset } from "../types";
import { angleDegrees, areaMm2, ellipseStats, lengthMm, type Kind, type Measure } from "./measure";
import { clamp, matching, middle, NORMAL, PLANES, type Landmarks, type Point, type Spot } from "./geometry";
import { HuSlices, Slices } from "./slices";

export type Layout = Place["plane"];
export type Tool = "window" | "pan" | Kind | "region";
export type Projection = "mip" | "minip" | "mean";

export interface Grey {
  name: string | null; // of a preset
  level: number;
  width: number;
}

export interface Look {
  zoom: number;
  pan: Point; // of the slice's middle from the stage's, as fractions of the stage
}

export interface Draft {
  study_id: string;
  plane: PlaneName;
  index: number;
  kind: Kind | "region";
  points: Point[];
}

const STILL: Look = { zoom: 1, pan: [0, 0] };
export const TOOLS: Tool[] = ["window", "pan", "length", "angle", "roi", "region"];
export const PROJECTIONS: Projection[] = ["mip", "minip", "mean"];

// One study on show.
export class Pane {
  readonly spot: Signal<Spot>;
  readonly grey: Signal<Grey>;
  readonly looks = signal<Record<PlaneName, Look>>({ axial: STILL, coronal: STILL, sagittal: STILL });
  readonly marks = signal<Landmarks | null>(null);
  readonly heat = signal<Explanation | null>(null);
  readonly heatState = signal<"none" | "loading" | "ready" | "never" | "failed">("none");
  readonly probe = signal<{ plane: PlaneName; hu: number } | null>(null); // under the pointer
  readonly slices: Record<PlaneName, Slices>;
  readonly hu: HuSlices;
  asked = ""; // the question that `heat` answers
  wasMoved = false;

  constructor(
    readonly study: Study,
    grey: Grey,
  ) {
    this.spot = signal(middle(study));
    this.grey = signal(grey);
    this.slices = { axial: new Slices(study, "axial"), coronal: new Slices(study, "coronal"), sagittal: new Slices(study, "sagittal") };
    this.hu = new HuSlices(study);
  }

  get id(): string {
    return this.study.study_id;
  }

  close(): void {
    for (const plane of PLANES) this.slices[plane].close();
  }
}

export interface Hooks {
  onPlace(place: Place): void;
  onRegion(region: Region): void;
}

// Measures live as long as the page does: one may go to another study and come back.
const measured = new Map<string, Measure[]>();
let lastId = 0;

export class Desk {
  readonly main: Pane;
  readonly beside = signal<Pane | null>(null);
  readonly layout: Signal<Layout>;
  readonly slabMm = signal(10);
  readonly projection = signal<Projection | null>(null);
  readonly tool = signal<Tool>("window");
  readonly isSynced = signal(true);
  readonly isHeatOn = signal(false);
  readonly heatShare = signal(0.5);
  readonly isPlaying = signal(false);
  readonly draft = signal<Draft | null>(null);
  readonly cursor = signal<{ pane: Pane; plane: PlaneName; at: Point } | null>(null); // moved by keys
  readonly measures: Signal<Measure[]>;
  readonly selected = signal<number | null>(null);
  readonly said = signal(""); // for those who do not see
  readonly active: Signal<Pane>; // the one that keys act on
  readonly activePlane = signal<PlaneName>("axial");
  readonly slabQuery: ReadonlySignal<string>;
  private readonly abort = new AbortController();
  private readonly stops: (() => void)[] = [];

  constructor(
    study: Study,
    readonly windows: Record<string, WindowPreset>,
    place: Place,
    private readonly hooks: () => Hooks,
  ) {
    const preset = place.window && windows[place.window] ? place.window : defaultWindow(study);
    this.main = new Pane(study, this.preset(preset));
    this.layout = signal(place.plane);
    this.active = signal(this.main);
    this.measures = signal(measured.get(study.study_id) ?? []);
    this.slabQuery = computed(() => (this.projection.value ? `slab_mm=${this.slabMm.value}&projection=${this.projection.value}` : ""));
    const plane = this.plane;
    this.activePlane.value = plane;
    if (place.index !== undefined && place.plane !== "3d") {
      this.main.wasMoved = true;
      this.put(this.main, { [plane]: place.index });
    }
    this.stops.push(effect(() => this.play()));
    this.stops.push(
      effect(() => {
        for (const pane of this.panes) this.measureHu(pane);
      }),
    );
    void this.findMarks(this.main, place.index !== undefined && plane === "axial");
  }

  close(): void {
    this.abort.abort();
    for (const stop of this.stops) stop();
    for (const pane of this.panes) pane.close();
  }

  get panes(): Pane[] {
    return this.beside.value ? [this.main, this.beside.value] : [this.main];
  }

  // The plane that an address names: of three, the axial one.
  get plane(): PlaneName {
    const layout = this.layout.value;
    return layout === "all" || layout === "3d" ? "axial" : layout;
  }

  get planes(): PlaneName[] {
    const layout = this.layout.value;
    return layout === "3d" ? [] : layout === "all" ? PLANES : [layout];
  }

  // Whether Escape has something to end in here.
  get isBusy(): boolean {
    return Boolean(this.draft.value || this.cursor.value || this.isPlaying.value || this.tool.value !== "window");
  }

  // ---- studies

  compare(study: Study | null): void {
    if (this.beside.value?.id === study?.study_id) return;
    this.beside.value?.close();
    const pane = study ? new Pane(study, this.main.grey.value) : null;
    batch(() => {
      this.beside.value = pane;
      this.active.value = this.main;
      this.isSynced.value = true;
      this.measures.value = this.panes.flatMap((p) => measured.get(p.id) ?? []);
      if (pane) this.follow(this.main);
    });
    if (pane) void this.findMarks(pane, true);
  }

  private async findMarks(pane: Pane, isPlaced: boolean): Promise<void> {
    try {
      const marks = await get<Landmarks>(studyUrl(pane.id, "/key-slice"), this.abort.signal);
      batch(() => {
        pane.marks.value = marks;
        if (pane === this.main && !isPlaced && !pane.wasMoved) this.put(pane, { axial: marks.index });
        if (this.beside.value) this.follow(this.main);
      });
    } catch {
      // the stages themselves say that there are no slices
    }
  }

  // Asks what a question points at, in each study that it is not asked from.
  async explain(question: Question | null): Promise<void> {
    await Promise.all(
      this.panes.map(async (pane) => {
        const asked = this.questionFor(pane, question);
        const name = JSON.stringify(asked);
        if (name === pane.asked) return;
        pane.asked = name;
        if (!asked) {
          batch(() => {
            pane.heat.value = null;
            pane.heatState.value = "none";
          });
          return;
        }
        pane.heatState.value = "loading";
        try {
          const heat = await post<Explanation>(studyUrl(pane.id, "/explanation"), asked, this.abort.signal);
          if (pane.asked !== name) return; // another question meanwhile
          batch(() => {
            pane.heat.value = heat;
            pane.heatState.value = "ready";
          });
        } catch (error) {
          if (isAbort(error) || pane.asked !== name) return;
          const never = error instanceof Failure && [404, 405, 422, 501].includes(error.status);
          batch(() => {
            pane.heat.value = null;
            pane.heatState.value = never ? "never" : "failed";
          });
        }
      }),
    );
  }

  // A study is not asked about itself, but about the one beside it.
  private questionFor(pane: Pane, question: Question | null): Question | null {
    const other = this.panes.find((p) => p !== pane);
    const from = question?.study_id ?? question?.region?.study_id;
    if (question && from !== pane.id) return question;
    return other ? { study_id: other.id } : null;
  }

  // ---- place

  // Moves a pane's slices, and the other study's along.
  move(pane: Pane, to: Partial<Spot>): void {
    pane.wasMoved = true;
    this.put(pane, to);
    this.tell();
  }

  step(pane: Pane, plane: PlaneName, steps: number): void {
    this.move(pane, { [plane]: pane.spot.value[plane] + steps });
  }

  private put(pane: Pane, to: Partial<Spot>): void {
    const spot = { ...pane.spot.value };
    for (const plane of PLANES) {
      const index = to[plane];
      if (index !== undefined) spot[plane] = clamp(index, 0, pane.study.shape[NORMAL[plane]] - 1);
    }
    batch(() => {
      pane.spot.value = spot;
      this.follow(pane);
    });
  }

  private follow(pane: Pane): void {
    const other = this.panes.find((p) => p !== pane);
    if (!other || !this.isSynced.value) return;
    const at = (plane: PlaneName) => matching(pane.study, pane.marks.value, other.study, other.marks.value, plane, pane.spot.value[plane]);
    other.spot.value = { axial: at("axial"), coronal: at("coronal"), sagittal: at("sagittal") };
  }

  goToMatch(pane = this.active.value): boolean {
    const heat = pane.heat.value;
    if (!heat) return false;
    batch(() => {
      this.isHeatOn.value = true;
      if (this.layout.value === "3d") this.layout.value = "all";
      this.move(pane, heat.slices);
    });
    this.say("viewer.said.match", { index: pane.spot.value[this.plane] + 1 });
    return true;
  }

  setLayout(layout: Layout): void {
    batch(() => {
      this.layout.value = layout;
      this.isPlaying.value = false;
      this.draft.value = null;
      this.cursor.value = null;
      this.activePlane.value = this.plane;
    });
    this.say(`viewer.plane.${layout}` as Key);
    this.tell();
  }

  // Follows an address that changed from outside.
  go(place: Place): void {
    batch(() => {
      if (place.plane !== this.layout.value) this.layout.value = place.plane;
      if (place.index !== undefined && place.plane !== "3d") this.put(this.main, { [this.plane]: place.index });
      if (place.window && this.windows[place.window] && place.window !== this.main.grey.value.name) this.setGrey(this.main, this.preset(place.window), false);
    });
  }

  get place(): Place {
    const place: Place = { plane: this.layout.value };
    if (place.plane !== "3d") place.index = this.main.spot.value[this.plane];
    const { name } = this.main.grey.value;
    if (name) place.window = name;
    return place;
  }

  private tell(): void {
    this.hooks().onPlace(this.place);
  }

  // ---- grey, zoom

  preset(name: string): Grey {
    const { level, width } = this.windows[name] ?? { level: -600, width: 1500 };
    return { name, level, width };
  }

  setWindow(name: string): void {
    this.setGrey(this.active.value, this.preset(name));
    this.said.value = named("viewer.window", name);
  }

  setLevels(pane: Pane, level: number, width: number): void {
    if (!Number.isFinite(level) || !Number.isFinite(width)) return;
    this.setGrey(pane, { name: null, level: clamp(Math.round(level), -2000, 4000), width: clamp(Math.round(width), 1, 8000) });
  }

  private setGrey(pane: Pane, grey: Grey, isTold = true): void {
    batch(() => {
      for (const p of this.isSynced.value ? this.panes : [pane]) p.grey.value = grey;
    });
    if (isTold) this.tell();
  }

  setLook(pane: Pane, plane: PlaneName, look: Look): void {
    batch(() => {
      for (const p of this.isSynced.value ? this.panes : [pane]) p.looks.value = { ...p.looks.value, [plane]: look };
    });
  }

  // Zooms about a point of the stage, given as fractions from its middle.
  zoom(pane: Pane, plane: PlaneName, factor: number, about: Point = [0, 0]): void {
    const old = pane.looks.value[plane];
    const zoom = clamp(old.zoom * factor, 1, 12);
    const scale = zoom / old.zoom;
    const along = (i: 0 | 1) => about[i] - (about[i] - old.pan[i]) * scale;
    this.setLook(pane, plane, { zoom, pan: zoom === 1 ? [0, 0] : [along(0), along(1)] });
  }

  reset(pane: Pane, plane: PlaneName): void {
    this.setLook(pane, plane, STILL);
  }

  setSynced(isSynced: boolean): void {
    batch(() => {
      this.isSynced.value = isSynced;
      const other = this.beside.value;
      if (!isSynced || !other) return;
      other.grey.value = this.main.grey.value;
      other.looks.value = this.main.looks.value;
      this.follow(this.main);
    });
    this.say(isSynced ? "viewer.sync.on" : "viewer.sync.off");
  }

  setProjection(projection: Projection | null): void {
    this.projection.value = projection;
    if (projection) this.say("viewer.said.slab", { projection: t(`viewer.slab.${projection}`), mm: this.slabMm.value });
    else this.say("viewer.slab.off");
  }

  setSlabMm(mm: number): void {
    if (Number.isFinite(mm)) this.slabMm.value = clamp(Math.round(mm), 1, 1000);
  }

  toggleHeat(): void {
    this.isHeatOn.value = !this.isHeatOn.value;
    this.say(this.isHeatOn.value ? "viewer.heat.on" : "viewer.heat.off");
  }

  // ---- tools

  setTool(tool: Tool): void {
    batch(() => {
      this.tool.value = tool;
      this.draft.value = null;
      this.cursor.value = null;
    });
    this.say(`viewer.tool.${tool}` as Key);
  }

  // A point of what is being drawn; with the last one it is done.
  addPoint(pane: Pane, plane: PlaneName, at: Point, nPoints: number): void {
    const tool = this.tool.value;
    if (tool === "window" || tool === "pan") return;
    const index = pane.spot.value[plane];
    const old = this.draft.value;
    const isSame = old && old.study_id === pane.id && old.plane === plane && old.index === index && old.kind === tool;
    const point: Point = [clamp(at[0], 0, 1), clamp(at[1], 0, 1)];
    const points = [...(isSame ? old.points : []), point];
    const draft: Draft = { study_id: pane.id, plane, index, kind: tool, points };
    if (points.length < nPoints) {
      this.draft.value = draft;
      return;
    }
    this.draft.value = null;
    this.finish(pane, draft);
  }

  private finish(pane: Pane, { plane, index, kind, points }: Draft): void {
    const [[ax, ay], [bx, by]] = [points[0]!, points[1]!];
    if (kind === "region" || kind === "roi") {
      if (Math.abs(ax - bx) < 0.005 || Math.abs(ay - by) < 0.005) return; // a click, not a region
    } else if (ax === bx && ay === by) return;
    if (kind === "region") {
      const box: Region["box"] = [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
      this.say("viewer.said.region");
      this.hooks().onRegion({ study_id: pane.id, plane, index, box: box.map((v) => Number(v.toFixed(4))) as Region["box"] });
      return;
    }
    const measure: Measure = { id: ++lastId, study_id: pane.id, plane, index, kind, points, hu: null };
    this.keep(pane.id, [...this.of(pane.id), measure]);
    this.selected.value = measure.id;
    if (kind !== "roi") this.said.value = this.label(measure);
  }

  private of = (studyId: string): Measure[] => this.measures.value.filter((m) => m.study_id === studyId);

  private keep(studyId: string, measures: Measure[]): void {
    measured.set(studyId, measures);
    this.measures.value = [...this.measures.value.filter((m) => m.study_id !== studyId), ...measures];
  }

  remove(id: number | null): boolean {
    const measure = this.measures.value.find((m) => m.id === id);
    if (!measure) return false;
    const left = this.of(measure.study_id).filter((m) => m.id !== id);
    batch(() => {
      this.keep(measure.study_id, left);
      this.selected.value = left.at(-1)?.id ?? null;
    });
    this.say("viewer.said.removed");
    return true;
  }

  // What a measure says, in a line.
  label(measure: Measure): string {
    const study = this.panes.find((p) => p.id === measure.study_id)?.study;
    if (!study) return "";
    const { plane, points, kind, hu } = measure;
    const [a, b, c] = points as [Point, Point, Point];
    if (kind === "length") return `${lengthMm(study, plane, a, b).toFixed(1)} mm`;
    if (kind === "angle") return `${angleDegrees(study, plane, [a, b, c]).toFixed(1)}°`;
    const area = areaMm2(study, plane, [a, b]);
    const size = area >= 100 ? `${(area / 100).toFixed(2)} cm²` : `${area.toFixed(1)} mm²`;
    if (!hu) return size;
    return hu.n ? `${hu.mean.toFixed(1)} ± ${hu.sd.toFixed(1)} HU · ${size}` : size;
  }

  // Regions get their HU once the slice's voxels have come; always of the slice, never of a slab.
  private measureHu(pane: Pane): void {
    pane.hu.arrived.value;
    const waiting = this.of(pane.id).filter((m) => m.kind === "roi" && !m.hu);
    for (const measure of waiting) {
      const slice = pane.hu.get(measure.plane, measure.index, "");
      if (!slice) void pane.hu.load(measure.plane, measure.index, "");
      else {
        const done = { ...measure, hu: ellipseStats(slice, measure.points as [Point, Point]) };
        queueMicrotask(() => {
          this.keep(pane.id, this.of(pane.id).map((m) => (m.id === done.id && !m.hu ? done : m)));
          this.said.value = this.label(done);
        });
      }
    }
  }

  // ---- cine

  private play(): (() => void) | undefined {
    if (!this.isPlaying.value) return undefined;
    const timer = setInterval(() => {
      const pane = this.active.peek();
      const plane = this.activePlane.peek();
      const n = pane.study.planes[plane].n_slices;
      this.move(pane, { [plane]: (pane.spot.peek()[plane] + 1) % n });
    }, 90);
    return () => clearInterval(timer);
  }

  say(key: Key, values?: Record<string, string | number>): void {
    this.said.value = t(key, values);
  }
}
