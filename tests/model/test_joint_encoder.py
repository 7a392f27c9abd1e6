from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from medfinder.embed import Embedder
from medfinder.errors import InputError
from medfinder.model.joint_encoder import TEXT_BATCH, JointEncoder, to_unit_range, weights_sha256
from medfinder.volume.preprocess import PreprocessConfig
from medfinder.volume.volume import Volume
from stubs.dual_streams import CONFIG, TEXTS, tiny

Batch = npt.NDArray[np.uint8]


def batch(n: int = 2, seed: int = 0) -> Batch:
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 32, 32, 32), np.uint8)


@pytest.fixture(scope="module")
def encoder() -> JointEncoder:
    return JointEncoder(tiny())


def test_it_declares_both_streams_and_the_model_s_own_input(encoder: JointEncoder) -> None:
    info = encoder.info
    assert info.streams == {"volume", "text"}
    assert (info.name, info.dim, info.n_regions) == ("medfinder", 16, (2, 2, 2))
    assert info.preprocess == CONFIG.preprocess
    assert len(info.weights) == 12
    assert info.weights in info.model_id


def test_volumes_and_texts_become_vectors_of_one_length(encoder: JointEncoder) -> None:
    volumes, texts = encoder.encode_volumes(batch()), encoder.encode_texts(TEXTS)
    assert (volumes.shape, texts.shape) == ((2, 16), (len(TEXTS), 16))
    assert volumes.dtype == texts.dtype == np.float32
    assert not np.allclose(volumes[0], volumes[1])


def test_the_vectors_are_the_model_s_for_an_input_from_0_to_1(encoder: JointEncoder) -> None:
    with torch.inference_mode():
        x = torch.from_numpy(batch()).float() / 255
        direct = encoder.model.eval().embed_volumes(x).embedding.numpy()
    np.testing.assert_allclose(encoder.encode_volumes(batch()), direct, atol=1e-6)


def test_whole_numbers_and_floats_of_the_same_range_are_the_same(encoder: JointEncoder) -> None:
    as_floats = encoder.encode_volumes(batch().astype(np.float32))
    np.testing.assert_array_equal(encoder.encode_volumes(batch()), as_floats)


def test_the_input_is_scaled_from_the_preprocessing_s_range() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0])
    scaled = to_unit_range(x, PreprocessConfig(output_range=(-1.0, 1.0)))
    np.testing.assert_allclose(scaled, [0, 0.5, 1])
    assert to_unit_range(x, PreprocessConfig()) is x


def test_the_same_input_gives_the_same_bits(encoder: JointEncoder) -> None:
    again = JointEncoder(tiny())
    assert again.info.model_id == encoder.info.model_id
    np.testing.assert_array_equal(encoder.encode_volumes(batch()), again.encode_volumes(batch()))
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), again.encode_texts(TEXTS))


def test_a_vector_does_not_depend_on_its_neighbours(encoder: JointEncoder) -> None:
    volumes = encoder.encode_volumes(batch(3))
    np.testing.assert_allclose(encoder.encode_volumes(batch(3)[1:2]), volumes[1:2], atol=1e-5)
    many = [f"Nodule of {n} mm. {TEXTS[n % 4]}" * (1 + n % 3) for n in range(TEXT_BATCH + 3)]
    texts = encoder.encode_texts(many)
    for row in (0, TEXT_BATCH + 2):
        np.testing.assert_allclose(encoder.encode_texts([many[row]])[0], texts[row], atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"fusion": True}, {"pooling": "mean"}])
def test_regions_pool_to_the_vector(changes: dict[str, object]) -> None:
    encoder = JointEncoder(tiny(**changes))
    regions = encoder.region_features(batch())
    assert regions.shape == (2, 8, 32)
    assert regions.dtype == np.float16
    np.testing.assert_allclose(
        encoder.pool_regions(regions), encoder.encode_volumes(batch()), atol=5e-3
    )


def test_a_read_only_batch_is_taken(encoder: JointEncoder) -> None:
    fixed = batch()
    fixed.setflags(write=False)
    np.testing.assert_array_equal(encoder.encode_volumes(fixed), encoder.encode_volumes(batch()))


