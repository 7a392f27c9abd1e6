"""Each term is its equation, on random vectors with duplicates and odd sizes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medfinder.model import losses
from reference import losses as slow
from stubs.processes import run, similarity_of_a_part

SIZES = [(1, 3), (2, 1), (5, 7)]


def vectors(n: int, dim: int, seed: int) -> Tensor:
    """Rows of length 1; the last repeats the first."""
    made = F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
    made[-1] = made[0]
    return made


def shared(n: int) -> Tensor:
    """The first and the last share a report."""
    same = torch.eye(n, dtype=torch.bool)
    same[0, -1] = same[-1, 0] = True
    return same


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_every_term_is_its_equation(n: int, dim: int) -> None:
    texts, volumes = vectors(n, dim, 0), vectors(n, dim, 1)
    t, v, same, alone = texts.tolist(), volumes.tolist(), shared(n), torch.eye(n).bool().tolist()
    truth = np.random.default_rng(0).integers(-1, 3, (n, n))
    owner = torch.arange(n).flip(0)
    for got, expected in (
        (losses.view_mse(texts, volumes), slow.view_mse(t, v)),
        (losses.one_directional(texts, volumes, 14.0), slow.one_directional(t, v, 14.0)),
        (losses.info_nce(texts, volumes, 14.0), slow.info_nce(t, v, 14.0, alone)),
        (losses.info_nce(texts, volumes, 14.0, same), slow.info_nce(t, v, 14.0, same.tolist())),
        (losses.siglip(texts, volumes, 10.0, -9.0), slow.siglip(t, v, 10.0, -9.0, alone)),
        (
            losses.siglip(texts, volumes, 10.0, -9.0, same),
            slow.siglip(t, v, 10.0, -9.0, same.tolist()),
        ),
        (
            losses.statements(volumes, texts, torch.from_numpy(truth), 10.0, -2.0),
            slow.statements(v, t, truth.tolist(), 10.0, -2.0),
        ),
        (
            losses.attribute_choice(volumes, texts, texts.flip(0), owner, 10.0),
            slow.attribute_choice(v, t, t[::-1], owner.tolist(), 10.0),
        ),
    ):
        assert float(got) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_released_codes_similarity_asks_in_one_direction_only() -> None:
    texts, volumes = vectors(5, 7, 0), vectors(5, 7, 1)
    there = losses.one_directional(texts, volumes, 14.0)
    back = losses.one_directional(volumes, texts, 14.0)
    assert float(there) != pytest.approx(float(back))
    assert float(losses.info_nce(texts, volumes, 14.0)) == pytest.approx(float(there + back) / 2)


def test_pairs_that_match_lose_less_than_pairs_that_do_not() -> None:
    found, lost = torch.eye(4), torch.eye(4).roll(1, 0)
    for term in (
        lambda t: losses.info_nce(t, torch.eye(4), 10.0),
        lambda t: losses.one_directional(t, torch.eye(4), 10.0),
        lambda t: losses.siglip(t, torch.eye(4), 10.0, -5.0),
    ):
        assert float(term(found)) < float(term(lost)) - 1


def test_chance_costs_the_logarithm_of_the_batch() -> None:
    same = torch.ones(6, 1)
    assert float(losses.info_nce(same, same, 14.0)) == pytest.approx(math.log(6))


def test_studies_that_share_a_report_are_not_pushed_apart() -> None:
    texts = torch.eye(3)[[0, 1, 0]]
    pulled, pushed = (
        float(losses.info_nce(texts, texts, 20.0, same)) for same in (shared(3), None)
    )
    assert pulled == pytest.approx(2 / 3 * math.log(2), rel=1e-3)
    assert pushed == pytest.approx(pulled, rel=1e-3)  # a tie costs the same, but is not a minimum
    apart = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.8, 0, 0.6]])
    assert float(losses.info_nce(apart, apart, 20.0)) < pushed
    assert float(losses.info_nce(apart, apart, 20.0, shared(3))) > pulled


def test_a_statement_that_cannot_be_told_is_left_out() -> None:
    volumes, told = vectors(2, 3, 0).requires_grad_(), vectors(4, 3, 1)
    unknown = torch.full((2, 4), -1)
    nothing = losses.statements(volumes, told, unknown, 10.0, -2.0)
    nothing.backward()  # type: ignore[no-untyped-call]
    assert float(nothing.detach()) == 0
    assert volumes.grad is not None
    assert float(volumes.grad.abs().sum()) == 0
    some = unknown.clone()
    some[0, 1] = 1
    one = losses.statements(volumes[:1].detach(), told[1:2], torch.tensor([[1]]), 10.0, -2.0)
    got = losses.statements(volumes.detach(), told, some, 10.0, -2.0)
    assert float(got) == pytest.approx(float(one), rel=1e-5)


def test_a_few_hard_statements_weigh_as_much_as_many_easy_ones() -> None:
    volumes = torch.tensor([[1.0, 0.0]])
    told = torch.tensor([[1.0, 0.0]] + [[0.0, 1.0]] * 9)
    truth = torch.tensor([[2] + [0] * 9])
    expected = (slow.softplus(10 - 2) + slow.softplus(-2)) / 3
    assert float(losses.statements(volumes, told, truth, 10.0, -2.0)) == pytest.approx(expected)


def test_no_choice_to_make_costs_nothing_and_has_a_gradient() -> None:
    volumes = vectors(2, 3, 0).requires_grad_()
    none = torch.zeros(0, 3)
    got = losses.attribute_choice(volumes, none, none, torch.zeros(0, dtype=torch.long), 10.0)
    got.backward()  # type: ignore[no-untyped-call]
    assert float(got.detach()) == 0
    assert volumes.grad is not None


def test_one_process_gathers_its_own_rows() -> None:
    rows = vectors(3, 2, 0)
    assert losses.gathered(rows) is rows


# -- two processes -------------------------------------------------------------------


def test_the_loss_and_gradients_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    parts, ends = run(similarity_of_a_part, tmp_path)
    assert ends == [0, 0]
    whole = similarity_of_a_part(0, 1)
    assert [part["loss"] for part in parts] == pytest.approx([whole["loss"]] * 2, rel=1e-6)
    assert torch.equal(parts[0]["rows"], whole["rows"])
    assert torch.equal(parts[1]["rows"], whole["rows"])
    # The mean over processes, as DistributedDataParallel takes it, where the parts are a layer's.
    for name in ("texts", "volumes"):
        got = torch.cat([part[name] for part in parts]) / 2
        torch.testing.assert_close(got, whole[name], rtol=1e-5, atol=1e-7)
        assert float(whole[name].abs().sum()) > 0
