"""Per-query scores → how far to trust their mean, and whether two methods differ.

Queries of one patient are alike, so patients, not queries, are drawn and flipped. The gallery stays
as it is: what is said holds for new queries against the same gallery.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError

_CHUNK = 1 << 21  # draws held at once: 16 MiB of int64


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the interval around it.

    Attributes:
        estimate: Of the scores as they are.
        low: Lower end.
        high: Upper end.
        level: Share of repetitions in which such an interval is to hold the truth.
        n_queries: Scores it is made from.
        n_patients: Groups they were drawn in.
    """

    estimate: float
    low: float
    high: float
    level: float
    n_queries: int
    n_patients: int


def bootstrap_interval(
    scores: NDArray[Any],
    patient_ids: Sequence[str] | None = None,
    *,
    statistic: Literal["mean", "median"] = "mean",
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of the mean, or median, of per-query scores.

    Each draw takes as many patients as there are, with replacement and with all their queries. For
    a difference between two methods, give the differences. Where all scores are equal the interval
    has no width; after 0 successes in n, think of 3 / n as the upper end.

    Args:
        scores: (Q,), such as those of `medfinder.ranking.measures.success_at_k`.
        patient_ids: (Q,), whose query each is; None where every query is another patient's.
        statistic: "median" for a median rank.
        level: In (0, 1).
        n_draws: At least 100.
        seed: Equal seeds give equal intervals.

    Raises:
        InputError: Rules ``shape``, ``empty``, ``not-finite``, ``one-patient``, ``option``.

    Source:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; clusters as in
        Field and Welsh, "Bootstrapping clustered data", JRSS B 69, 2007.
    """
    scores = _check_scores("scores", scores)
    if statistic not in ("mean", "median"):
        raise InputError(f"statistic must be mean or median, got {statistic!r}.", rule="option")
    cluster, n = _drawable(patient_ids, len(scores), level, n_draws)
    median = _medians(scores, cluster)
    resample = (
        _means(scores, cluster, n)
        if statistic == "mean"
        else lambda drawn: median(_times(drawn, n))
    )
    random = np.random.default_rng(seed)
    width = n if statistic == "mean" else max(n, len(scores))
    drawn = np.concatenate(
        [resample(random.integers(n, size=(size, n))) for size in _sizes(n_draws, width)]
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    estimate = np.mean(scores) if statistic == "mean" else np.median(scores)
    return Interval(float(estimate), float(low), float(high), level, len(scores), n)


def bootstrap_intervals(
    scores: Mapping[str, NDArray[Any]],
    patient_ids: Sequence[str] | None = None,
    *,
    medians: Collection[str] = (),
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the intervals of several means over the same queries, by name, from the same draws.

    As `bootstrap_interval` of each, but for the last digits of its sums, and drawn once.

    Args:
        scores: (Q,) each, by name.
        patient_ids: As for `bootstrap_interval`, as `level`, `n_draws` and `seed`.
        medians: Names of the scores to take the median of instead.

    Raises:
        InputError: As `bootstrap_interval`; rules ``empty`` (there are no scores at all), ``option``
            (no scores have a name of `medians`).
    """
    if not scores:
        raise InputError("No scores to give intervals of.", rule="empty")
    checked = {name: _check_scores(f"scores {name}", each) for name, each in scores.items()}
    n_scores = {len(each) for each in checked.values()}
    if len(n_scores) > 1:
        raise InputError(
            f"The scores are of {sorted(n_scores)} queries; intervals of one kind of draw need the "
            "same queries.",
            rule="shape",
        )
    unknown = sorted(set(medians) - set(checked))
    if unknown:
        raise InputError(f"No scores are called {unknown[0]!r}, of `medians`.", rule="option")
    n_queries = n_scores.pop()
    cluster, n = _drawable(patient_ids, n_queries, level, n_draws)
    means = [name for name in checked if name not in medians]
    sums = {name: np.bincount(cluster, checked[name], n) for name in means}
    table = np.stack([np.bincount(cluster, minlength=n), *sums.values()], axis=1)
    median = {name: _medians(checked[name], cluster) for name in checked if name in medians}
    random = np.random.default_rng(seed)
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in checked}
    for size in _sizes(n_draws, max(n, n_queries) if median else n):
        times = _times(random.integers(n, size=(size, n)), n)
        n_drawn, *totals = (times @ table).T
        for name, total in zip(means, totals, strict=True):
            drawn[name].append(total / n_drawn)
        for name, resample in median.items():
            drawn[name].append(resample(times))
    intervals = {}
    for name, each in checked.items():
        low, high = np.quantile(np.concatenate(drawn[name]), [(1 - level) / 2, (1 + level) / 2])
        estimate = np.median(each) if name in median else np.mean(each)
        intervals[name] = Interval(float(estimate), float(low), float(high), level, n_queries, n)
    return intervals


