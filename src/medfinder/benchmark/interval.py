"""Per-query values → their mean or median with an interval, over patients.

Where studies ask, patients are drawn with their queries (`medfinder.ranking.significance`). Where
findings ask, the same findings are asked of pools of patients drawn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    drawn = random.multinomial(n_patients, np.full(n_patients, 1 / n_patients), n_draws)
    times = drawn.astype(np.int32)
    sums = {name: np.zeros(n_draws) for name in values}
    counts = {name: np.zeros(n_draws, np.int64) for name in values}
    step = max(1, _CELLS // len(task.gallery))
    for first, last in blocks(task):
        block = scores(first, last)
        for line, rows in zip(block, task.relevant[first:last], strict=True):
            order = np.lexsort((jitter, -line))
            has = np.zeros(len(line), np.bool_)
            has[rows] = True
            for start in range(0, n_draws, step):
                some = slice(start, start + step)
                weights = times[some][:, patient[order]]  # (draws, G)
                for name, value in weighted(list(values), weights, has[order]).items():
                    is_known = np.isfinite(value)
                    sums[name][some] += np.where(is_known, value, 0)
                    counts[name][some] += is_known
    found = {}
    for name, total in sums.items():
        kept = counts[name] > 0
        means = total[kept] / counts[name][kept]
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found[name] = Estimate(estimates[name], float(low), float(high))
    return found


def weighted(
    names: Sequence[str], weights: NDArray[np.int32], has: NDArray[np.bool_]
) -> dict[str, Floats]:
    """Return measures of items in ranked order that stand `weights` times each, (draws,) by name.

    Copies of an item stand beside each other; the precision at an item is that at its last copy.

    Args:
        names: Of ``P@k``, ``AP`` and ``AUROC``.
        weights: (draws, G).
        has: (G,) which answer.
    """
    place = np.cumsum(weights, axis=1, dtype=np.int32)
    at = np.flatnonzero(has)
    right = weights[:, at]
    found = np.cumsum(right, axis=1, dtype=np.int32)
    n_right, n_all = found[:, -1].astype(np.float64), place[:, -1].astype(np.float64)
    values: dict[str, Floats] = {}
    for name in names:
        if name.startswith("P@"):
            k = int(name.removeprefix("P@"))
            # How many copies of each are among the first k.
            used = np.minimum(place[:, at], k) - np.minimum(place[:, at] - right, k)
            values[name] = used.sum(axis=1) / k
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            if name == "AP":
                precision = np.where(right > 0, found / place[:, at], 0)
                values[name] = (precision * right).sum(axis=1) / n_right
            else:
                assert name == "AUROC"
                n_wrong = n_all - n_right
                below = n_wrong[:, None] - (place[:, at] - found)
                values[name] = (below * right).sum(axis=1) / n_right / n_wrong
    return values
