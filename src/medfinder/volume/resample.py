"""Separable resampling as tables: which inputs each output of one axis takes, and how much.

An output along one axis is ``sum_k weights[i, k] * input[starts[i] + k]``. The three tables of a
volume are applied in one pass by `medfinder.volume.kernels`. Nothing here sees a voxel.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Interpolation = Literal["area", "trilinear"]
Grid = Literal["edges", "centres"]


@dataclass(frozen=True, eq=False)
class Taps:
    """Inputs and weights of every output along one axis.

    Attributes:
        starts: (n_out,) int64, first input of each output.
        weights: (n_out, k) float32; each row sums to 1, unused taps are 0 and at the end.
    """

    starts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.starts)

    def part(self, start: int, stop: int) -> "Taps":
        """Keep the outputs [start, stop)."""
        return Taps(self.starts[start:stop], self.weights[start:stop])

    def mirrored(self, n_in: int) -> "Taps":
        """Take the same outputs from an input whose axis runs the other way."""
        used = (self.weights != 0).cumsum(axis=1).argmax(axis=1) + 1  # position of the last tap
        column = used[:, None] - 1 - np.arange(self.weights.shape[1])
        weights = np.take_along_axis(self.weights, np.maximum(column, 0), axis=1)
        weights = np.where(column >= 0, weights, np.float32(0))
        return Taps(n_in - self.starts - used, np.ascontiguousarray(weights, np.float32))

    def shifted(self, by: int) -> "Taps":
        """Take the same outputs from an input that begins `by` earlier."""
        return Taps(self.starts + by, self.weights)


def area(n_in: int, n_out: int) -> Taps:
    """Average the inputs from floor(i n_in / n_out) up to ceil((i + 1) n_in / n_out).

    Every input that an output touches counts fully and inputs may count twice: it is adaptive
    average pooling, not a box with fractional ends. Enlarging repeats and blends neighbours.

    Source:
        The definition of ``torch.nn.functional.interpolate(mode="area")``.
    """
    i = np.arange(n_out, dtype=np.int64)
    starts = i * n_in // n_out
    counts = -((-(i + 1) * n_in) // n_out) - starts
    used = np.arange(int(counts.max())) < counts[:, None]
    return Taps(starts, (used / counts[:, None]).astype(np.float32))


def linear(n_in: int, n_out: int, step: float, grid: Grid) -> Taps:
    """Blend the two inputs around each output's position; outside, the border value holds.

    Args:
        step: Distance between outputs, in inputs.
        grid: "edges": the outer edges of the first voxels coincide, output i lies at
            (i + 0.5) * step - 0.5, as ITK and torch with ``align_corners=False`` resize.
            "centres": the first voxels' centres coincide, output i lies at i * step, as MONAI's
            ``Spacing`` and nibabel's ``resample_to_output`` do.
    """
    i = np.arange(n_out, dtype=np.float64)
    position = (i + 0.5) * step - 0.5 if grid == "edges" else i * step
    position = np.clip(position, 0, n_in - 1)
    starts = np.minimum(position.astype(np.int64), max(n_in - 2, 0))
    right = (position - starts).astype(np.float32)
    weights = np.stack([1 - right, right], axis=1)
    return Taps(starts, weights) if n_in > 1 else Taps(starts, np.ones((n_out, 1), np.float32))


def identity(n: int) -> Taps:
    """Take every input as it is."""
    return Taps(np.arange(n, dtype=np.int64), np.ones((n, 1), np.float32))
