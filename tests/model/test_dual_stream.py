"""Two streams into one space: what each setting of the architecture changes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from medfinder.errors import ConfigError, UnknownName
from medfinder.model.dual_stream import DualStream, EvidencePooling, ModelConfig
from medfinder.model.text_encoder import TextEncoderConfig
from medfinder.model.volume_encoder import VolumeEncoderConfig
from stubs.dual_streams import CONFIG, TEXTS, tiny


def model(**changes: Any) -> DualStream:
    return tiny(**changes).eval()


def volumes(n: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 32, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def lengths(x: Tensor) -> Tensor:
    return x.norm(dim=1)


def test_volumes_and_texts_land_in_one_space() -> None:
    net = model()
    volume, text = net.embed_volumes(volumes()), net.embed_texts(net.text.tokenize(TEXTS))
    assert volume.embedding.shape == (3, CONFIG.dim)
    assert volume.regions.shape == (3, 8, CONFIG.volume.width)
    assert text.embedding.shape == (len(TEXTS), CONFIG.dim)
    assert text.features.mask.shape == text.features.tokens.shape[:2]


def test_embeddings_have_length_one_where_the_model_is_normalised() -> None:
    for normalised in (True, False):
        net = model(normalised=normalised)
        for made in (
            net.embed_volumes(volumes()).embedding,
            net.embed_texts(net.text.tokenize(TEXTS)).embedding,
        ):
            is_one = torch.allclose(lengths(made), torch.ones(len(made)))
            assert is_one == normalised


def test_evidence_lies_between_the_mean_and_the_strongest_region_as_it_sharpens() -> None:
    regions = torch.randn(4, 8, 32, generator=torch.Generator().manual_seed(2))
    pooling = EvidencePooling(8, 32, 5)
    pooling.norm = torch.nn.Identity()  # type: ignore[assignment]
    signs = pooling.signs(regions)
    for log_sharpness, expected in ((-9.0, signs.mean(1)), (6.0, signs.amax(1))):
        pooling.log_sharpness.fill_(log_sharpness)
        torch.testing.assert_close(pooling(regions), expected, atol=0.02, rtol=0)


def test_a_sign_is_looked_for_alike_in_every_region_but_for_its_place() -> None:
    regions = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(3))
    pooling = EvidencePooling(8, 32, 5)
    pooling.places.zero_()
    moved = regions.roll(1, 1)
    torch.testing.assert_close(pooling.signs(moved), pooling.signs(regions).roll(1, 1))


def test_a_layout_keeps_where_a_region_lies_and_a_mean_does_not() -> None:
    regions = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(1))
    moved = regions.roll(1, 1)
    layout, mean = model(pooling="layout"), model(pooling="mean")
    assert not torch.allclose(layout.pool(regions), layout.pool(moved), atol=1e-3)
    torch.testing.assert_close(mean.pool(regions), mean.pool(moved))


def test_embedding_a_volume_is_pooling_its_regions() -> None:
    for fusion in (True, False):
        net = model(fusion=fusion)
        made = net.embed_volumes(volumes())
        torch.testing.assert_close(net.pool(made.regions), made.embedding)
        torch.testing.assert_close(net.normalised(net.project(made.regions)), made.embedding)


def test_a_fusion_asks_the_other_view_and_in_use_the_same_one() -> None:
    net = model(fusion=True)
    alone = net.embed_volumes(volumes()).embedding
    torch.testing.assert_close(alone, net.embed_volumes(volumes(), volumes()).embedding)
    other = net.embed_volumes(volumes(), volumes(seed=1)).embedding
    assert not torch.allclose(alone, other, atol=1e-5)


def test_without_a_fusion_the_other_view_says_nothing() -> None:
    net = model()
    assert net.fusion is None
    assert torch.equal(
        net.embed_volumes(volumes()).embedding,
        net.embed_volumes(volumes(), volumes(seed=1)).embedding,
    )


def test_a_study_s_embedding_does_not_depend_on_the_others() -> None:
    net = model(fusion=True)
    made = net.embed_volumes(volumes(3)).embedding
    torch.testing.assert_close(net.embed_volumes(volumes(3)[1:2]).embedding[0], made[1])


def test_parts_are_there_when_asked_for() -> None:
    assert model().reranker is None
    assert model(reranker=True).reranker is not None
    assert not hasattr(model(pooling="mean"), "narrow")


@pytest.mark.parametrize("learned", [True, False])
def test_the_temperature_starts_where_it_is_set_and_learns_where_asked(learned: bool) -> None:
    net = model(temperature=0.2, learned_temperature=learned)
    assert float(net.scale) == pytest.approx(5)
    assert net.log_scale.requires_grad == learned


def test_scales_are_at_most_a_hundred() -> None:
    net = model(temperature=0.001)
    net.log_statement_scale.fill_(9)
    assert float(net.scale) == float(net.statement_scale) == 100


@pytest.mark.parametrize("pooling", ["layout", "mean", "evidence"])
def test_gradients_reach_every_parameter_of_both_streams(pooling: Any) -> None:
    net = tiny(fusion=True, pooling=pooling)
    with torch.enable_grad():
        volume = net.embed_volumes(volumes(), volumes(seed=1)).embedding
        text = net.embed_texts(net.text.tokenize(TEXTS)).embedding
        aim = torch.randn(volume.shape, generator=torch.Generator().manual_seed(2))
        ((volume * aim).sum() + (text[:3] * aim).sum()).backward()  # type: ignore[no-untyped-call]
    of_the_loss = {"log_scale", "log_statement_scale", "statement_bias"}
    silent = {
        name
        for name, p in net.named_parameters()
        if p.grad is None or not bool(p.grad.abs().sum() > 0)
    }
    assert silent == of_the_loss


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"dim": 0}, r"model\.dim, layout_width and n_signs must be at least 1"),
        ({"layout_width": 0}, "layout_width and n_signs must be at least 1"),
        ({"n_signs": 0}, "layout_width and n_signs must be at least 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"temperature": float("nan")}, "temperature above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ModelConfig(**settings)


def test_an_unknown_network_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"Unknown volume network 'pach'. Did you mean 'patch'"):
        DualStream(ModelConfig(volume=VolumeEncoderConfig(name="pach")))
    with pytest.raises(UnknownName, match=r"Unknown text network 'sentence'.* 'sentences'"):
        DualStream(ModelConfig(text=TextEncoderConfig(name="sentence")))