def permutation_test(
    scores: NDArray[Any],
    others: NDArray[Any],
    patient_ids: Sequence[str] | None = None,
    *,
    n_draws: int = 10_000,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of "both methods score the same on average".

    If so, the two scores of a patient's queries may change places, all of them at once. p is the
    share of such flips whose mean difference is at least the one seen, in size: of all 2**C flips
    of the C patients on which the methods differ, where these are no more than `n_draws`; else of
    `n_draws` random ones and the one seen, so p is at least 1 / (n_draws + 1).

    Args:
        scores: (Q,) of one method.
        others: (Q,) of the other, same queries in the same order.
        patient_ids: (Q,), whose query each is; None where every query is another patient's.
        n_draws: At least 100.
        seed: Equal seeds give equal p-values.

    Raises:
        InputError: Rules ``shape``, ``empty``, ``not-finite``, ``option``.

    Source:
        Smucker, Allan and Carterette, "A comparison of statistical significance tests for
        information retrieval evaluation", CIKM 2007.
    """
    scores, others = _check_scores("scores", scores), _check_scores("others", others)
    if len(scores) != len(others):
        raise InputError(
            f"The two methods have {len(scores)} and {len(others)} scores; pairs need the same "
            "queries.",
            rule="shape",
        )
    _check_draws("n_draws", n_draws)
    cluster, n = _clusters(patient_ids, len(scores))
    gaps = np.bincount(cluster, scores - others, n)
    gaps = gaps[np.abs(gaps) > 1e-12 * np.abs(gaps).max()]  # what is rounding only is no gap
    # Two orders of one sum may differ by rounding; they are the same sum.
    seen = abs(gaps.sum()) - 1e-9 * np.abs(gaps).sum()
    n_gaps = len(gaps)
    if n_gaps < 63 and 2**n_gaps <= n_draws:
        flips = (np.arange(2**n_gaps)[:, None] >> np.arange(n_gaps)) & 1
        return float(np.mean(np.abs((1 - 2 * flips) @ gaps) >= seen))
    random = np.random.default_rng(seed)
    extreme = 0
    for size in _sizes(n_draws, n_gaps):
        flips = random.integers(2, size=(size, n_gaps), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(gaps.sum() - 2 * (flips @ gaps)) >= seen))
    return float((extreme + 1) / (n_draws + 1))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Return p-values corrected for there being several, by name, in the order given.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j for j up to i, at most 1.
    Calling those below 0.05 different is then wrong, about any of them, at most once in 20 times.

    Raises:
        InputError: Rules ``empty``, ``p-value`` (outside 0 to 1).

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.
    """
    if not p_values:
        raise InputError("No p-values to correct.", rule="empty")
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise InputError(f"The p-value of {name!r} is {p}, not in 0 to 1.", rule="p-value")
    corrected = dict(p_values)
    largest = 0.0
    for i, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[name]))
        corrected[name] = largest
    return corrected


Resample = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def _means(scores: NDArray[np.float64], cluster: NDArray[np.int64], n: int) -> Resample:
    """Return a function from drawn patients, (B, n), to the mean score of their queries, (B,)."""
    sums, sizes = np.bincount(cluster, scores, n), np.bincount(cluster, minlength=n)
    return lambda drawn: np.asarray(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))


def _medians(
    scores: NDArray[np.float64], cluster: NDArray[np.int64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return a function from how often each is drawn, (B, n), to their queries' median, (B,)."""
    order = np.argsort(scores)
    ascending, cluster = scores[order], cluster[order]

    def median(times: NDArray[np.float64]) -> NDArray[np.float64]:
        upto = np.cumsum(times.astype(np.int32)[:, cluster], axis=1, dtype=np.int32)  # (B, Q)
        total = upto[:, -1]
        ends = np.stack([(total - 1) // 2, total // 2], axis=1)
        at = [np.searchsorted(line, two, "right") for line, two in zip(upto, ends, strict=True)]
        return np.asarray(ascending[np.stack(at)].mean(axis=1))

    return median


def _sizes(n_draws: int, width: int) -> Iterator[int]:
    """Cut draws of `width` numbers each into chunks that fit in memory."""
    step = max(1, _CHUNK // width)
    for first in range(0, n_draws, step):
        yield min(step, n_draws - first)


def _drawable(
    patient_ids: Sequence[str] | None, n_scores: int, level: float, n_draws: int
) -> tuple[NDArray[np.int64], int]:
    """Return a patient's number for each score and how many there are, if draws can be made."""
    cluster, n = _clusters(patient_ids, n_scores)
    if not 0 < level < 1:
        raise InputError(f"level must be above 0 and below 1, got {level}.", rule="option")
    _check_draws("n_draws", n_draws)
    if n < 2:
        raise InputError(
            "All queries are one patient's; an interval needs at least 2 patients.",
            rule="one-patient",
        )
    return cluster, n


def _times(drawn: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return how often each of n patients is drawn, (B, n), from draws, (B, n)."""
    rows = np.arange(len(drawn))[:, None] * n
    return np.asarray(
        np.bincount((drawn + rows).ravel(), minlength=drawn.size).reshape(drawn.shape), np.float64
    )


def _clusters(patient_ids: Sequence[str] | None, n_scores: int) -> tuple[NDArray[np.int64], int]:
    """Return a patient's number for each score, and how many patients there are."""
    if patient_ids is None:
        return np.arange(n_scores), n_scores
    if len(patient_ids) != n_scores:
        raise InputError(
            f"{len(patient_ids)} patient_ids for {n_scores} scores; each score needs one.",
            rule="shape",
        )
    numbers = {patient: i for i, patient in enumerate(dict.fromkeys(patient_ids))}
    return np.array([numbers[patient] for patient in patient_ids], np.int64), len(numbers)


def _check_scores(name: str, scores: NDArray[Any]) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1:
        raise InputError(
            f"The {name} must be one number a query, got shape {values.shape}.", rule="shape"
        )
    if len(values) == 0:
        raise InputError(f"The {name} are empty; a mean of nothing is undefined.", rule="empty")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"The {name} hold {values[bad[0]]} at query {bad[0]}; every value must be finite.",
            rule="not-finite",
        )
    return values


def _check_draws(name: str, n: int) -> None:
    if n < 100:
        raise InputError(f"{name} must be at least 100, got {n}.", rule="option")
