from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medfinder.embed import Embedder
from medfinder.errors import ConfigError, Mismatch, MissingExtra
from medfinder.model.bert import read_word_pieces
from medfinder.model.encoder import load_encoder
from medfinder.model.pretrained import biomedclip_slices as biomedclip
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.volume import Volume
from stubs import published

SMALL = replace(
    biomedclip.INFO,
    dim=12,
    n_regions=(5, 1, 1),
    preprocess=PreprocessConfig(size=(5, 32, 32), windows_hu=((-1350.0, 150.0), (-160.0, 240.0))),
)
TEXTS = ["Left pleural effusion.", "No nodules in the right upper lobe, heart is normal"]


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return published.patterned(published.biomedclip())


def build(
    weights: dict[str, Tensor],
    folder: Path,
    pooling: biomedclip.Pooling = "median",
) -> biomedclip.BiomedCLIPSlices:
    tokenizer = read_word_pieces(published.write_tokenizer(folder))
    return biomedclip.BiomedCLIPSlices(weights, tokenizer, pooling, SMALL)


@pytest.fixture
def encoder(weights: dict[str, Tensor], tmp_path: Path) -> biomedclip.BiomedCLIPSlices:
    return build(weights, tmp_path)


def test_a_picture_gets_the_numbers_of_the_published_code(
    encoder: biomedclip.BiomedCLIPSlices,
) -> None:
    # open_clip 3.3.0 with timm 1.0.22, the same tensors and picture
    theirs = [1.629746, -1.593363, 1.554341, -1.512744, 1.468641, -1.422104,
              1.373212, -1.322045, 1.268687, -1.213228, 1.155759, -1.096376]  # fmt: skip
    with torch.inference_mode():
        ours = encoder.head(encoder.trunk(published.pattern(1, 3, 32, 32)))[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_texts_get_the_numbers_of_the_published_code(encoder: biomedclip.BiomedCLIPSlices) -> None:
    theirs = [  # open_clip 3.3.0's text tower, one text at a time
        [-0.163308, -0.022462, 0.132525, 0.204074, 0.147135, -0.002442,
         -0.150481, -0.203776, -0.128770, 0.027310, 0.166196, 0.200443],
        [-0.154662, -0.020749, 0.126228, 0.193731, 0.139258, -0.002893,
         -0.143223, -0.193377, -0.121779, 0.026493, 0.158085, 0.190144],
    ]  # fmt: skip
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), theirs, atol=2e-6)


def test_slices_are_seen_upright_standardised_and_in_both_windows(
    encoder: biomedclip.BiomedCLIPSlices,
) -> None:
    batch = np.random.default_rng(0).random((1, 2, 5, 32, 32), np.float32)
    expected = []
    for window in range(2):
        rows = batch[0, window, 3][::-1, ::-1]  # anterior up, the patient's right on the left
        picture = np.stack(
            [(rows - m) / d for m, d in zip(biomedclip.MEAN, biomedclip.DEVIATION, strict=True)]
        )
        with torch.inference_mode():
            vector = encoder.head(encoder.trunk(torch.from_numpy(picture.astype(np.float32))[None]))
        expected.append(vector[0].numpy() / np.linalg.norm(vector))
    slices = encoder.region_features(batch)
    assert slices.shape == (1, 5, 12)
    assert slices.dtype == np.float16
    np.testing.assert_allclose(slices[0, 3], np.mean(expected, 0), atol=1e-3)


