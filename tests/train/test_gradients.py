"""Gradients of a batch in pieces are those of the batch at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medfinder.config import from_dict, to_dict
from medfinder.model.dual_stream import DualStream, ModelConfig
from medfinder.train.gradients import backward
from medfinder.train.labels import fit_labels
from medfinder.train.objective import Objective, ObjectiveConfig
from stubs.processes import gradients_of_a_part, run
from stubs.training import MODEL, batches, phantoms, stream, without, without_batch_norm


def gradients(
    micro_batch: int, data: Any = None, *, batch_norm: bool = False, **terms: float
) -> tuple[float, dict[str, torch.Tensor], DualStream]:
    labels = fit_labels([texts[0] for texts in phantoms().reports], 2) if "labels" in terms else ()
    config = {"fusion": "view_mse" in terms, "reranker": "rerank" in terms}
    model = stream(from_dict(ModelConfig, to_dict(MODEL) | config))
    if not batch_norm:
        without_batch_norm(model)
    objective = Objective(ObjectiveConfig(**terms), MODEL.dim, [0.1] * len(labels))  # type: ignore[arg-type]
    torch.nn.init.constant_(objective.label_head.weight, 0.01) if labels else None
    made = batches(data, size=7, needs_report=False, labels=labels).batch(0)
    loss = backward(objective, model, made, micro_batch)
    named = [*model.named_parameters(), *objective.named_parameters()]
    found = {name: p.grad for name, p in named if p.grad is not None}
    return float(loss.total.detach()), found, model


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize(
    "terms",
    [{}, {"view_mse": 2.0}, {"rerank": 1.0, "labels": 0.2, "view_mse": 1.0}],
    ids=["plain", "views", "everything"],
)
def test_pieces_of_any_size_give_the_gradient_of_the_whole(
    micro_batch: int, terms: dict[str, float]
) -> None:
    whole, expected, _ = gradients(0, **terms)
    loss, got, _ = gradients(micro_batch, **terms)
    assert loss == pytest.approx(whole, rel=1e-5)
    assert got.keys() == expected.keys()
    assert {"log_scale", "statement_bias"} <= got.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=2e-4, atol=2e-6, msg=name)


def test_pieces_may_hold_studies_without_a_report() -> None:
    data = without(phantoms(), 0, 1, 2)
    _, expected, _ = gradients(0, data, view_mse=1.0)
    _, got, _ = gradients(2, data, view_mse=1.0)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=2e-4, atol=2e-6, msg=name)


def test_a_batch_without_texts_works_in_pieces() -> None:
    data = without(phantoms(), *range(8))
    _, expected, _ = gradients(0, data, view_mse=1.0)
    _, got, _ = gradients(3, data, view_mse=1.0)
    assert float(got["volume_head.weight"].abs().sum()) > 0
    for name, gradient in expected.items():
        if float(gradient.abs().sum()):
            torch.testing.assert_close(got[name], gradient, rtol=2e-4, atol=2e-6, msg=name)


def test_running_means_move_once_a_piece() -> None:
    *_, model = gradients(4, batch_norm=True)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    assert norms
    assert {int(m.num_batches_tracked) for m in norms if m.num_batches_tracked is not None} == {2}
    assert {m.momentum for m in norms} == {0.1}


def test_dropout_is_the_same_in_both_passes() -> None:
    """Were it not, the second pass would hand on gradients of another network's output."""
    seen: list[torch.Tensor] = []

    class Noted(nn.Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            seen.append((out == 0).detach())
            return out

    model = stream()
    model.volume_head = nn.Sequential(Noted(0.5), model.volume_head)  # type: ignore[assignment]
    without_batch_norm(model)
    backward(Objective(), model, batches(size=4).batch(0), 2)
    first, second, third, fourth = seen
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("similarity", "micro_batch", "silent"),
    [("info_nce", 0, ()), ("siglip", 3, (1, 4, 6))],
    ids=["whole", "in pieces, some without a report"],
)
def test_two_processes_have_the_loss_and_gradients_of_one(
    tmp_path: Path, similarity: str, micro_batch: int, silent: tuple[int, ...]
) -> None:
    data = without(phantoms(), *silent)
    whole = gradients_of_a_part(0, 1, data, similarity, 0)
    parts, ends = run(gradients_of_a_part, tmp_path, data, similarity, micro_batch)
    assert ends == [0, 0]
    for part in parts:
        assert part["similarity"] == pytest.approx(whole["similarity"], rel=1e-5)
        assert part["gradients"].keys() == whole["gradients"].keys()
        for name, gradient in whole["gradients"].items():
            torch.testing.assert_close(
                part["gradients"][name], gradient, rtol=2e-4, atol=2e-6, msg=name
            )
    assert "log_scale" in whole["gradients"]