def test_encoding_leaves_every_part_in_the_mode_it_was() -> None:
    model = tiny().train()
    model.text.eval()
    before = [module.training for module in model.modules()]
    JointEncoder(model).encode_volumes(batch())
    assert [module.training for module in model.modules()] == before
    assert any(before)
    assert not all(before)


def test_encoding_in_training_is_what_it_is_in_use() -> None:
    model = tiny().train()
    model.text_head = torch.nn.Sequential(torch.nn.Dropout(0.5), model.text_head)
    vectors = JointEncoder(model).encode_texts(TEXTS)
    np.testing.assert_array_equal(vectors, JointEncoder(tiny()).encode_texts(TEXTS))


def test_encoding_leaves_the_mode_alone_when_it_fails() -> None:
    model = tiny().train()
    with pytest.raises(RuntimeError):
        JointEncoder(model).encode_volumes(batch()[:, :, :8])
    assert model.training


def test_other_weights_or_another_input_are_another_model() -> None:
    ids = {
        JointEncoder(model).info.model_id
        for model in (
            tiny(),
            tiny(seed=1),
            tiny(preprocess=replace(CONFIG.preprocess, spacing_mm=(9.0, 10.0, 10.0))),
        )
    }
    assert len(ids) == 3


def test_the_identity_of_weights_follows_names_types_shapes_and_values() -> None:
    x = torch.arange(4.0)
    alike = {"a": x, "b": torch.tensor(1.0)}
    assert weights_sha256(alike) == weights_sha256(dict(reversed(alike.items())))
    others = [{"a": x + 1}, {"b": x}, {"a": x.half()}, {"a": x.bfloat16()}, {"a": x.view(2, 2)}]
    assert len({weights_sha256(tensors) for tensors in [{"a": x}, *others]}) == 6


def test_volumes_go_through_the_embedder_end_to_end(encoder: JointEncoder) -> None:
    hu = np.random.default_rng(0).normal(-300, 300, (20, 30, 30)).astype(np.int16)
    vector = Embedder(encoder).embed_volume(Volume(hu, np.diag([10.0, 10, 10, 1])))
    assert vector.shape == (16,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_voxel_that_is_no_number_is_not_hidden_by_whole_numbers(encoder: JointEncoder) -> None:
    hu = np.zeros((20, 30, 30), np.float32)
    hu[10, 15, 15] = np.nan
    with pytest.raises(InputError, match="The volume of s7 holds values that are not finite") as e:
        Embedder(encoder).embed_volumes([("s7", Volume(hu, np.diag([10.0, 10, 10, 1])))])
    assert e.value.rule == "not-finite"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "mean"},
        {"pooling": "evidence", "n_signs": 6},
        {"fusion": True},
        {"normalised": False},
    ],
)
def test_what_regions_add_and_a_constant_are_the_similarity(changes: dict[str, object]) -> None:
    encoder = JointEncoder(tiny(**changes))
    regions, texts = encoder.region_features(batch(3)), encoder.encode_texts(TEXTS)
    parts = encoder.contributions(regions, texts)
    assert parts.shape == (3, len(TEXTS), 8)
    model = encoder.model.eval()
    with torch.inference_mode():
        projected = model.project(torch.from_numpy(regions).float())
        length = projected.norm(dim=-1) if model.config.normalised else torch.ones(3)
        constant = torch.from_numpy(texts) @ model.volume_head.bias / length[:, None]
    similarity = encoder.pool_regions(regions) @ texts.T
    np.testing.assert_allclose(parts.sum(2) + constant.numpy(), similarity, atol=1e-4)


def test_a_region_that_is_changed_is_where_the_parts_change_most() -> None:
    encoder = JointEncoder(tiny(pooling="evidence", n_signs=6))
    regions, texts = encoder.region_features(batch(1)), encoder.encode_texts(TEXTS[:1])
    changed = regions.copy()
    changed[0, 5] = regions[0, 5] * 4
    gap = encoder.contributions(changed, texts) - encoder.contributions(regions, texts)
    assert np.abs(gap[0, 0]).argmax() == 5
