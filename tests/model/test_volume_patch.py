"""The volume network for a CPU: its grid, its first filters, its input."""

import pytest
import torch

import medfinder.model.networks  # noqa: F401
from medfinder.errors import ConfigError
from medfinder.model.volume_encoder import VolumeEncoder, VolumeEncoderConfig, volume_networks
from medfinder.model.volume_patch import _waves
from medfinder.volume.preprocess import PreprocessConfig


def network(
    region_voxels: int, size: tuple[int, int, int] = (32, 48, 64), cell_voxels: int = 4
) -> VolumeEncoder:
    config = VolumeEncoderConfig(
        width=32,
        depth=1,
        region_voxels=region_voxels,  # type: ignore[arg-type]
        cell_voxels=cell_voxels,  # type: ignore[arg-type]
    )
    preprocess = PreprocessConfig(spacing_mm=(5.0, 5.0, 5.0), size=size)
    return volume_networks.get("patch")(config, preprocess).eval()


@pytest.mark.parametrize("cell", [2, 4])
@pytest.mark.parametrize(("edge", "grid"), [(8, (4, 6, 8)), (16, (2, 3, 4))])
def test_a_region_stands_for_as_many_voxels_as_asked(
    edge: int, grid: tuple[int, ...], cell: int
) -> None:
    made = network(edge, cell_voxels=cell)
    assert made.n_regions == grid
    assert made(torch.rand(2, 1, 32, 48, 64)).shape == (2, grid[0] * grid[1] * grid[2], 32)


@pytest.mark.parametrize("cell", [2, 4])
@pytest.mark.parametrize("edge", [8, 16])
def test_regions_lie_in_the_order_of_the_grid(edge: int, cell: int) -> None:
    made = network(edge, (64, 64, 64), cell)
    dark = torch.zeros(1, 1, 64, 64, 64)
    bright = dark.clone()
    bright[..., 48:56, 32:40, 16:24] = 1
    with torch.no_grad():
        moved = (made(bright) - made(dark)).abs().sum(-1).view(made.n_regions)
    where = torch.tensor(divmod_all(int(moved.argmax()), made.n_regions)).float() * edge
    assert (where - torch.tensor([48.0, 32, 16])).abs().max() <= edge


def divmod_all(place: int, grid: tuple[int, int, int]) -> tuple[int, int, int]:
    d, rest = divmod(place, grid[1] * grid[2])
    return d, *divmod(rest, grid[2])


def test_smaller_cells_see_more_of_what_is_small() -> None:
    """How far a single voxel moves the first features, beside how far a whole block does."""
    share = {}
    for cell in (2, 4):
        torch.manual_seed(0)
        cells = network(8, (32, 32, 32), cell).cells
        voxel, block = torch.zeros(2, 1, 1, 32, 32, 32).unbind()
        voxel[..., 17, 17, 17] = 1
        block[..., 12:20, 12:20, 12:20] = 1
        with torch.no_grad():
            still = cells(torch.zeros(1, 1, 32, 32, 32))
            moved = [float((cells(x) - still).abs().max()) for x in (voxel, block)]
        share[cell] = moved[0] / moved[1]
    assert share[2] > share[4]


@pytest.mark.parametrize("edge", [4, 6])
def test_the_first_filters_are_slow_waves_in_pairs_without_a_mean(edge: int) -> None:
    waves = _waves(7, edge)
    assert waves.shape == (7, edge, edge, edge)
    assert torch.equal(waves[0], -waves[1])
    torch.testing.assert_close(waves.flatten(1).norm(dim=1), torch.ones(7))
    torch.testing.assert_close(waves.flatten(1).mean(1), torch.zeros(7), atol=1e-6, rtol=0)


def test_a_size_that_regions_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs multiples of \(16, 16, 16\)"):
        network(16, (32, 40, 64))
