import gzip

import numpy as np
import pytest

from medfinder.errors import InputError
from medfinder.serve.coarse import check_edge, coarsen, encode_coarse
from medfinder.serve.slices import Landmarks, Pixels
from medfinder.volume.nifti import read_nifti

SPACING = (2.5, 0.7, 0.9)
TILTED = np.array(
    [[0.1, 0.0, 0.9, -12.0], [-0.2, 0.7, 0.0, 31.0], [2.5, 0.1, 0.0, 5.0], [0, 0, 0, 1.0]]
)


def pixels_of(hu, affine=TILTED):
    return Pixels(np.asarray(hu, dtype=np.int16), affine, Landmarks(0, None))


def coarse_slowly(hu, steps):
    """Block by block."""
    shape = [n // step for n, step in zip(hu.shape, steps, strict=True)]
    out = np.empty(shape)
    for at in np.ndindex(*shape):
        block = hu[tuple(slice(i * s, (i + 1) * s) for i, s in zip(at, steps, strict=True))]
        out[at] = block.astype(np.float64).mean()
    return out


@pytest.mark.parametrize(
    ("shape", "steps"),
    [((16, 16, 16), (1, 1, 1)), ((17, 40, 33), (2, 3, 3)), ((5, 32, 200), (1, 2, 13))],
)
def test_a_coarse_voxel_is_the_mean_of_its_block(shape, steps):
    hu = np.random.default_rng(0).integers(-3000, 3000, shape).astype(np.int16)
    made = coarsen(pixels_of(hu), 16).stored
    assert made.dtype == np.int16
    assert max(made.shape) <= 16
    assert np.abs(made - coarse_slowly(hu, steps)).max() <= 0.5


@pytest.mark.parametrize("edge", [16, 20, 512])
def test_a_point_of_the_body_keeps_its_place_in_the_world(edge):
    # HU that grow steadily with world coordinates: each coarse voxel then tells where it lies.
    d, h, w = np.indices((40, 30, 50))
    index = np.stack([d, h, w, np.ones_like(d)]).reshape(4, -1).astype(float)
    for axis in range(3):
        world = (TILTED @ index)[axis]
        volume = coarsen(pixels_of(np.rint(world * 100).reshape(40, 30, 50)), edge)
        at = np.stack([*np.indices(volume.shape).reshape(3, -1), np.ones(volume.stored.size)])
        told = (volume.affine @ at)[axis]
        assert np.abs(told - volume.stored.ravel() / 100).max() < 0.011


def test_a_volume_that_is_small_already_is_sent_as_it_is():
    hu = np.random.default_rng(1).integers(-1000, 1000, (16, 8, 9)).astype(np.int16)
    volume = coarsen(pixels_of(hu), 16)
    assert (volume.stored == hu).all()
    assert (volume.affine == TILTED).all()


def test_what_is_sent_is_a_nifti_that_our_reader_and_nibabel_understand(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    hu = np.random.default_rng(2).integers(-1000, 1000, (40, 30, 50)).astype(np.int16)
    path = tmp_path / "v.nii.gz"
    path.write_bytes(encode_coarse(pixels_of(hu), 20))
    volume, expected = read_nifti(path), coarsen(pixels_of(hu), 20)
    assert (volume.stored == expected.stored).all()
    assert np.allclose(volume.affine, expected.affine, atol=1e-4)
    image = nibabel.load(path)
    assert image.get_data_dtype() == np.int16
    assert np.allclose(image.affine, expected.affine[:, [2, 1, 0, 3]], atol=1e-4)


def test_the_same_volume_gives_the_same_bytes():
    pixels = pixels_of(np.zeros((20, 20, 20)))
    made = encode_coarse(pixels, 16)
    assert made == encode_coarse(pixels, 16)
    assert gzip.decompress(made)[:4] == (348).to_bytes(4, "little")


@pytest.mark.parametrize("edge", [15, 513, 0, -1])
def test_an_edge_that_no_browser_wants_is_refused(edge):
    with pytest.raises(InputError, match=f"edge of {edge} voxels is out of range") as error:
        check_edge(edge)
    assert error.value.rule == "bad-edge"