@pytest.mark.parametrize(
    ("pooling", "pool"), [("median", np.median), ("max", np.max), ("mean", np.mean)]
)
def test_slices_are_pooled_number_by_number(
    pooling: biomedclip.Pooling, pool: object, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    encoder = build(weights, tmp_path, pooling)
    batch = np.random.default_rng(1).random((2, 2, 5, 32, 32), np.float32)
    slices, vectors = encoder.region_features(batch), encoder.encode_volumes(batch)
    assert callable(pool)
    np.testing.assert_allclose(vectors, pool(slices.astype(np.float32), axis=1), atol=1e-3)
    np.testing.assert_allclose(encoder.pool_regions(slices), vectors, atol=1e-3)


def test_an_unknown_pooling_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pooling of slices is 'sum'; expected median, max, mean"):
        build(weights, tmp_path, "sum")  # type: ignore[arg-type]


def test_a_text_has_one_vector_whatever_its_neighbours(
    encoder: biomedclip.BiomedCLIPSlices,
) -> None:
    among = encoder.encode_texts([TEXTS[1] * 9, TEXTS[0], *["heart"] * 20])[1]
    np.testing.assert_allclose(among, encoder.encode_texts(TEXTS[:1])[0], atol=1e-6)


def test_a_text_is_read_to_its_256th_token(encoder: biomedclip.BiomedCLIPSlices) -> None:
    long = "lung " * 254  # and two ends
    # Each by itself: in one batch some processors round rows differently.
    texts = (long, long + "effusion", "lung " * 253 + "effusion")
    whole, cut, other = (encoder.encode_texts([text])[0] for text in texts)
    np.testing.assert_array_equal(whole, cut)
    assert np.abs(other - whole).max() > 1e-6


def test_escapes_and_line_breaks_do_not_count(encoder: biomedclip.BiomedCLIPSlices) -> None:
    plain, escaped = (
        encoder.encode_texts([text])[0] for text in ("a < 2 cm", "a &amp;lt;\n\n 2  cm")
    )
    np.testing.assert_array_equal(plain, escaped)


def test_the_contract_is_32_windowed_slabs_of_224() -> None:
    config = biomedclip.INFO.preprocess
    assert config is not None
    hu = np.full((8, 16, 16), -1000, np.int16)
    hu[:4] = 40
    made = preprocess(Volume(hu, np.eye(4)), config)
    assert made.shape == (2, 32, 224, 224)
    np.testing.assert_allclose(made[:, 0, 0, 0], [1390 / 1500, 0.5], atol=1e-6)  # soft tissue
    np.testing.assert_allclose(made[:, -1, 0, 0], [350 / 1500, 0], atol=1e-6)  # air


@pytest.mark.parametrize("weights_file", biomedclip.WEIGHTS_FILES)
@pytest.mark.parametrize("write_pieces", [published.write_tokenizer, published.write_vocabulary])
def test_published_files_are_found_read_and_embedded_end_to_end(
    weights_file: str,
    write_pieces: object,
    weights: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = {"text.transformer.embeddings.position_ids": torch.arange(512)[None]}
    published.write_tensors(tmp_path / weights_file, weights | counter)
    published.write_open_clip_config(tmp_path)
    assert callable(write_pieces)
    write_pieces(tmp_path)
    monkeypatch.setenv("MEDFINDER_BIOMEDCLIP", str(tmp_path))
    monkeypatch.setattr(biomedclip, "INFO", SMALL)
    embedder = Embedder(biomedclip.load())
    hu = np.random.default_rng(2).integers(-1000, 500, (20, 30, 40)).astype(np.int16)
    vector = embedder.embed_volume(Volume(hu, np.eye(4)))
    texts = embedder.embed_texts(TEXTS)
    assert vector.shape == (12,)
    np.testing.assert_allclose(np.linalg.norm([vector, *texts.vectors], axis=1), 1, atol=1e-5)
    direct = build(weights, tmp_path).encode_texts(TEXTS)
    np.testing.assert_allclose(
        texts.vectors, direct / np.linalg.norm(direct, axis=1, keepdims=True), atol=1e-5
    )
    assert embedder.region_features(Volume(hu, np.eye(4))).shape == (5, 12)


def test_other_weights_or_another_pooling_are_another_model(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(biomedclip, "INFO", SMALL)
    published.write_open_clip_config(tmp_path)
    published.write_tokenizer(tmp_path)
    ids = set()
    for factor in (1, 2):
        changed = weights | {"logit_scale": weights["logit_scale"] * factor + factor}
        published.write_tensors(tmp_path / biomedclip.WEIGHTS_FILES[1], changed)
        ids |= {biomedclip.load(p, tmp_path).info.model_id for p in ("median", "max", "mean")}
    assert len(ids) == 6


@pytest.mark.parametrize("name", ["", "_max", "_mean"])
def test_missing_weights_say_in_one_line_what_is_needed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFINDER_BIOMEDCLIP", str(tmp_path))
    with pytest.raises(MissingExtra) as error:
        load_encoder(f"biomedclip_slices{name}")
    assert str(error.value) == (
        "biomedclip has no open_clip_pytorch_model.bin or open_clip_model.safetensors: "
        "hf download microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 "
        "open_clip_pytorch_model.bin open_clip_config.json vocab.txt"
        "  # or MEDFINDER_BIOMEDCLIP=FOLDER that holds them"
    )


def test_missing_unexpected_and_misshapen_tensors_are_named(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    del weights["visual.trunk.norm.bias"]
    weights["visual.trunk.extra"] = torch.zeros(1)
    weights["text.proj.2.weight"] = torch.zeros(12, 7)
    with pytest.raises(Mismatch) as error:
        build(weights, tmp_path)
    assert str(error.value) == (
        "The weights of biomedclip_slices are not of the architecture that is read: missing "
        "visual.trunk.norm.bias; unexpected visual.trunk.extra; text.proj.2.weight is (12, 7), "
        "expected (12, 18). Get the published file again."
    )


@pytest.mark.parametrize(
    "key", ["visual.trunk.pos_embed", "visual.head.proj.weight", "text.proj.0.weight",
            "text.transformer.embeddings.word_embeddings.weight"],
)  # fmt: skip
def test_a_missing_tensor_that_tells_a_size_is_named(
    key: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    del weights[key]
    with pytest.raises(Mismatch, match=f"missing {key.removeprefix('text.transformer.')}"):
        build(weights, tmp_path)


def test_weights_of_another_size_than_declared_are_refused(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    tokenizer = read_word_pieces(published.write_tokenizer(tmp_path))
    with pytest.raises(
        Mismatch, match=r"slices of 32 x 32, its preprocessing makes \(32, 224, 224"
    ):
        biomedclip.BiomedCLIPSlices(weights, tokenizer)
    with pytest.raises(Mismatch, match="make 12 numbers, expected 13"):
        biomedclip.BiomedCLIPSlices(weights, tokenizer, info=replace(SMALL, dim=13))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "open_clip_config.json of biomedclip is not JSON"),
        ("{}", "says model_cfg.vision_cfg.timm_model_name = None, expected 'vit_base_patch16_224'"),
    ],
)
def test_another_configuration_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(Mismatch, match=message):
        biomedclip.check_contract(tmp_path / "open_clip_config.json")


def test_another_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match=r"text_cfg.context_length = 77, expected 256"):
        biomedclip.check_contract(published.write_open_clip_config(tmp_path, context_length=77))
