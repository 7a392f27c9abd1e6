// The slices of one plane: fetches the wanted one first, then those that may be wanted next.

import { signal } from "@preact/signals";
import { ask, Failure, getImage, isAbort, sliceUrl, studyUrl } from "../api";
import type { PlaneName, Study } from "../types";
import { gridOf, type HuSlice } from "./measure";

const AHEAD = 6; // slices fetched before they are asked for, in the direction of scrolling
const KEEP = 160; // pictures
const AT_ONCE = 4;
const KEEP_HU = 12;

// Pictures under one window and slab at a time.
export class Slices {
  readonly arrived = signal(0);
  readonly failure = signal<Failure | null>(null);
  last: ImageBitmap | null = null; // shown until the wanted one is there
  private readonly held = new Map<number, ImageBitmap>();
  private readonly pending = new Map<number, AbortController>();
  private query = "";
  private index = -1;
  private direction = -1;

  constructor(
    private readonly study: Study,
    private readonly plane: PlaneName,
  ) {}

  get(index: number, query: string): ImageBitmap | null {
    return (query === this.query && this.held.get(index)) || null;
  }

  show(index: number, query: string): void {
    if (query !== this.query) {
      this.last = this.held.get(this.index) ?? this.last;
      this.close();
      this.held.clear();
      this.query = query;
    }
    if (index !== this.index && this.index >= 0) this.direction = Math.sign(index - this.index);
    this.index = index;
    this.want();
  }

  close(): void {
    for (const abort of this.pending.values()) abort.abort();
    this.pending.clear();
  }

  private wanted(): number[] {
    const order = [this.index];
    for (let i = 1; i <= AHEAD; i++) order.push(this.index + i * this.direction);
    for (let i = 1; i <= AHEAD / 2; i++) order.push(this.index - i * this.direction);
    return order.filter((i) => i >= 0 && i < this.study.planes[this.plane].n_slices);
  }

  private want(): void {
    const wanted = this.wanted();
    for (const [index, abort] of this.pending) {
      if (wanted.includes(index)) continue;
      abort.abort();
      this.pending.delete(index);
    }
    for (const index of wanted) {
      if (this.pending.size >= AT_ONCE) break;
      if (!this.held.has(index) && !this.pending.has(index)) void this.fetch(index);
      if (!this.held.has(this.index)) break; // what is seen comes before what may be
    }
  }

  private async fetch(index: number): Promise<void> {
    const abort = new AbortController();
    const query = this.query;
    this.pending.set(index, abort);
    try {
      const picture = await getImage(sliceUrl(this.study.study_id, this.plane, index, query), abort.signal);
      if (abort.signal.aborted) return;
      this.held.set(index, picture);
      if (this.held.size > KEEP) {
        const far = [...this.held.keys()].sort((a, b) => Math.abs(b - this.index) - Math.abs(a - this.index))[0]!;
        this.held.delete(far);
      }
      if (index === this.index) this.last = picture;
      this.failure.value = null;
      this.arrived.value += 1;
    } catch (error) {
      if (isAbort(error) || abort.signal.aborted) return;
      this.failure.value = error instanceof Failure ? error : new Failure(String(error));
      return; // one message, not one for each slice ahead
    } finally {
      if (this.pending.get(index) === abort) this.pending.delete(index);
    }
    this.want();
  }
}

// Hounsfield units of slices, for what is measured and for windows that change under the hand.
export class HuSlices {
  readonly arrived = signal(0);
  private readonly held = new Map<string, HuSlice>();
  private readonly pending = new Map<string, Promise<HuSlice | null>>();

  constructor(private readonly study: Study) {}

  get(plane: PlaneName, index: number, slab: string): HuSlice | null {
    return this.held.get(`${plane}/${index}.hu?${slab}`) ?? null;
  }

  // Null when the service does not give them.
  load(plane: PlaneName, index: number, slab: string): Promise<HuSlice | null> {
    const name = `${plane}/${index}.hu?${slab}`;
    const held = this.held.get(name);
    if (held) return Promise.resolve(held);
    const pending = this.pending.get(name) ?? this.fetch(name, plane);
    this.pending.set(name, pending);
    return pending;
  }

  private async fetch(name: string, plane: PlaneName): Promise<HuSlice | null> {
    try {
      const bytes = await (await ask(studyUrl(this.study.study_id, `/slices/${name}`))).arrayBuffer();
      const slice = { ...gridOf(this.study, plane), values: new Int16Array(bytes) };
      this.held.set(name, slice);
      if (this.held.size > KEEP_HU) this.held.delete(this.held.keys().next().value!);
      this.arrived.value += 1;
      return slice;
    } catch {
      return null;
    } finally {
      this.pending.delete(name);
    }
  }
}
