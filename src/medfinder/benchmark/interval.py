"""Per-query values → their mean or median with an interval, over patients.

Where studies ask, patients are drawn with their queries (`medfinder.ranking.significance`). Where
findings ask, the same findings are asked of pools of patients drawn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medfinder.benchmark.reference import Rows
from medfinder.benchmark.task import Block, Floats, Task, blocks
from medfinder.errors import InputError
from medfinder.ranking.significance import bootstrap_interval

LEVEL = 0.95
_CELLS = 1 << 22  # weights held at once: 32 MiB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, or median, over queries with its interval.

    Attributes:
        value: Of the values as they are.
        low: Lower end; None where all studies are one patient's.
        high: Upper end.
    """

    value: float
    low: float | None
    high: float | None


def over_queries(name: str, values: Floats, patients: Sequence[str], n_draws: int) -> Estimate:
    """Return the mean, or the median for ``MdR``, with a percentile bootstrap over patients."""
    statistic = "median" if name == "MdR" else "mean"
    middle = float(np.median(values) if statistic == "median" else np.mean(values))
    try:
        found = bootstrap_interval(
            values,
            patients,
            statistic="median" if name == "MdR" else "mean",
            level=LEVEL,
            n_draws=n_draws,
        )
    except InputError as error:
        if error.rule != "one-patient":
            raise
        return Estimate(middle, None, None)
    return Estimate(found.estimate, found.low, found.high)


def over_pools(
    task: Task, scores: Block, values: dict[str, Floats], patient_key: Rows, n_draws: int
) -> dict[str, Estimate]:
    """Return the means over findings, with intervals from drawing the gallery's patients again.

    A study of a patient drawn twice stands in the pool twice. Tied items take an order that is drawn
    once. A draw without a study that has a finding leaves that finding out of its mean.

    Args:
        task: Its queries are findings.
        scores: Of the entrant.
        values: Measure → (Q,), for the estimates themselves.
        patient_key: (N,) of the reference.
    """
    assert task.relevant is not None
    _, patient = np.unique(patient_key[task.gallery], return_inverse=True)
    n_patients = int(patient.max()) + 1
    estimates = {name: float(np.mean(own)) for name, own in values.items()}
    if n_patients < 2:
        return {name: Estimate(value, None, None) for name, value in estimates.items()}
    random = np.random.default_rng(0)
    jitter = random.permutation(len(task.gallery))
    drawn: dict[str, list[Floats]] = {name: [] for name in values}
    step = max(1, _CELLS // len(task.gallery))
    for start in range(0, n_draws, step):
        size = min(step, n_draws - start)
        times = random.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size)
        weights = times[:, patient].astype(np.float64)  # (draws, G)
        sums = {name: np.zeros(size) for name in values}
        counts = {name: np.zeros(size) for name in values}
        for first, last in blocks(task):
            block = scores(first, last)
            for line, rows in zip(block, task.relevant[first:last], strict=True):
                order = np.lexsort((jitter, -line))
                has = np.zeros(len(line))
                has[rows] = 1
                for name in values:
                    value = _weighted(name, weights[:, order], has[order])
                    is_known = np.isfinite(value)
                    sums[name] += np.where(is_known, value, 0)
                    counts[name] += is_known
        for name in values:
            drawn[name].append(sums[name][counts[name] > 0] / counts[name][counts[name] > 0])
    found = {}
    for name, parts in drawn.items():
        low, high = np.quantile(np.concatenate(parts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found[name] = Estimate(estimates[name], float(low), float(high))
    return found


def _weighted(name: str, weights: Floats, has: Floats) -> Floats:
    """Return a measure of items in ranked order that stand `weights` times each, (draws,)."""
    right = weights * has
    if name.startswith("P@"):
        k = int(name.removeprefix("P@"))
        upto = np.minimum(np.cumsum(weights, axis=1), k)
        used = np.diff(upto, axis=1, prepend=0)  # how many copies of each are among the first k
        return np.asarray((used * has).sum(axis=1) / k)
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == "AP":
            found, place = np.cumsum(right, axis=1), np.cumsum(weights, axis=1)
            precision = np.where(right > 0, found / place, 0)
            return np.asarray((precision * right).sum(axis=1) / right.sum(axis=1))
        assert name == "AUROC"
        wrong = weights - right
        below = wrong.sum(axis=1, keepdims=True) - np.cumsum(wrong, axis=1)
        return np.asarray((below * right).sum(axis=1) / right.sum(axis=1) / wrong.sum(axis=1))
