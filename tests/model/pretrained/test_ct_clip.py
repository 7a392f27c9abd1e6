from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medfinder.embed import Embedder
from medfinder.errors import Mismatch, MissingExtra
from medfinder.model.bert import read_word_pieces
from medfinder.model.encoder import load_encoder
from medfinder.model.pretrained import ct_clip
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.volume import Volume
from stubs import published
from stubs.published import Shapes, linear, norm

WIDTH, N_HEADS, HEAD, INNER, N_CODES, DIM = 16, 2, 4, 42, 32, 20
SIZE, REGIONS = (8, 12, 12), (4, 3, 3)  # patches of 2 x 4 x 4
N_VOXELS, N_PROJECTED = 2 * 4 * 4, 3 * 3 * WIDTH
CONTRACT = ct_clip.INFO.preprocess or PreprocessConfig()
SMALL = replace(ct_clip.INFO, dim=DIM, n_regions=REGIONS, preprocess=replace(CONTRACT, size=SIZE))
TEXTS = ["Left pleural effusion.", "No nodules in the right upper lobe, heart is normal"]


def shapes() -> Shapes:
    """What the authors' code saves, training's parts and CT-ViT's decoder among them."""
    made: Shapes = {"spatial_rel_pos_bias.net.2.weight": (N_HEADS, WIDTH)}
    made |= linear("spatial_rel_pos_bias.net.0.0", WIDTH, 2)
    made |= linear("spatial_rel_pos_bias.net.1.0", WIDTH, WIDTH)
    made |= linear("spatial_rel_pos_bias.net.2", N_HEADS, WIDTH)
    for name, n_in in (("to_patch_emb_first_frame", 4 * 4), ("to_patch_emb", N_VOXELS)):
        made |= norm(f"{name}.1", n_in) | linear(f"{name}.2", WIDTH, n_in)
        made |= norm(f"{name}.3", WIDTH)
    for stack in ("enc_spatial_transformer", "enc_temporal_transformer", "dec_spatial_transformer"):
        made |= {f"{stack}.norm_out.{k}": (WIDTH,) for k in ("gamma", "beta")}
        for i in range(4):
            layer = f"{stack}.layers.{i}"
            made |= {f"{layer}.0.dsconv.weight": (WIDTH, 1, 3, 3, 3)}
            made |= {f"{layer}.0.dsconv.bias": (WIDTH,)}
            for part in ("norm", "context_norm"):
                made |= {f"{layer}.1.{part}.{k}": (WIDTH,) for k in ("gamma", "beta")}
            made |= {
                f"{layer}.1.null_kv": (N_HEADS, 0, HEAD),
                f"{layer}.1.to_q.weight": (N_HEADS * HEAD, WIDTH),
                f"{layer}.1.to_kv.weight": (2 * N_HEADS * HEAD, WIDTH),
                f"{layer}.1.q_scale": (HEAD,),
                f"{layer}.1.k_scale": (HEAD,),
                f"{layer}.1.to_out.weight": (WIDTH, N_HEADS * HEAD),
                f"{layer}.3.1.weight": (2 * INNER, WIDTH),
                f"{layer}.3.4.weight": (WIDTH, INNER),
            }
            made |= norm(f"{layer}.3.0", WIDTH)
    made |= {"vq._codebook.initted": (1,), "vq._codebook.cluster_size": (1, N_CODES)}
    made |= {"vq._codebook.embed": (1, N_CODES, WIDTH)}
    made |= linear("to_pixels.0", N_VOXELS, WIDTH)
    made = {f"visual_transformer.{k}": v for k, v in made.items()}
    made |= published.bert("text_transformer.", depth=12)
    made |= linear("text_transformer.pooler.dense", 24, 24)
    for extra in ("", "_extra"):
        made[f"to_text_latent{extra}.weight"] = (DIM, 24)
        made[f"to_visual_latent{extra}.weight"] = (DIM, N_PROJECTED)
    return made


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random, but the same on every machine and with every version of torch."""
    random = np.random.RandomState(0)
    made = {}
    for name, shape in sorted(shapes().items()):
        values = random.standard_normal(shape)
        if len(shape) > 1:
            values /= shape[-1] ** 0.5
        else:
            values = 0.1 * values + (not name.endswith(("bias", "beta")))
        made[name] = torch.from_numpy(values.astype(np.float32))
    made["temperature"] = torch.tensor(1.0)
    made["text_transformer.embeddings.position_ids"] = torch.arange(512)[None]
    return made


@pytest.fixture(scope="module")
def encoder(
    weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> ct_clip.CTCLIPEncoder:
    return build(weights, tmp_path_factory.mktemp("ct_clip"))


def build(weights: dict[str, Tensor], folder: Path, **changed: Any) -> ct_clip.CTCLIPEncoder:
    tokenizer = read_word_pieces(published.write_vocabulary(folder))
    return ct_clip.CTCLIPEncoder(weights, tokenizer, replace(SMALL, **changed))


def write(folder: Path, weights: dict[str, Tensor]) -> None:
    published.write_tensors(folder / "CT-CLIP_v2.pt", weights)
    published.write_vocabulary(folder)


def volumes(n: int = 2) -> Any:
    values = np.random.RandomState(1).uniform(-1, 1, (n, 1, *SIZE))
    return values.astype(np.float32)


def test_a_volume_gets_the_numbers_of_the_published_code(encoder: ct_clip.CTCLIPEncoder) -> None:
    # the authors' CTViT with vector-quantize-pytorch 1.1.2: the same tensors, loaded strictly, and
    # the same volumes with their axes as (S, L, P)
    theirs = [[-0.11064, -0.0978, -0.00362, 0.0112, 0.28859, 0.16688, 0.007, 0.01104],
              [-0.03454, 0.17813, -0.27773, -0.16111, 0.04013, -0.03765, 0.08548, -0.35719]]  # fmt: skip
    vectors = encoder.encode_volumes(volumes())
    assert vectors.shape == (2, DIM)
    np.testing.assert_allclose(vectors[:, :8], theirs, atol=1e-4)


def test_regions_are_codes_and_pool_to_the_vector(
    encoder: ct_clip.CTCLIPEncoder, weights: dict[str, Tensor]
) -> None:
    regions = encoder.region_features(volumes())
    assert regions.shape == (2, 36, WIDTH)
    assert regions.dtype == np.float16
    codes = weights["visual_transformer.vq._codebook.embed"][0].half().numpy()
    assert all((codes == region).all(1).any() for region in regions.reshape(-1, WIDTH))
    pooled = encoder.pool_regions(regions)
    np.testing.assert_allclose(pooled, encoder.encode_volumes(volumes()), atol=2e-3)


def test_regions_lie_in_the_order_of_the_volume(weights: dict[str, Tensor], tmp_path: Path) -> None:
    ends = (".dsconv.weight", ".dsconv.bias", ".to_out.weight", ".3.4.weight")
    alone = {k: v * 0 if k.endswith(ends) else v for k, v in weights.items()}  # layers add nothing
    quiet = volumes(1)
    loud = quiet.copy()
    loud[..., :4, :4, 8:] *= -1  # inferior, posterior, right
    encoder = build(alone, tmp_path)
    change = encoder.region_features(loud) != encoder.region_features(quiet)
    changed = np.argwhere(change.any(2).reshape(REGIONS))
    assert changed.tolist() == [[0, 0, 2], [1, 0, 2]]


def test_a_volume_has_one_vector_whatever_its_neighbours(encoder: ct_clip.CTCLIPEncoder) -> None:
    among = encoder.encode_volumes(volumes(3))[:1]
    np.testing.assert_allclose(among, encoder.encode_volumes(volumes(3)[:1]), atol=1e-6)


def test_texts_get_the_first_tokens_projected_state(
    encoder: ct_clip.CTCLIPEncoder, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    from transformers.models.bert import BertConfig, BertModel

    shape = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 12}
    bert = BertModel(BertConfig(vocab_size=len(published.WORDS), **shape)).eval()
    prefix = "text_transformer."
    tensors = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    del tensors["embeddings.position_ids"]
    bert.load_state_dict(tensors)  # strictly: the names are transformers'
    tokenizer = read_word_pieces(published.write_vocabulary(tmp_path))
    tokenizer.enable_padding(length=512)  # as published
    coded = tokenizer.encode_batch(TEXTS)
    with torch.no_grad():
        states = bert(
            input_ids=torch.tensor([c.ids for c in coded]),
            attention_mask=torch.tensor([c.attention_mask for c in coded]),
        ).last_hidden_state
        theirs = states[:, 0] @ weights["to_text_latent.weight"].T
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), theirs, atol=1e-5)


def test_quotes_and_brackets_are_left_out(encoder: ct_clip.CTCLIPEncoder) -> None:
    plain, quoted = encoder.encode_texts(["the left lobe", "\"the\" (left) 'lobe'"])
    np.testing.assert_array_equal(plain, quoted)


def test_a_text_is_read_to_its_512th_token(encoder: ct_clip.CTCLIPEncoder) -> None:
    long = "lung " * 510  # and two ends
    vectors = encoder.encode_texts([long, long + "effusion", "effusion " * 510])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[2] - vectors[0]).max() > 1e-3


def test_the_contract_is_480_x_480_x_240_voxels_between_minus_1_and_1() -> None:
    hu = np.zeros((40, 20, 20), np.int16)
    hu[20:] = 3000
    hu[20:, :10] = -500
    affine = np.array([[0, 0, 3, 0], [0, 3, 0, 0], [6, 0, 0, 0], [0, 0, 0, 1.0]])
    made = preprocess(Volume(hu, affine), CONTRACT)[0]
    assert made.shape == (240, 480, 480)
    np.testing.assert_allclose(made[40, 240, 240], 0)  # 240 mm of 360: 60 mm of air below
    np.testing.assert_allclose(made[190, 250, 240], 1)  # clipped
    np.testing.assert_allclose(made[190, 230, 240], -0.5)
    np.testing.assert_allclose(made[:, 195, 240], -1)  # 60 mm of 360: padded with air
    np.testing.assert_allclose(made[[39, 200], 240, 240], -1)


def test_published_files_are_embedded_end_to_end(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, weights)
    monkeypatch.setenv("MEDFINDER_CT_CLIP", str(tmp_path))
    monkeypatch.setattr(ct_clip, "INFO", SMALL)
    embedder = Embedder("ct_clip")
    volume = Volume(volumes(1)[0, 0] * 1000, np.diag([0.75, 0.75, 1.5, 1])[[2, 1, 0, 3]])
    vector = embedder.embed_volume(volume)
    texts = embedder.embed_texts(TEXTS)
    assert vector.shape == (DIM,)
    np.testing.assert_allclose(np.linalg.norm([vector, *texts.vectors], axis=1), 1, atol=1e-5)
    assert embedder.region_features(volume).shape == (36, WIDTH)


def test_files_in_the_hubs_cache_are_found(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (
        "datasets--ibrahimhamamci--CT-RATE",
        "models--microsoft--BiomedVLP-CXR-BERT-specialized",
    )
    files = []
    for home in (tmp_path / name for name in names):
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("1" * 40)
        files.append(home / "snapshots" / ("1" * 40))
        files[-1].mkdir(parents=True)
    checkpoint = files[0] / ct_clip.CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    published.write_tensors(checkpoint, weights)
    published.write_vocabulary(files[1])
    monkeypatch.delenv("MEDFINDER_CT_CLIP", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(ct_clip, "INFO", SMALL)
    assert ct_clip.load().encode_texts(TEXTS).shape == (2, DIM)


def test_other_weights_are_another_model(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ct_clip, "INFO", SMALL)
    write(tmp_path, weights)
    first = ct_clip.load(tmp_path).info.model_id
    assert ct_clip.load(tmp_path).info.model_id == first
    write(tmp_path, weights | {"temperature": torch.tensor(0.5)})
    assert ct_clip.load(tmp_path).info.model_id != first


def test_missing_weights_say_in_one_line_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFINDER_CT_CLIP", str(tmp_path))
    with pytest.raises(MissingExtra) as error:
        load_encoder("ct_clip")
    assert str(error.value) == (
        "ct_clip has no CT-CLIP_v2.pt, whose terms you accept on the Hub: hf download --repo-type "
        "dataset ibrahimhamamci/CT-RATE models/CT-CLIP-Related/CT-CLIP_v2.pt && hf download "
        "microsoft/BiomedVLP-CXR-BERT-specialized vocab.txt"
        "  # or MEDFINDER_CT_CLIP=FOLDER that holds them"
    )


def test_a_missing_tokeniser_is_told(weights: dict[str, Tensor], tmp_path: Path) -> None:
    published.write_tensors(tmp_path / "CT-CLIP_v2.pt", weights)
    message = r"ct_clip has no vocab.txt or tokenizer.json: hf download --repo-type dataset"
    with pytest.raises(MissingExtra, match=message):
        ct_clip.load(tmp_path)


def test_missing_unexpected_and_misshapen_tensors_are_named(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    last = "visual_transformer.enc_temporal_transformer.layers.3."
    changed = {k: v for k, v in weights.items() if not k.startswith(last + "0.")}
    changed["visual_transformer.enc_spatial_transformer.layers.4.0.dsconv.bias"] = torch.zeros(1)
    changed["to_text_latent.weight"] = torch.zeros(DIM, 23)
    with pytest.raises(Mismatch) as error:
        build(changed, tmp_path)
    assert str(error.value) == (
        "The weights of ct_clip are not of the architecture that is read: missing "
        f"{last}0.dsconv.bias, {last}0.dsconv.weight; unexpected "
        "visual_transformer.enc_spatial_transformer.layers.4.0.dsconv.bias; to_text_latent.weight "
        "is (20, 23), expected (20, 24). Get the published file again."
    )


def test_a_bert_of_another_depth_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    last = "text_transformer.encoder.layer.11."
    changed = {k: v for k, v in weights.items() if not k.startswith(last)}
    message = r"11 layers text_transformer.encoder.layer.N, expected 12\. Get the published"
    with pytest.raises(Mismatch, match=message):
        build(changed, tmp_path)


def test_weights_for_another_input_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    # as those of the first release are: its patches are larger, and no layers are averaged
    message = r"another input: 32 voxels a patch and 144 features to project, expected 16 and 144"
    with pytest.raises(Mismatch, match=message):
        build(weights, tmp_path, preprocess=replace(CONTRACT, size=(4, 12, 12)))
    with pytest.raises(Mismatch, match="make 20 numbers, expected 512"):
        build(weights, tmp_path, dim=512)


def test_a_file_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "CT-CLIP_v2.pt")
    published.write_vocabulary(tmp_path)
    with pytest.raises(Mismatch, match=r"weights of ct_clip in CT-CLIP_v2.pt cannot be read"):
        ct_clip.load(tmp_path)
