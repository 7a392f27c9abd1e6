// An explanation's coarse map → a coloured, half transparent picture over a slice.

import { COLUMNS, NORMAL, ROWS } from "./geometry";
import type { Explanation, PlaneName } from "../types";

const FINER = 8; // pixels of the picture for each region of the map, each way

// Dark violet, red, orange, pale yellow: grows lighter steadily, so it is read without colours too.
const RAMP: [number, number, number][] = [
  [58, 12, 104],
  [148, 38, 103],
  [221, 81, 58],
  [252, 165, 10],
  [252, 255, 164],
];

export const RAMP_CSS = `linear-gradient(to right, ${RAMP.map((c) => `rgb(${c.join(" ")})`).join(", ")})`;

function colour(value: number): [number, number, number] {
  const at = Math.min(0.9999, Math.max(0, value)) * (RAMP.length - 1);
  const low = Math.floor(at);
  const [a, b] = [RAMP[low]!, RAMP[low + 1]!];
  const mix = (i: 0 | 1 | 2) => a[i] + (b[i] - a[i]) * (at - low);
  return [mix(0), mix(1), mix(2)];
}

// Two regions, and the share of the second, that a voxel's centre lies between.
function between(voxel: number, origin: number, step: number, n: number): [number, number, number] {
  const at = Math.min(n - 1, Math.max(0, (voxel + 0.5 - origin) / step - 0.5));
  const low = Math.min(n - 1, Math.floor(at));
  return [low, Math.min(n - 1, low + 1), at - low];
}

// The map's values on a slice, interpolated linearly; null where the map does not reach.
export function heatValues(map: Explanation, plane: PlaneName, index: number): { rows: number; columns: number; values: Float32Array } | null {
  const [normal, down, right] = [NORMAL[plane], ROWS[plane], COLUMNS[plane]];
  const covered = (index + 0.5 - map.origin[normal]) / map.step[normal];
  if (covered < 0 || covered > map.shape[normal]) return null;
  const [rows, columns] = [map.shape[down] * FINER, map.shape[right] * FINER];
  const strides = [map.shape[1] * map.shape[2], map.shape[2], 1] as const;
  const [near, far, share] = between(index, map.origin[normal], map.step[normal], map.shape[normal]);
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    // Shown reversed: the first row is the most superior or anterior one.
    const v = Math.min(map.shape[down] - 1, Math.max(0, (rows - row - 0.5) / FINER - 0.5));
    const v0 = Math.floor(v);
    const v1 = Math.min(map.shape[down] - 1, v0 + 1);
    for (let column = 0; column < columns; column++) {
      const u = Math.min(map.shape[right] - 1, Math.max(0, (columns - column - 0.5) / FINER - 0.5));
      const u0 = Math.floor(u);
      const u1 = Math.min(map.shape[right] - 1, u0 + 1);
      let value = 0;
      for (const [i, si] of [[near, 1 - share], [far, share]] as const) {
        if (!si) continue;
        const at = (j: number, k: number) => map.values[i * strides[normal] + j * strides[down] + k * strides[right]]!;
        const top = at(v0, u0) + (at(v0, u1) - at(v0, u0)) * (u - u0);
        const low = at(v1, u0) + (at(v1, u1) - at(v1, u0)) * (u - u0);
        value += si * (top + (low - top) * (v - v0));
      }
      values[row * columns + column] = value;
    }
  }
  return { rows, columns, values };
}

// A picture of it, and where it lies on the slice as fractions [left, top, width, height].
export function heatPicture(map: Explanation, study: { shape: [number, number, number] }, plane: PlaneName, index: number): { picture: OffscreenCanvas; box: [number, number, number, number] } | null {
  const heat = heatValues(map, plane, index);
  if (!heat) return null;
  const image = new ImageData(heat.columns, heat.rows);
  for (let i = 0; i < heat.values.length; i++) {
    const value = heat.values[i]!;
    const [r, g, b] = colour(value);
    image.data.set([r, g, b, 255 * Math.min(1, value * 1.25)], i * 4);
  }
  const picture = new OffscreenCanvas(heat.columns, heat.rows);
  picture.getContext("2d")!.putImageData(image, 0, 0);
  const along = (axis: 0 | 1 | 2): [number, number] => {
    const end = map.origin[axis] + map.step[axis] * map.shape[axis];
    return [1 - end / study.shape[axis], (map.step[axis] * map.shape[axis]) / study.shape[axis]];
  };
  const [[left, width], [top, height]] = [along(COLUMNS[plane]), along(ROWS[plane])];
  return { picture, box: [left, top, width, height] };
}
