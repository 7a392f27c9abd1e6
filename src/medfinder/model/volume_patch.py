"""Overlapping patches become cells, then dense convolutions on cells, halved on the way to regions.

Convolutions at full resolution are bound by memory on a CPU. One that strides by 4 voxels leaves
a grid of cells on which products are large enough to run near the machine's peak; one that strides
by 2 sees what is small, for two to four times the work.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfinder.model.volume_encoder import (
    VolumeEncoder,
    VolumeEncoderConfig,
    check_untrained,
    input_size,
    volume_networks,
)
from medfinder.volume.preprocess import PreprocessConfig

CELL_EDGES = {2: 4, 4: 6}
"""Voxels along an axis from one cell to the next -> that a cell sees."""


class Bottleneck(nn.Module):
    """Residual block: 1x1x1 to half the width, 3x3x3, 1x1x1 back.

    Batch normalisation, not group normalisation: after 6,400 phantoms the one had learned what the
    other had after twice as many (``docs/log.md``).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        middle = width // 2
        self.narrow = Step(width, middle, 1)
        self.look = Step(middle, middle, 3, padding=1)
        self.widen = nn.Conv3d(middle, width, 1, bias=False)
        self.norm = nn.BatchNorm3d(width)
        nn.init.constant_(self.norm.weight, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, D, H, W) -> the same shape."""
        return F.relu(x + self.norm(self.widen(self.look(self.narrow(x)))))


class Step(nn.Sequential):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, n_in: int, n_out: int, edge: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(
            nn.Conv3d(n_in, n_out, edge, stride, padding, bias=False),
            nn.BatchNorm3d(n_out),
            nn.ReLU(),
        )


class PatchNetwork(VolumeEncoder):
    """Volumes -> one region for each 8 x 8 x 8 or 16 x 16 x 16 voxels.

    Every halving of the grid doubles the features, up to `width`.

    Args:
        n_channels: Of the input.
        size: Of the input along (D, H, W), multiples of `region_voxels`.
        width: Features of a region; a multiple of 8.
        depth: Blocks on the grids of 4 (where cells are of 2) and 8 voxels; on that of 16 as many,
            at most 2.
        region_voxels: 8 or 16.
        cell_voxels: 2 or 4, from one cell to the next.
    """

    def __init__(
        self,
        n_channels: int,
        size: tuple[int, int, int],
        width: int,
        depth: int,
        region_voxels: int = 16,
        cell_voxels: int = 4,
    ) -> None:
        super().__init__()
        edge = region_voxels
        self.n_regions = (size[0] // edge, size[1] // edge, size[2] // edge)
        self.width = width
        second = width if edge == 8 else width // 2
        first = second // 2 if edge == 16 or cell_voxels == 2 else second // 4
        n_cells = first // 2 if cell_voxels == 2 else first
        self.cells = Step(n_channels, n_cells, CELL_EDGES[cell_voxels], cell_voxels, 1)
        filters = next(self.cells.parameters())  # of the convolution
        filters.data[:] = _waves(n_cells, CELL_EDGES[cell_voxels])[:, None] / n_channels
        self.detail: nn.Module = nn.Identity()
        if cell_voxels == 2:
            blocks = [Bottleneck(first) for _ in range(depth)]
            self.detail = nn.Sequential(Step(n_cells, first, 3, 2, 1), *blocks)
        self.halve = Step(first, second, 3, 2, 1)
        self.fine = nn.Sequential(*[Bottleneck(second) for _ in range(depth)])
        self.coarsen: nn.Module = nn.Identity()
        self.coarse: nn.Module = nn.Identity()
        if edge == 16:
            self.coarsen = Step(second, width, 2, 2)
            self.coarse = nn.Sequential(*[Bottleneck(width) for _ in range(min(depth, 2))])
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, C, D, H, W) in 0..1 -> (B, N, width)."""
        x = self.halve(self.detail(self.cells((volumes - 0.5) * 4)))
        x = self.coarse(self.coarsen(self.fine(x)))
        regions: Tensor = x.flatten(2).transpose(1, 2)
        return regions


def _waves(n: int, edge: int) -> Tensor:
    """Return the `n` slowest cosines of a patch that have no mean, each with its negative.

    (n, edge, edge, edge) of length 1: edges and blobs, not the noise that random filters start from.
    """
    at = (torch.arange(edge) + 0.5) * math.pi / edge
    wave = [(k * at).cos() for k in range(edge)]
    slow = sorted(itertools.product(range(edge), repeat=3), key=lambda k: (sum(k), k))[1:]
    made = torch.stack(
        [torch.einsum("d,h,w->dhw", wave[i], wave[j], wave[k]) for i, j, k in slow[: -(-n // 2)]]
    )
    made = made / made.flatten(1).norm(dim=1)[:, None, None, None]
    return torch.stack([made, -made], 1).flatten(0, 1)[:n]


@volume_networks.register("patch")
def build(config: VolumeEncoderConfig, preprocess: PreprocessConfig) -> VolumeEncoder:
    """Build the network for an input of fixed size, in 0..1.

    Raises:
        ConfigError: Regions do not divide the size, or see `check_untrained`.
    """
    check_untrained(config)
    edge = config.region_voxels
    size = input_size(preprocess, (edge, edge, edge))
    return PatchNetwork(
        preprocess.n_channels, size, config.width, config.depth, edge, config.cell_voxels
    )
