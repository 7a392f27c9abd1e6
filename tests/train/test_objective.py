"""Each term of the objective does what it says, and can be switched off."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medfinder.config import from_dict, to_dict
from medfinder.errors import ConfigError
from medfinder.model import losses
from medfinder.model.dual_stream import DualStream, ModelConfig
from medfinder.train.labels import encode_labels, fit_labels
from medfinder.train.objective import Objective, ObjectiveConfig
from medfinder.train.sampling import SamplingConfig
from stubs.training import MODEL, batches, phantoms, stream, without

ALL = {"view_mse": 1.0, "rerank": 1.0, "labels": 0.2}


def value(number: object) -> float:
    return float(number.detach() if isinstance(number, torch.Tensor) else number)  # type: ignore[arg-type]


def model(**settings: Any) -> DualStream:
    return stream(from_dict(ModelConfig, to_dict(MODEL) | settings))


def objective(**settings: Any) -> Objective:
    torch.manual_seed(0)
    return Objective(
        ObjectiveConfig(**settings), MODEL.dim, rates() if "labels" in settings else ()
    )


def labels() -> tuple[str, ...]:
    return fit_labels([texts[0] for texts in phantoms().reports], 2)


def rates() -> list[float]:
    first = [texts[0] for texts in phantoms().reports]
    return list(np.mean([encode_labels(text, labels()) == 1 for text in first], 0))


def grad(parameters: Any) -> float:
    return sum(value(p.grad.abs().sum()) for p in parameters if p.grad is not None)


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    weights = {"alpha": 0.5, "view_mse": 3.0, "statements": 0.25, "attribute_choice": 2.0}
    with torch.no_grad():
        terms = objective(**weights)(model(), batches().batch(0))
    assert set(terms.named) == {"similarity", "view_mse", "statements", "attribute_choice"}
    expected = sum({**weights, "similarity": 0.5}[n] * value(t) for n, t in terms.named.items())
    assert value(terms.total) == pytest.approx(expected, rel=1e-5)


def test_every_component_changes_the_loss() -> None:
    made = batches(size=8, labels=labels()).batch(0)
    net = model(fusion=True, reranker=True).eval()
    with torch.no_grad():
        whole = objective(**ALL)(net, made)
        for name in ("alpha", "view_mse", "statements", "attribute_choice", "rerank", "labels"):
            part = objective(**{**ALL, name: 0.0})(net, made)
            assert value(part.total) != pytest.approx(value(whole.total), rel=1e-6), name
            assert set(whole.named) - set(part.named) == {{"alpha": "similarity"}.get(name, name)}


def test_fusion_changes_what_the_similarity_sees() -> None:
    made = batches().batch(0)
    net = model(fusion=True).eval()
    fused = objective().encode_volumes(net, made, slice(None))["volume"]
    net.fusion = None
    assert not torch.allclose(fused, objective().encode_volumes(net, made, slice(None))["volume"])


def test_text_sampling_changes_the_loss() -> None:
    net = model().eval()
    whole = objective()(net, batches(sampling=SamplingConfig("whole")).batch(0))
    part = objective()(net, batches(sampling=SamplingConfig("sentences", 0.2)).batch(0))
    assert value(whole.named["similarity"].detach()) != pytest.approx(
        value(part.named["similarity"].detach())
    )
    assert value(whole.named["statements"]) == pytest.approx(value(part.named["statements"]))


def test_gradients_reach_the_cross_attention_between_views() -> None:
    net = model(fusion=True)
    assert net.fusion is not None
    terms = objective(statements=0.0, attribute_choice=0.0)(net, batches().batch(0))
    terms.total.backward()  # type: ignore[no-untyped-call]
    attention = net.fusion.attention
    assert attention.in_proj_weight is not None
    assert attention.in_proj_weight.grad is not None
    parts = attention.in_proj_weight.grad.chunk(3)
    assert all(value(part.abs().sum()) > 0 for part in parts), "queries, keys and values"
    assert grad(net.volume.parameters()) > 0


def test_the_second_view_takes_part_through_the_fusion() -> None:
    net = model(fusion=True).eval()
    made = batches().batch(0)
    fused = objective().encode_volumes(net, made, slice(None))["volume"]
    alone = net.embed_volumes(made.views(0)).embedding
    assert not torch.allclose(fused, alone)
    assert torch.allclose(fused, net.embed_volumes(made.views(0), made.views(1)).embedding)


@pytest.mark.parametrize(("view_mse", "fusion"), [(0.0, False), (1.0, False), (0.0, True)])
def test_two_views_are_computed_exactly_when_something_needs_them(
    view_mse: float, fusion: bool
) -> None:
    net = model(fusion=fusion)
    calls: list[int] = []
    net.volume.register_forward_hook(lambda *_: calls.append(1))
    objective(view_mse=view_mse)(net, batches().batch(0))
    assert len(calls) == (2 if view_mse or fusion else 1)


def test_the_distance_of_views_is_above_zero_and_shrinks() -> None:
    net = model(normalised=False)
    only = objective(alpha=0.0, statements=0.0, attribute_choice=0.0, view_mse=1.0)
    made = batches(n_told=0, n_denied=0).batch(0)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    seen = []
    for _ in range(12):
        optimizer.zero_grad()
        total = only(net, made).total
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen.append(value(total.detach()))
    assert seen[0] > 1e-5
    assert seen[-1] < seen[0] / 2


def test_a_study_without_a_report_counts_for_the_views_and_for_no_text() -> None:
    data = without(phantoms(), 1, 6)
    made = batches(data, size=8, needs_report=False).batch(0)
    net = model().eval()
    both = objective(view_mse=1.0)
    terms = both(net, made)
    encoded = both.encode_volumes(net, made, slice(None))
    told = [i for i, text in enumerate(made.texts) if text is not None]
    assert len(told) == 6
    texts = both.encode_texts(net, both.texts(made))["text"][:6]
    assert value(terms.named["similarity"]) == pytest.approx(
        value(losses.info_nce(texts, encoded["volume"][told], net.scale)), rel=1e-5
    )
    assert value(terms.named["view_mse"]) == pytest.approx(
        value(losses.view_mse(encoded["first"], encoded["second"])), rel=1e-5
    )
    terms.total.backward()  # type: ignore[no-untyped-call]


def test_a_batch_without_any_report_has_the_views_alone() -> None:
    data = without(phantoms(), *range(8))
    made = batches(data, needs_report=False, labels=labels()).batch(0)
    net = model(reranker=True)
    terms = objective(**ALL)(net, made)
    assert value(terms.named["similarity"]) == value(terms.named["rerank"]) == 0
    assert value(terms.named["view_mse"]) > 0
    assert "statements" not in terms.named
    terms.total.backward()  # type: ignore[no-untyped-call]
    assert grad(net.volume.parameters()) > 0


def test_studies_that_share_a_report_are_each_others_positives() -> None:
    data = phantoms()
    shared = replace(data, reports=(*data.reports[:7], (data.reports[0][1],)))
    assert shared.report_groups[0] == shared.report_groups[7]
    net = model().eval()
    apart, together = (
        objective()(net, batches(one, size=8).batch(0)).named["similarity"]
        for one in (replace(shared, reports=(*data.reports[:7], ("Another.",))), shared)
    )
    assert value(apart) != pytest.approx(value(together))
    made = batches(shared, size=8).batch(0)
    groups = made.report_group
    one = objective()
    volumes = one.encode_volumes(net, made, slice(None))["volume"]
    texts = one.encode_texts(net, one.texts(made))["text"][:8]
    same = groups[:, None] == groups[None]
    assert int(same.sum()) == 10
    assert value(together) == pytest.approx(
        value(losses.info_nce(texts, volumes, net.scale, same)), rel=1e-5
    )


@pytest.mark.parametrize("similarity", ["info_nce", "one_directional", "siglip"])
def test_each_similarity_has_a_loss_of_its_own_and_gradients(similarity: Any) -> None:
    net = model()
    made = objective(similarity=similarity, statements=0.0, attribute_choice=0.0)
    terms = made(net, batches().batch(0))
    terms.total.backward()  # type: ignore[no-untyped-call]
    assert grad(net.volume.parameters()) > 0
    assert grad(net.text.parameters()) > 0
    assert (similarity == "siglip") == bool(list(made.parameters()))
    assert all(p.grad is not None and value(p.grad) != 0 for p in made.parameters())


def test_the_reranker_learns_to_prefer_pairs() -> None:
    net = model(reranker=True)
    only = objective(alpha=0.0, statements=0.0, attribute_choice=0.0, rerank=1.0)
    made = batches(size=8, n_told=0, n_denied=0).batch(0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    seen = []
    for _ in range(120):  # rivals change as it learns, so one step says little
        optimizer.zero_grad()
        total = only(net, made).total
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen.append(value(total.detach()))
    assert seen[0] == pytest.approx(np.log(2), abs=0.1)
    assert np.mean(seen[-20:]) < seen[0] / 2


def test_labels_start_at_their_rates_and_skip_the_unknown() -> None:
    made = batches(size=8, labels=labels()).batch(0)
    net = model().eval()
    one = objective(labels=1.0)
    with torch.no_grad():
        one.label_head.weight.zero_()
        got = value(one(net, made).named["labels"])
    assert made.labels is not None
    p = np.clip(rates(), 1e-3, 0.5)
    cost = -np.where(made.labels == 1, np.log(p), np.log(1 - p))
    assert got == pytest.approx(value((cost * (made.labels >= 0)).sum(1).mean()), rel=1e-4)


def test_a_batch_of_one_teaches_the_similarity_of_siglip() -> None:
    only = objective(similarity="siglip", statements=0.0, attribute_choice=0.0)
    assert value(only(stream(), batches(size=1).batch(0)).named["similarity"]) > 0


def test_labels_alone_read_no_text_and_reach_the_volume_stream_only() -> None:
    one, batch = model(), batches(labels=labels()).batch(0)
    alone = objective(labels=0.2, labels_first=0.5)
    alone.labels_alone = True
    assert alone.texts(batch) == []
    terms = alone(one, batch)
    terms.total.backward()
    assert set(terms.named) == {"labels"}
    assert value(terms.total) == pytest.approx(0.2 * value(terms.named["labels"]), rel=1e-5)
    assert grad(one.volume.parameters()) > 0
    assert grad(one.text.parameters()) == 0


def test_labels_alone_equal_the_labels_among_all_terms() -> None:
    one, batch = model(), batches(labels=labels()).batch(0)
    several, alone = objective(labels=0.2), objective(labels=0.2, labels_first=0.5)
    alone.labels_alone = True
    expected = several(one, batch).named["labels"]
    assert value(alone(one, batch).named["labels"]) == pytest.approx(value(expected), rel=1e-5)


@pytest.mark.parametrize("settings", [{"labels_first": 0.5}, {"labels": 1.0, "labels_first": 1.0}])
def test_labels_first_needs_labels_and_an_end(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"labels_first is .*expected a share from 0 to below 1"):
        ObjectiveConfig(**settings)  # type: ignore[arg-type]
