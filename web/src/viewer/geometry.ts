// Where things lie: slices, voxels and millimetres of one study, and what matches them in another.
// A place on a slice is a pair of fractions of its width and height, from its top left corner.

import type { PlaneName, Study } from "../types";

export const PLANES: PlaneName[] = ["axial", "coronal", "sagittal"];

export type Spot = Record<PlaneName, number>; // the index of each plane's slice
export type Point = [number, number];
type Axis = 0 | 1 | 2; // D, H, W

export const NORMAL: Record<PlaneName, Axis> = { axial: 0, coronal: 1, sagittal: 2 };
// The axes along a slice's rows (downwards) and columns (rightwards); both are shown reversed.
export const ROWS: Record<PlaneName, Axis> = { axial: 1, coronal: 0, sagittal: 0 };
export const COLUMNS: Record<PlaneName, Axis> = { axial: 2, coronal: 2, sagittal: 1 };

// What the service knows of a study once its volume is read.
export interface Landmarks {
  index: number; // axial
  lungs: Record<PlaneName, [number, number]> | null;
}

export const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));

export const middle = (study: Study): Spot => ({
  axial: Math.floor(study.shape[0] / 2),
  coronal: Math.floor(study.shape[1] / 2),
  sagittal: Math.floor(study.shape[2] / 2),
});

// A slice's width and height in millimetres.
export function extent(study: Study, plane: PlaneName): Point {
  const of = (axis: Axis) => study.shape[axis] * study.spacing_mm[axis];
  return [of(COLUMNS[plane]), of(ROWS[plane])];
}

const planeOf = (axis: Axis): PlaneName => PLANES[axis]!;

// Where the other two planes cut this one.
export function crossing(study: Study, plane: PlaneName, spot: Spot): Point {
  const of = (axis: Axis) => 1 - (spot[planeOf(axis)] + 0.5) / study.shape[axis];
  return [of(COLUMNS[plane]), of(ROWS[plane])];
}

// The slices of the other two planes through a place.
export function through(study: Study, plane: PlaneName, [x, y]: Point): Partial<Spot> {
  const at = (fraction: number, axis: Axis) => clamp(study.shape[axis] - 1 - Math.floor(fraction * study.shape[axis]), 0, study.shape[axis] - 1);
  return { [planeOf(COLUMNS[plane])]: at(x, COLUMNS[plane]), [planeOf(ROWS[plane])]: at(y, ROWS[plane]) };
}

// The slice of `to` that shows the part of the body that a slice of `from` does. Bodies differ in
// size, so where both show lungs it is the same fraction of the way between the lungs' ends, and
// beyond them goes on at that pace. Without lungs it is as many millimetres from the key slice,
// which lies in the chest whatever the scan covers, or from the middle in the other planes.
export function matching(from: Study, fromMarks: Landmarks | null, to: Study, toMarks: Landmarks | null, plane: PlaneName, index: number): number {
  const axis = NORMAL[plane];
  const [here, there] = [fromMarks?.lungs?.[plane], toMarks?.lungs?.[plane]];
  let at: number;
  if (here && there && here[1] > here[0]) {
    at = there[0] + ((index - here[0]) / (here[1] - here[0])) * (there[1] - there[0]);
  } else {
    const start = (study: Study, marks: Landmarks | null) => (plane === "axial" && marks ? marks.index : (study.shape[axis] - 1) / 2);
    at = start(to, toMarks) + ((index - start(from, fromMarks)) * from.spacing_mm[axis]) / to.spacing_mm[axis];
  }
  return clamp(Math.round(at), 0, to.shape[axis] - 1);
}
