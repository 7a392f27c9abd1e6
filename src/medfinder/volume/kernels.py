"""Compiled inner loops of preprocessing; imported on first use, because numba takes 0.3 s.

Those of resampling work on an array in its memory order, whatever the axes mean; those of finding
the lungs on (D, H, W). All release the GIL and start no threads: the caller splits the work, so
that they run inside any thread or process pool. Multiply and add stay two roundings (no fused
contraction): every machine gives the same bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.compiled import compiled


@compiled
def resample_slab(
    values: npt.NDArray[Any],
    starts_a: npt.NDArray[np.int64],
    weights_a: npt.NDArray[np.float32],
    starts_b: npt.NDArray[np.int64],
    weights_b: npt.NDArray[np.float32],
    starts_c: npt.NDArray[np.int64],
    weights_c: npt.NDArray[np.float32],
    gains: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.float32],
    low: float,
    high: float,
    out: npt.NDArray[np.float32],
) -> None:
    """Weight, sum, scale and clip ``values`` (A, B, C) into ``out`` (channels, a, b, c).

    Output ``i`` of an axis is the sum over ``k`` of ``weights[i, k] * values[starts[i] + k]``; a
    weight of 0 is a tap that does not count; `weights_c` is transposed, (taps, c). Then channel ``n`` is ``sum * gains[n] + offsets[n]``,
    clipped to [low, high].
    """
    n_channels, n_a, n_b, n_c = out.shape
    n_taps = weights_c.shape[0]
    first = starts_c.min()
    reach = starts_c.max() + n_taps - first  # with taps of weight 0, which may lie outside
    width = min(reach, values.shape[2] - first)
    row_sum = np.zeros(reach, np.float32)
    line = np.empty(n_c, np.float32)
    relative = starts_c - first
    low32, high32 = np.float32(low), np.float32(high)
    for i in range(n_a):
        for j in range(n_b):
            row_sum[:width] = 0
            for p in range(weights_a.shape[1]):
                weight_a = weights_a[i, p]
                if weight_a == 0:
                    continue
                for q in range(weights_b.shape[1]):
                    weight = weight_a * weights_b[j, q]
                    if weight == 0:
                        continue
                    row = values[starts_a[i] + p, starts_b[j] + q, first : first + width]
                    for c in range(width):
                        row_sum[c] += weight * np.float32(row[c])
            line[:] = 0
            for r in range(n_taps):  # taps outside, outputs inside: gathers, eight or more at once
                weights = weights_c[r]
                for k in range(n_c):
                    line[k] += weights[k] * row_sum[relative[k] + r]
            for n in range(n_channels):
                gain, offset, target = gains[n], offsets[n], out[n, i, j]
                for k in range(n_c):
                    target[k] = min(max(line[k] * gain + offset, low32), high32)


@compiled
def foreground_bounds(
    values: npt.NDArray[Any], threshold: float, above: bool
) -> tuple[int, int, int, int, int, int]:
    """Return the box (a0, a1, b0, b1, c0, c1), ends exclusive, of the values beyond a threshold.

    Looks from outside inwards and stops at the first hit, so that it reads little of a volume
    that reaches its borders. All zeros when there is no such value.
    """
    n_a, n_b, n_c = values.shape
    a0 = n_a
    for i in range(n_a):
        if _any(values[i], threshold, above):
            a0 = i
            break
    if a0 == n_a:
        return 0, 0, 0, 0, 0, 0
    a1 = a0 + 1
    for i in range(n_a - 1, a0, -1):
        if _any(values[i], threshold, above):
            a1 = i + 1
            break
    b0 = 0
    while not _any(values[a0:a1, b0], threshold, above):
        b0 += 1
    b1 = n_b
    while not _any(values[a0:a1, b1 - 1], threshold, above):
        b1 -= 1
    c0, c1 = n_c, 0
    for i in range(a0, a1):
        for j in range(b0, b1):
            for k in range(c0):
                if (values[i, j, k] > threshold) if above else (values[i, j, k] < threshold):
                    c0 = k
                    break
            for k in range(n_c - 1, c1 - 1, -1):
                if (values[i, j, k] > threshold) if above else (values[i, j, k] < threshold):
                    c1 = k + 1
                    break
    return a0, a1, b0, b1, c0, c1


@compiled
def _any(plane: npt.NDArray[Any], threshold: float, above: bool) -> bool:
    for i in range(plane.shape[0]):
        hits = 0
        for k in range(plane.shape[1]):  # no early exit inside a row: it is vectorised
            hits += (plane[i, k] > threshold) if above else (plane[i, k] < threshold)
        if hits:
            return True
    return False


@compiled
def mean_of_cubes(values: npt.NDArray[np.float32]) -> None:
    """Replace each value by the mean of the 3 x 3 x 3 around it; beyond a border its value holds."""
    n_a, n_b, n_c = values.shape
    line = np.empty(n_c, np.float32)
    plane = np.empty((n_b, n_c), np.float32)
    before, now = values[0].copy(), values[0].copy()
    for i in range(n_a):  # each sum in float64, rounded once an axis
        now[:] = values[i]
        after = values[min(i + 1, n_a - 1)]
        for j in range(n_b):
            for k in range(n_c):
                total = np.float64(before[j, k]) + np.float64(now[j, k]) + np.float64(after[j, k])
                plane[j, k] = total / 3.0
        for j in range(n_b):
            low, mid, high = plane[max(j - 1, 0)], plane[j], plane[min(j + 1, n_b - 1)]
            row = values[i, j]
            for k in range(n_c):
                total = np.float64(low[k]) + np.float64(mid[k]) + np.float64(high[k])
                line[k] = total / 3.0
            for k in range(n_c):
                total = np.float64(line[max(k - 1, 0)]) + np.float64(line[k])
                row[k] = (total + np.float64(line[min(k + 1, n_c - 1)])) / 3.0
        before, now = now, before


@compiled
def open_mask(mask: npt.NDArray[np.bool_], out: npt.NDArray[np.bool_]) -> None:
    """Erode by the six neighbours, nothing lying outside, and grow back; `out` must be False."""
    n_a, n_b, n_c = mask.shape
    for i in range(1, n_a - 1):
        for j in range(1, n_b - 1):
            for k in range(1, n_c - 1):
                if (
                    mask[i, j, k]
                    and mask[i, j, k - 1]
                    and mask[i, j, k + 1]
                    and mask[i, j - 1, k]
                    and mask[i, j + 1, k]
                    and mask[i - 1, j, k]
                    and mask[i + 1, j, k]
                ):
                    out[i, j, k - 1 : k + 2] = True
                    out[i, j - 1, k] = out[i, j + 1, k] = True
                    out[i - 1, j, k] = out[i + 1, j, k] = True


@compiled
def fill_planes(mask: npt.NDArray[np.bool_], out: npt.NDArray[np.bool_]) -> None:
    """Fill each plane's holes: what no path over edges joins to its border; `out` must be True."""
    n_a, n_b, n_c = mask.shape
    stack = np.empty(n_b * n_c + 1, np.int64)
    for i in range(n_a):
        plane, free = mask[i], out[i]
        n = 0
        for j in range(n_b):
            for k in range(n_c):
                rim = j == 0 or k == 0 or j == n_b - 1 or k == n_c - 1
                if not rim or plane[j, k] or not free[j, k]:
                    continue
                free[j, k] = False
                stack[0], n = j * n_c + k, 1
                while n:
                    n -= 1
                    b, c = stack[n] // n_c, stack[n] % n_c
                    for db, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                        q, r = b + db, c + dc
                        if 0 <= q < n_b and 0 <= r < n_c and free[q, r] and not plane[q, r]:
                            free[q, r] = False
                            stack[n] = q * n_c + r
                            n += 1
