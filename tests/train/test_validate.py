"""Validation is retrieval through the encoder in use, on whole reports and unchanged volumes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medfinder.errors import InputError
from medfinder.model.dual_stream import DualStream
from medfinder.model.joint_encoder import JointEncoder
from medfinder.train.dataset import TrainingSet
from medfinder.train.validate import PRIMARY, Validation, validate
from stubs.training import phantoms, stream, without

KS = (1, 5, 10)


@pytest.fixture(scope="module")
def model() -> DualStream:
    return stream()


def vectors(model: DualStream, data: TrainingSet) -> tuple[Any, Any]:
    encoder = JointEncoder(model)
    first = [texts[0] for texts in data.reports if texts]
    return encoder.encode_texts(first), encoder.encode_volumes(data.volumes[data.rows])


def expected(texts: Any, volumes: Any, answers: Any) -> dict[str, float]:
    """The measures as they are defined: where the best right answer stands in each ranking."""
    measures = {}
    for name, scores, right in (
        ("report_to_volume", texts @ volumes.T, answers),
        ("volume_to_report", volumes @ texts.T, answers.T),
    ):
        ranks = []
        for row, good in zip(scores, right, strict=True):
            if good.any():
                ranks.append(1 + int((row > row[good].max()).sum()))
        for k in KS:
            measures[f"{name}_success_at_{k}"] = float(np.mean([rank <= k for rank in ranks]))
        measures[f"{name}_mean_rank"] = float(np.mean(ranks))
    measures[PRIMARY] = (
        measures["report_to_volume_success_at_10"] + measures["volume_to_report_success_at_10"]
    ) / 2
    return measures


def test_each_study_is_looked_for_by_its_report_and_back(model: DualStream) -> None:
    data = phantoms("val", 12)
    got = validate(model, data).measures
    assert got == pytest.approx(expected(*vectors(model, data), np.eye(12, dtype=bool)))
    assert 0 < got["report_to_volume_success_at_5"] < 1


def test_a_study_without_a_report_stays_among_the_volumes(model: DualStream) -> None:
    data = without(phantoms("val", 12), 0, 3)
    told = [i for i in range(12) if i not in (0, 3)]
    got = validate(model, data).measures
    assert got == pytest.approx(expected(*vectors(model, data), np.eye(12, dtype=bool)[told]))


def test_a_report_that_studies_share_is_answered_by_any_of_them(model: DualStream) -> None:
    data = phantoms("val", 12)
    shared = replace(data, reports=(*data.reports[:11], data.reports[0]))
    same = np.eye(12, dtype=bool)
    same[0, 11] = same[11, 0] = True
    texts, volumes = vectors(model, shared)
    got = validate(model, shared).measures
    assert got["report_to_volume_mean_rank"] == pytest.approx(
        expected(texts, volumes, same)["report_to_volume_mean_rank"]
    )
    assert got["report_to_volume_mean_rank"] != pytest.approx(
        expected(texts, volumes, np.eye(12, dtype=bool))["report_to_volume_mean_rank"]
    )


def test_volumes_are_read_where_the_set_says(model: DualStream) -> None:
    data = phantoms("val", 12)
    rows = np.random.default_rng(0).permutation(12)
    moved = replace(data, volumes=data.volumes[rows.argsort()], rows=rows)
    assert np.array_equal(moved.volumes[moved.rows], data.volumes)
    assert validate(model, moved) == validate(model, data)


def test_nothing_is_drawn_and_the_model_stays_in_training(model: DualStream) -> None:
    model.train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    assert validate(model, phantoms("val", 12)) == validate(model, phantoms("val", 12))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_one_report_is_nothing_to_rank() -> None:
    with pytest.raises(InputError, match="needs at least two studies with a report, got 1"):
        validate(stream(), without(phantoms("val", 12), *range(11)))


def test_the_primary_measure_decides_and_a_tie_goes_to_the_lower_ranks() -> None:
    def scored(primary: float, ranks: float) -> tuple[float, float]:
        return Validation(
            {PRIMARY: primary, "a_mean_rank": ranks, "b_mean_rank": 2.0, "success_at_1": -ranks}
        ).key

    assert scored(0.6, 9) > scored(0.5, 1)
    assert scored(0.5, 3) > scored(0.5, 4)
