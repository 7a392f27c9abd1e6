import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from medfinder.embed import Embedder
from medfinder.errors import Mismatch, MissingExtra
from medfinder.model.encoder import load_encoder
from medfinder.model.pretrained import merlin
from medfinder.model.resnet3d import BLOCKS_152
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.volume import Volume
from stubs import published
from stubs.published import Shapes, linear, norm

WIDTH, TEXT_WIDTH, DIM, SIZE, REGIONS = 8, 24, 20, (32, 64, 64), (2, 2, 2)
CONTRACT = merlin.INFO.preprocess or PreprocessConfig()
SMALL = replace(merlin.INFO, dim=DIM, n_regions=REGIONS, preprocess=replace(CONTRACT, size=SIZE))
TEXTS = ["Left pleural effusion.", "No nodules (in the right upper lobe), heart is normal"]
MERGES = ["l e", "le f", "lef t", "Ġ left", "Ġ l", "o b", "ob e", "Ġl obe"]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
WORDS += [merge.replace(" ", "") for merge in MERGES] + ["<mask>"]


def volume_shapes() -> Shapes:
    made: Shapes = {"conv1.weight": (WIDTH, 3, 3, 7, 7), **batch_norm("bn1", WIDTH)}
    n_in = WIDTH
    for i, n_blocks in enumerate(BLOCKS_152):
        inside = WIDTH * 2**i
        for j in range(n_blocks):
            block = f"layer{i + 1}.{j}"
            made[f"{block}.conv1.weight"] = (inside, n_in, 1, 1, 1)
            made[f"{block}.conv2.weight"] = (inside, inside, 3, 3, 3)
            made[f"{block}.conv3.weight"] = (4 * inside, inside, 1, 1, 1)
            for k, width in enumerate((inside, inside, 4 * inside)):
                made |= batch_norm(f"{block}.bn{k + 1}", width)
            if j == 0:
                made[f"{block}.downsample.0.weight"] = (4 * inside, n_in, 1, 1, 1)
                made |= batch_norm(f"{block}.downsample.1", 4 * inside)
            n_in = 4 * inside
    for name, n_out in (("classifier", 30), ("contrastive_head", DIM)):
        made |= {f"{name}.weight": (n_out, n_in, 1, 1, 1), f"{name}.bias": (n_out,)}
    return made


def batch_norm(name: str, width: int) -> Shapes:
    moments = {f"{name}.{k}": (width,) for k in ("running_mean", "running_var")}
    return {**norm(name, width), **moments, f"{name}.num_batches_tracked": ()}


