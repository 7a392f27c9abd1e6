// Lengths, angles and regions that are measured on a slice.

import { COLUMNS, extent, ROWS, type Point } from "./geometry";
import type { PlaneName, Study } from "../types";

export type Kind = "length" | "angle" | "roi";

export interface Measure {
  id: number;
  study_id: string;
  plane: PlaneName;
  index: number;
  kind: Kind;
  points: Point[]; // an ellipse by two opposite corners of its box, an angle with its vertex second
  hu: HuStats | null; // of a region, once its voxels have come
}

export interface HuStats {
  mean: number;
  sd: number;
  n: number;
}

// Hounsfield units of one slice on the volume's own grid.
export interface HuSlice {
  rows: number;
  columns: number;
  values: Int16Array;
}

export const N_POINTS: Record<Kind | "region", number> = { length: 2, angle: 3, roi: 2, region: 2 };

const inMm = (study: Study, plane: PlaneName, [x, y]: Point): Point => {
  const [width, height] = extent(study, plane);
  return [x * width, y * height];
};

export function lengthMm(study: Study, plane: PlaneName, a: Point, b: Point): number {
  const [[ax, ay], [bx, by]] = [inMm(study, plane, a), inMm(study, plane, b)];
  return Math.hypot(ax - bx, ay - by);
}

export function angleDegrees(study: Study, plane: PlaneName, [a, vertex, b]: [Point, Point, Point]): number {
  const [p, v, q] = [a, vertex, b].map((point) => inMm(study, plane, point)) as [Point, Point, Point];
  const turn = Math.abs(Math.atan2(p[1] - v[1], p[0] - v[0]) - Math.atan2(q[1] - v[1], q[0] - v[0]));
  return (Math.min(turn, 2 * Math.PI - turn) * 180) / Math.PI;
}

export function areaMm2(study: Study, plane: PlaneName, [a, b]: [Point, Point]): number {
  const [width, height] = extent(study, plane);
  return (Math.PI / 4) * Math.abs(a[0] - b[0]) * width * Math.abs(a[1] - b[1]) * height;
}

export const gridOf = (study: Study, plane: PlaneName): { rows: number; columns: number } => ({
  rows: study.shape[ROWS[plane]],
  columns: study.shape[COLUMNS[plane]],
});

// Mean and (population) standard deviation of the voxels whose centre lies within an ellipse.
export function ellipseStats({ rows, columns, values }: HuSlice, [a, b]: [Point, Point]): HuStats {
  const [x, y] = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  const [rx, ry] = [Math.abs(a[0] - b[0]) / 2, Math.abs(a[1] - b[1]) / 2];
  let [n, sum, squares] = [0, 0, 0];
  for (let row = Math.max(0, Math.floor((y - ry) * rows)); row < Math.min(rows, Math.ceil((y + ry) * rows)); row++) {
    const dy = ((row + 0.5) / rows - y) / ry;
    for (let column = Math.max(0, Math.floor((x - rx) * columns)); column < Math.min(columns, Math.ceil((x + rx) * columns)); column++) {
      const dx = ((column + 0.5) / columns - x) / rx;
      if (dx * dx + dy * dy > 1) continue;
      const value = values[row * columns + column]!;
      n += 1;
      sum += value;
      squares += value * value;
    }
  }
  const mean = n ? sum / n : NaN;
  return { n, mean, sd: n ? Math.sqrt(Math.max(0, squares / n - mean * mean)) : NaN };
}

export function huAt({ rows, columns, values }: HuSlice, [x, y]: Point): number | null {
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
  return values[Math.floor(y * rows) * columns + Math.floor(x * columns)]!;
}

// Distance in pixels of the screen from a place to a measure's points and lines.
export function distance(measure: Measure, to: Point, scale: Point): number {
  const points = measure.points.map(([x, y]) => [x * scale[0], y * scale[1]] as Point);
  const [px, py] = [to[0] * scale[0], to[1] * scale[1]];
  if (measure.kind === "roi") {
    const [a, b] = points as [Point, Point];
    const [rx, ry] = [Math.abs(a[0] - b[0]) / 2, Math.abs(a[1] - b[1]) / 2];
    const r = Math.hypot((px - (a[0] + b[0]) / 2) / rx, (py - (a[1] + b[1]) / 2) / ry);
    return Math.abs(r - 1) * Math.min(rx, ry);
  }
  let nearest = Infinity;
  for (let i = 0; i + 1 < points.length; i++) {
    const [[ax, ay], [bx, by]] = [points[i]!, points[i + 1]!];
    const long = (bx - ax) ** 2 + (by - ay) ** 2;
    const at = long ? Math.min(1, Math.max(0, ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / long)) : 0;
    nearest = Math.min(nearest, Math.hypot(px - ax - at * (bx - ax), py - ay - at * (by - ay)));
  }
  return nearest;
}
