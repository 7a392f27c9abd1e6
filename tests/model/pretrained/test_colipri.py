from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medfinder.embed import Embedder
from medfinder.errors import Mismatch, MissingExtra
from medfinder.model.bert import read_word_pieces
from medfinder.model.encoder import load_encoder
from medfinder.model.pretrained import colipri
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.volume import Volume
from stubs import published

SMALL = replace(
    colipri.INFO,
    dim=24,
    n_regions=(2, 3, 4),
    preprocess=PreprocessConfig(
        spacing_mm=(2.0, 2.0, 2.0),
        size=(16, 24, 32),
        interpolation="trilinear",
        output_range=(-1.0, 1.0),
    ),
)
TEXTS = ["Left pleural effusion.", "No nodules in the right upper lobe, heart is normal"]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return published.patterned(published.colipri())


@pytest.fixture(scope="module")
def encoder(
    weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> colipri.COLIPRIEncoder:
    return build(weights, tmp_path_factory.mktemp("colipri"))


def build(weights: dict[str, Tensor], folder: Path) -> colipri.COLIPRIEncoder:
    tokenizer = read_word_pieces(published.write_vocabulary(folder))
    return colipri.COLIPRIEncoder(weights, tokenizer, SMALL)


def test_a_volume_gets_the_numbers_of_the_published_code(encoder: colipri.COLIPRIEncoder) -> None:
    # colipri 0.1.3 with dynamic-network-architectures 0.4.3 and timm 1.0.22: the same tensors, and
    # the same volume with its axes as (X, Y, Z)
    theirs = [-0.3755783, 0.2569187, -0.4726107, 0.6359543, -0.4501795, 0.2255316,
              -0.3387503, 0.5766956, -0.5077308, 0.2337959, -0.2128267, 0.4609199,
              -0.5243222, 0.2700444, -0.1176081, 0.3081470, -0.4843178, 0.3129452,
              -0.0655605, 0.1453543, -0.3847393, 0.3373867, -0.0559184, 0.0002726]  # fmt: skip
    batch = published.pattern(1, 1, 16, 24, 32).numpy()
    np.testing.assert_allclose(encoder.encode_volumes(batch)[0], theirs, atol=2e-5)


def test_cells_lie_in_the_order_of_the_volume(encoder: colipri.COLIPRIEncoder) -> None:
    batch = published.pattern(1, 1, 16, 24, 32).numpy()
    cells = encoder.region_features(batch)
    assert cells.shape == (1, 24, 24)
    assert cells.dtype == np.float16
    theirs = [2.681973, 3.048382, 3.167582, 2.676304, 2.201336]  # of the cell x = 3, y = 1, z = 0
    cell = cells[0, np.ravel_multi_index((0, 1, 3), SMALL.n_regions or ())]
    np.testing.assert_allclose(cell[:5], theirs, atol=2e-3)


def test_cells_pool_to_the_vector(encoder: colipri.COLIPRIEncoder) -> None:
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 1, 16, 24, 32)).astype(np.float32)
    pooled = encoder.pool_regions(encoder.region_features(batch))
    np.testing.assert_allclose(pooled, encoder.encode_volumes(batch), atol=2e-3)


def test_texts_get_the_numbers_of_the_published_code(encoder: colipri.COLIPRIEncoder) -> None:
    theirs = [  # colipri 0.1.3, each padded to 512 tokens
        [-0.706365, 0.589672, -0.808418, 0.980361, -0.802550, 0.579163],
        [-0.613503, 0.494383, -0.710860, 0.880696, -0.700943, 0.475781],
    ]
    np.testing.assert_allclose(encoder.encode_texts(TEXTS)[:, :6], theirs, atol=5e-6)


def test_a_text_has_one_vector_whatever_its_neighbours(encoder: colipri.COLIPRIEncoder) -> None:
    among = encoder.encode_texts(["heart " * 100, TEXTS[0], *["mass"] * 9])[1]
    np.testing.assert_allclose(among, encoder.encode_texts(TEXTS[:1])[0], atol=1e-6)


def test_a_text_is_read_to_its_512th_token(encoder: colipri.COLIPRIEncoder) -> None:
    long = "lung " * 510  # and two ends
    vectors = encoder.encode_texts([long, long + "effusion", "effusion " * 510])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[2] - vectors[0]).max() > 1e-3


def test_the_contract_is_192_voxels_of_2_mm_between_minus_1_and_1() -> None:
    config = colipri.INFO.preprocess
    assert config is not None
    hu = np.zeros((100, 40, 40), np.int16)
    hu[50:] = 3000
    hu[50:, :20] = -500
    affine = np.array([[0, 0, 3, 0], [0, 3, 0, 0], [4, 0, 0, 0], [0, 0, 0, 1.0]])
    made = preprocess(Volume(hu, affine), config)
    assert made.shape == (1, 192, 192, 192)
    assert config.n_channels == 1
    np.testing.assert_allclose(made[0, 10, 96, 96], 0)  # 400 mm of which 384 are kept
    np.testing.assert_allclose(made[0, 180, 110, 96], 1)  # clipped
    np.testing.assert_allclose(made[0, 180, 80, 96], -0.5)
    np.testing.assert_allclose(made[0, :, 65, 96], -1)  # 120 mm of 384: padded with air
    assert made[0, 10, 66, 96] == 0