def text_shapes() -> Shapes:
    made = published.bert(width=TEXT_WIDTH, depth=12)
    for i in range(12):
        for part in ("query", "key", "value"):
            name = f"encoder.layer.{i}.attention.self.{part}_global"
            made |= linear(name, TEXT_WIDTH, TEXT_WIDTH)
    made["embeddings.word_embeddings.weight"] = (len(WORDS), TEXT_WIDTH)
    made["embeddings.position_embeddings.weight"] = (1026, TEXT_WIDTH)
    made["embeddings.token_type_embeddings.weight"] = (1, TEXT_WIDTH)
    return made | linear("pooler.dense", TEXT_WIDTH, TEXT_WIDTH)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random, but the same on every machine and with every version of torch."""
    shapes = {f"encode_image.i3_resnet.{k}": v for k, v in volume_shapes().items()}
    shapes |= {f"encode_text.text_encoder.{k}": v for k, v in text_shapes().items()}
    shapes |= linear("encode_text.linear_layer", DIM, TEXT_WIDTH)
    random = np.random.RandomState(0)
    made = {"logit_scale": torch.tensor(1.0)}
    for name, shape in sorted(shapes.items()):
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(7)
            continue
        values = random.standard_normal(shape)
        if len(shape) > 1:
            values /= math.prod(shape[1:]) ** 0.5
        else:
            values = 0.1 * values + (not name.endswith(("bias", "mean")))
        made[name] = torch.from_numpy(values.astype(np.float32))
    return made


def write_tokenizer(folder: Path) -> None:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *MERGES])
    (folder / "merges.txt").write_text(lines + "\n", encoding="utf-8")


def write(folder: Path, weights: dict[str, Tensor]) -> None:
    published.write_tensors(folder / merlin.CHECKPOINT, weights)
    write_tokenizer(folder)


def read_tokenizer(folder: Path) -> Tokenizer:
    return merlin.read_byte_pairs(folder / "vocab.json", folder / "merges.txt")


def build(weights: dict[str, Tensor], folder: Path, **changed: Any) -> merlin.MerlinEncoder:
    write_tokenizer(folder)
    info = replace(SMALL, **changed)
    return merlin.MerlinEncoder(weights, read_tokenizer(folder), info, "plain")


@pytest.fixture(scope="module")
def encoder(
    weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> merlin.MerlinEncoder:
    return build(weights, tmp_path_factory.mktemp("merlin"))


def volumes(n: int = 2) -> Any:
    return np.random.RandomState(1).uniform(0, 1, (n, 1, *SIZE)).astype(np.float32)


def test_a_volume_gets_the_numbers_of_the_published_code(encoder: merlin.MerlinEncoder) -> None:
    # I3ResNet of merlin-vlm 0.0.7: the same tensors, and the same volumes with axes (X, Y, Z)
    theirs = [[-3.9106, 1.1857, -1.2815, -15.2937, -9.6259, -19.6774, 4.9424, -1.4742],
              [-3.9605, 1.0903, -1.418, -15.0709, -9.4621, -19.4998, 5.0181, -1.3863]]  # fmt: skip
    vectors = encoder.encode_volumes(volumes())
    assert vectors.shape == (2, DIM)
    np.testing.assert_allclose(vectors[:, :8], theirs, rtol=1e-3, atol=1e-4)


def test_regions_pool_to_the_vector(encoder: merlin.MerlinEncoder) -> None:
    regions = encoder.region_features(volumes())
    assert regions.shape == (2, 8, 32 * WIDTH)
    assert regions.dtype == np.float16
    vectors = encoder.encode_volumes(volumes())
    np.testing.assert_allclose(encoder.pool_regions(regions), vectors, rtol=2e-3, atol=2e-3)


def test_fast_and_plain_vectors_are_equal(weights: dict[str, Tensor], tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    plain, fast = (
        merlin.MerlinEncoder(weights, read_tokenizer(tmp_path), SMALL, how).encode_volumes(
            volumes()
        )
        for how in ("plain", "fast")
    )
    cosines = (plain * fast).sum(1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosines.min() > 0.995


def test_texts_get_the_first_tokens_projected_state(
    encoder: merlin.MerlinEncoder, weights: dict[str, Tensor]
) -> None:
    from transformers.models.longformer import LongformerConfig, LongformerModel

    config = LongformerConfig(
        vocab_size=len(WORDS), hidden_size=TEXT_WIDTH, intermediate_size=48, type_vocab_size=1,
        max_position_embeddings=1026, attention_window=512, layer_norm_eps=1e-5,
    )  # fmt: skip
    network = LongformerModel(config).eval()
    prefix = "encode_text.text_encoder."
    tensors = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    network.load_state_dict(tensors)  # strictly: the names are transformers'
    text = "no nodules ( in the right upper lobe ), heart is normal"
    with torch.no_grad():
        ids = torch.tensor([encoder.tokenizer.encode(text).ids])  # padded to the next 512
        ids = ids[:, : int((ids != 1).sum())]
        state = network(input_ids=ids).last_hidden_state[:, 0]  # pads and masks by itself
    linear = [weights[f"encode_text.linear_layer.{k}"] for k in ("weight", "bias")]
    theirs = torch.nn.functional.linear(state, *linear)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS)[1:], theirs, atol=1e-5)


def test_words_and_punctuation_are_set_apart_in_lower_case() -> None:
    # wordpunct_tokenize of nltk 3.9.1, joined by spaces
    text = "A 2.5-cm nodule\n(RUL): T1b?!  Nódulo."
    assert merlin.spaced(text) == "a 2 . 5 - cm nodule ( rul ): t1b ?! nódulo ."


def test_tokens_are_those_of_roberta(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    # RobertaTokenizer of transformers 5.23 with the same two files
    theirs = [0, 262, 267, 224, 47, 72, 73, 87, 224, 17, 2]
    assert read_tokenizer(tmp_path).encode("left lobe Left .").ids == theirs


def test_tokenizer_json_does_as_well(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    text = "left lobe, left lung"
    assert merlin.read_byte_pairs(file, file).encode(text).ids == tokenizer.encode(text).ids


def test_a_text_has_one_vector_whatever_its_neighbours(encoder: merlin.MerlinEncoder) -> None:
    among = encoder.encode_texts(["heart " * 20, TEXTS[0], *["mass"] * 4])[1]
    np.testing.assert_allclose(among, encoder.encode_texts(TEXTS[:1])[0], atol=1e-5)


def test_a_text_is_read_to_its_1024th_token(encoder: merlin.MerlinEncoder) -> None:
    long = "left" + " left" * 1021  # and two ends
    assert len(encoder.tokenizer.encode(long).ids) == 1024
    vectors = encoder.encode_texts([long, long + " lobe"])
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_the_contract_is_224_x_224_x_160_voxels_between_0_and_1() -> None:
    hu = np.zeros((101, 41, 41), np.int16)
    hu[51:] = 3000
    hu[51:, :20] = -500
    affine = np.array([[0, 0, 6, 0], [0, 6, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]])
    made = preprocess(Volume(hu, affine), CONTRACT)[0]
    assert made.shape == (160, 224, 224)
    np.testing.assert_allclose(made[40, 112, 112], 0.5)  # 303 mm of 480: padded below
    np.testing.assert_allclose(made[120, 120, 112], 1)  # clipped
    np.testing.assert_allclose(made[120, 100, 112], 0.25)
    np.testing.assert_allclose(made[[20, 140], 112, 112], 0)  # air
    np.testing.assert_allclose(made[40, [20, 200], 112], 0)  # 241 mm of 336


def test_published_files_are_embedded_end_to_end(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, weights)
    monkeypatch.setenv("MEDFINDER_MERLIN", str(tmp_path))
    monkeypatch.setattr(merlin, "INFO", SMALL)
    embedder = Embedder("merlin")
    hu = np.random.default_rng(2).integers(-1000, 500, (20, 30, 40)).astype(np.int16)
    volume = Volume(hu, np.array([[0, 0, 2, 0], [0, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]]))
    vector = embedder.embed_volume(volume)
    texts = embedder.embed_texts(TEXTS)
    assert vector.shape == (DIM,)
    np.testing.assert_allclose(np.linalg.norm([vector, *texts.vectors], axis=1), 1, atol=1e-5)
    assert embedder.region_features(volume).shape == (8, 32 * WIDTH)


def test_files_in_the_hubs_cache_are_found(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for repo in (merlin.REPO, merlin.TEXT_REPO):
        home = tmp_path / f"models--{repo.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("1" * 40)
        folders.append(home / "snapshots" / ("1" * 40))
        folders[-1].mkdir(parents=True)
    published.write_tensors(folders[0] / merlin.CHECKPOINT, weights)
    write_tokenizer(folders[1])
    monkeypatch.delenv("MEDFINDER_MERLIN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(merlin, "INFO", SMALL)
    assert merlin.load().encode_texts(TEXTS).shape == (2, DIM)


def test_other_weights_are_another_model(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merlin, "INFO", SMALL)
    write(tmp_path, weights)
    first = merlin.load(tmp_path, "plain").info.model_id
    assert merlin.load(tmp_path, "plain").info.model_id == first
    write(tmp_path, weights | {"logit_scale": torch.tensor(0.5)})
    assert merlin.load(tmp_path, "plain").info.model_id != first


def test_missing_weights_say_in_one_line_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFINDER_MERLIN", str(tmp_path))
    with pytest.raises(MissingExtra) as error:
        load_encoder("merlin")
    assert str(error.value) == (
        f"merlin has no {merlin.CHECKPOINT}: hf download stanfordmimi/Merlin {merlin.CHECKPOINT} "
        "&& hf download yikuan8/Clinical-Longformer vocab.json merges.txt"
        "  # or MEDFINDER_MERLIN=FOLDER that holds them"
    )


def test_a_missing_tokeniser_is_told(weights: dict[str, Tensor], tmp_path: Path) -> None:
    write(tmp_path, weights)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(MissingExtra, match=r"merlin has no merges.txt or tokenizer.json: hf down"):
        merlin.load(tmp_path)


def test_a_damaged_tokeniser_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(Mismatch, match=r"tokeniser in vocab.json and merges.txt cannot be read \("):
        read_tokenizer(tmp_path)


def test_another_networks_tokeniser_is_refused(tmp_path: Path) -> None:
    file = published.write_tokenizer(tmp_path)
    message = r"tokeniser in tokenizer.json counts <s> as None, expected 0: it is another model's"
    with pytest.raises(Mismatch, match=message):
        merlin.read_byte_pairs(file, file)


def test_missing_unexpected_and_misshapen_tensors_are_named(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    last = "encode_image.i3_resnet.layer3.35."
    changed = {k: v for k, v in weights.items() if not k.startswith(last)}
    changed["encode_text.text_encoder.encoder.layer.12.output.dense.bias"] = torch.zeros(24)
    changed["encode_text.linear_layer.bias"] = torch.zeros(19)
    with pytest.raises(Mismatch) as error:
        build(changed, tmp_path)
    assert str(error.value) == (
        "The weights of merlin are not of the architecture that is read: missing "
        f"{last}bn1.bias, {last}bn1.num_batches_tracked, {last}bn1.running_mean, "
        f"{last}bn1.running_var and 14 more; unexpected "
        "encode_text.text_encoder.encoder.layer.12.output.dense.bias; "
        "encode_text.linear_layer.bias is (19,), expected (20,). Get the published file again."
    )


def test_weights_of_another_dimension_are_refused(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(Mismatch, match="make 20 numbers, expected 512"):
        build(weights, tmp_path, dim=512)


def test_a_file_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / merlin.CHECKPOINT)
    write_tokenizer(tmp_path)
    with pytest.raises(Mismatch, match=r"weights of merlin in i3_resnet\S+.pt cannot be read"):
        merlin.load(tmp_path)