def write(folder: Path, weights: dict[str, Tensor]) -> None:
    published.write_tensors(folder / "model.safetensors", weights)
    published.write_tokenizer(folder)


def test_published_files_are_embedded_end_to_end(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, weights)
    monkeypatch.setenv("MEDFINDER_COLIPRI", str(tmp_path))
    monkeypatch.setattr(colipri, "INFO", SMALL)
    embedder = Embedder(colipri.load())
    hu = np.random.default_rng(2).integers(-1000, 500, (20, 30, 40)).astype(np.int16)
    vector = embedder.embed_volume(Volume(hu, np.eye(4)))
    texts = embedder.embed_texts(TEXTS)
    assert vector.shape == (24,)
    np.testing.assert_allclose(np.linalg.norm([vector, *texts.vectors], axis=1), 1, atol=1e-5)
    assert embedder.region_features(Volume(hu, np.eye(4))).shape == (24, 24)


def test_files_in_the_hubs_cache_are_found(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revisions = {colipri.REPO: "1" * 40, colipri.TEXT_REPO: colipri.TEXT_REVISION}
    folders = {}
    for repo, revision in revisions.items():
        home = tmp_path / f"models--{repo.replace('/', '--')}"
        folders[repo] = home / "snapshots" / revision
        folders[repo].mkdir(parents=True)
        (home / "refs").mkdir()
    (tmp_path / f"models--{colipri.REPO.replace('/', '--')}" / "refs" / "main").write_text("1" * 40)
    published.write_tensors(folders[colipri.REPO] / "model.safetensors", weights)
    published.write_vocabulary(folders[colipri.TEXT_REPO])
    monkeypatch.delenv("MEDFINDER_COLIPRI", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(colipri, "INFO", SMALL)
    assert colipri.load().encode_texts(TEXTS).shape == (2, 24)


def test_other_weights_are_another_model(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colipri, "INFO", SMALL)
    write(tmp_path, weights)
    first = colipri.load(tmp_path).info.model_id
    assert colipri.load(tmp_path).info.model_id == first
    write(tmp_path, weights | {"softmax_temperature": torch.tensor(0.5)})
    assert colipri.load(tmp_path).info.model_id != first


def test_missing_weights_say_in_one_line_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFINDER_COLIPRI", str(tmp_path))
    with pytest.raises(MissingExtra) as error:
        load_encoder("colipri")
    assert str(error.value) == (
        "colipri has no model.safetensors: hf download microsoft/colipri model.safetensors && hf "
        "download microsoft/BiomedVLP-CXR-BERT-specialized vocab.txt"
        "  # or MEDFINDER_COLIPRI=FOLDER that holds them"
    )


def test_a_missing_tokeniser_is_told(weights: dict[str, Tensor], tmp_path: Path) -> None:
    published.write_tensors(tmp_path / "model.safetensors", weights)
    with pytest.raises(
        MissingExtra, match=r"colipri has no vocab.txt or tokenizer.json: hf download"
    ):
        colipri.load(tmp_path)


def test_missing_unexpected_and_misshapen_tensors_are_named(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = dict(weights)
    for i in range(2):
        for name in ("norm1.weight", "norm1.bias", "gamma_1"):
            del changed[f"image_encoder.backbone.eva.blocks.{i}.{name}"]
    changed["text_encoder.backbone.pooler.dense.bias"] = torch.zeros(24)
    changed["image_encoder.projector.bias"] = torch.zeros(23)
    with pytest.raises(Mismatch) as error:
        build(changed, tmp_path)
    blocks = "image_encoder.backbone.eva.blocks."
    assert str(error.value) == (
        "The weights of colipri are not of the architecture that is read: missing "
        f"{blocks}0.gamma_1, {blocks}0.norm1.bias, {blocks}0.norm1.weight, {blocks}1.gamma_1 and "
        "2 more; unexpected text_encoder.backbone.pooler.dense.bias; image_encoder.projector.bias "
        "is (23,), expected (24,). Get the published file again."
    )


def test_weights_of_another_size_than_declared_are_refused(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    tokenizer = read_word_pieces(published.write_tokenizer(tmp_path))
    with pytest.raises(
        Mismatch, match=r"take \(16, 24, 24\), its preprocessing makes \(16, 24, 32"
    ):
        colipri.COLIPRIEncoder(weights, tokenizer, replace(SMALL, n_regions=(2, 3, 3)))
    with pytest.raises(Mismatch, match="make 24 numbers, expected 768"):
        colipri.COLIPRIEncoder(weights, tokenizer, replace(SMALL, dim=768))
