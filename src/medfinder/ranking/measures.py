"""`Ranks` → one value a query, averaged over every order that tied items can take.

Throughout, a *tie group* is the set of items of one score. It holds n items, r of them relevant;
b items stand above it, c of them relevant. Its items take the places b + 1, ..., b + n in any
order with equal probability, which is what a ranking that breaks ties at random would do; the
values below are the exact expectations, so nothing is drawn. Where no items tie (n = 1 everywhere,
as in the ranks of a `medfinder.ranking.run.Run` whose ties are broken by id), they are the textbook
values, summed in the order of the ranking as trec_eval sums them: equal to its to the last bit.

An item that a cut-off ranking lacks is not found at any k. Every function gives a (Q,) float64 array: take its mean, and an interval of the mean from
`medfinder.ranking.significance`. H(n) = 1 + 1/2 + ... + 1/n.

Source: McSherry and Najork, "Computing information retrieval performance measures efficiently in
the presence of tied scores", ECIR 2008.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError
from medfinder.ranking.ranks import Ranks

Values = NDArray[np.float64]

_STEEPEST = 900  # float64 ends at 2**1024


def success_at_k(ranks: Ranks, k: int) -> Values:
    """Return the chance that a relevant item is among the first k, (Q,) in [0, 1].

    With the best tie group that holds a relevant item and m = clip(k - b, 0, n):
    1 - C(n - r, m) / C(n, m), which is m / n where r = 1.
    Papers on CLIP-like models print it as R@K; it is `recall_at_k` where one item is relevant.

    Raises:
        InputError: Rule ``k``: not a whole number of at least 1.
    """
    _check_k(k)
    best = _best(ranks)
    m = _within(best, ranks, k)
    chance = m / best.n
    for i in np.flatnonzero((best.r > 1) & (m > 0)):
        others = best.n[i] - np.arange(best.r[i])
        chance[i] = 1.0 - np.prod(np.maximum(others - m[i], 0) / others)
    return chance


def recall_at_k(ranks: Ranks, k: int) -> Values:
    """Return the expected fraction of a query's relevant items among the first k, (Q,) in [0, 1].

    The mean over its relevant items of clip(k - b, 0, n) / n.

    Raises:
        InputError: Rule ``k``: not a whole number of at least 1.
    """
    return _found(ranks, k) / np.diff(ranks.starts)


def precision_at_k(ranks: Ranks, k: int) -> Values:
    """Return the expected fraction of the first k that is relevant, (Q,) in [0, 1].

    The sum over relevant items of clip(k - b, 0, n) / n, over k; places beyond the end of a gallery
    of fewer than k items count as not relevant, as in trec_eval.

    Raises:
        InputError: Rule ``k``: not a whole number of at least 1.
    """
    return _found(ranks, k) / k


def first_rank(ranks: Ranks) -> Values:
    """Return the expected place of the first relevant item, (Q,), 1 at best.

    b + (n + 1) / (r + 1) for the best tie group that holds a relevant item.

    Raises:
        InputError: Rule ``cut-off``: a ranking ends before its first relevant item.
    """
    best = _best(ranks)
    lost = np.flatnonzero(best.b >= ranks.n_gallery)
    if len(lost):
        raise InputError(
            f"The ranking of query {lost[0]} ends before its first relevant item, as do "
            f"{len(lost)} in all, so its place is unknown; rank more items.",
            rule="cut-off",
        )
    return np.asarray(best.b + (best.n + 1) / (best.r + 1))


def median_rank(ranks: Ranks) -> float:
    """Return the median over queries of `first_rank`: MdR."""
    return float(np.median(first_rank(ranks)))


def mean_rank(ranks: Ranks) -> float:
    """Return the mean over queries of `first_rank`: MnR."""
    return float(np.mean(first_rank(ranks)))


def reciprocal_rank(ranks: Ranks, k: int | None = None) -> Values:
    """Return the expected reciprocal of the first relevant item's place, (Q,) in [0, 1].

    The sum over j = 1, ..., n - r + 1 of P(j) / (b + j), where P(j) = C(n - j, r - 1) / C(n, r) is
    the chance that the best group's first relevant item is its j-th; (H(b + n) - H(b)) / n where
    r = 1. Places beyond k, where one is given, count 0.

    Raises:
        InputError: Rule ``k``: not a whole number of at least 1.
    """
    best = _best(ranks)
    m = _within(best, ranks, k)
    values = _harmonic_gap(best.b, m, ranks.n_gallery) / best.n
    for i in np.flatnonzero((best.r > 1) & (m > 0)):
        b, n, r = best.b[i], best.n[i], best.r[i]
        j = np.arange(1, n - r + 1)
        chances = np.cumprod(np.concatenate([[r / n], (n - j - r + 1) / (n - j)]))[: m[i]]
        values[i] = (chances / (b + np.arange(1, len(chances) + 1))).sum()
    return np.asarray(values)


def average_precision(ranks: Ranks, k: int | None = None) -> Values:
    """Return the expected mean, over relevant items, of the precision at their place, (Q,).

    With R relevant items, 1 / R times the sum over tie groups and over j = 1, ..., n of
    r / n · (c + 1 + (j - 1) · s) / (b + j), where s = (r - 1) / (n - 1): the chance that the j-th of
    a group is relevant, and how many relevant ones are then expected up to it. The inner sum is
    n · s + (c + 1 - s · (b + 1)) · (H(b + n) - H(b)). Places beyond k, where one is given, count 0,
    with m = clip(k - b, 0, n) in the place of n in the inner sum; R stays, as in trec_eval. Its
    mean over queries is mAP.

    Raises:
        InputError: Rule ``k``: not a whole number of at least 1.
    """
    groups = _groups(ranks)
    m = _within(groups, ranks, k)
    b, n, r = groups.b, groups.n, groups.r
    s = (r - 1) / np.maximum(n - 1, 1)
    gap = _harmonic_gap(b, m, ranks.n_gallery)
    inner = m * s + (groups.c + 1 - s * (b + 1)) * gap
    alone = (n == 1) & (m == 1)  # one rounding, as trec_eval does it
    inner[alone] = (groups.c[alone] + 1) / (b[alone] + 1)
    return np.asarray(_total(groups, r / n * inner) / np.diff(ranks.starts))


def ndcg(
    ranks: Ranks, k: int | None = None, gain: Literal["linear", "exponential"] = "linear"
) -> Values:
    """Return the expected discounted gain over the best one possible, (Q,) in [0, 1].

    DCG is the sum over relevant items of g · (D(min(b + n, k)) - D(min(b, k))) / n, where
    D(p) = 1 / log2(2) + ... + 1 / log2(p + 1); with no ties, g / log2(place + 1). The best possible
    DCG has a query's relevant items on top, by falling grade, and is cut off at k as well.

    Args:
        ranks: With grades.
        k: Places looked at; None for all.
        gain: "linear": g = grade, as in trec_eval (Järvelin and Kekäläinen); "exponential":
            g = 2**grade - 1, as in the learning-to-rank literature (Burges et al.). Equal where
            every grade is 1.

    Raises:
        InputError: Rules ``k``, ``option``; ``grade``: a gain of 2**grade would pass float64.

    Source:
        Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 20, 2002;
        Burges et al., "Learning to rank using gradient descent", ICML 2005.
    """
    if gain not in ("linear", "exponential"):
        raise InputError(f"gain must be linear or exponential, got {gain!r}.", rule="option")
    if gain == "exponential" and ranks.grades.max() > _STEEPEST:
        raise InputError(
            f"A grade of {ranks.grades.max():g} has too great an exponential gain, at most "
            f"{_STEEPEST} can be used; take linear gain or smaller grades.",
            rule="grade",
        )
    gains = ranks.grades if gain == "linear" else np.exp2(ranks.grades) - 1
    query = np.repeat(np.arange(ranks.n_queries), np.diff(ranks.starts))
    n = ranks.tied + 1
    m = _found_of(ranks.better, n, ranks, k)
    # log2(2), log2(3), ...: what a gain at each place is divided by.
    logs = np.log2(np.arange(2, 2 + max(ranks.n_gallery, int(np.diff(ranks.starts).max()))))
    upto = np.concatenate([[0.0], np.cumsum(1.0 / logs)])
    above = np.minimum(ranks.better, ranks.n_gallery)
    found = gains * (upto[above + m] - upto[above]) / n
    alone = (n == 1) & (m == 1)  # one rounding, as trec_eval does it
    found[alone] = gains[alone] / logs[above[alone]]
    place = np.arange(len(gains)) - ranks.starts[query]
    best = gains[np.lexsort((-gains, query))] / logs[place]
    if k is not None:
        best[place >= k] = 0.0
    return np.asarray(_by_query(ranks, found) / _by_query(ranks, best))


def auroc(ranks: Ranks) -> Values:
    """Return the chance that a relevant item scores above another one, ties half, (Q,) in [0, 1].

    1 - the mean over relevant items of ((b - c) + (n - r) / 2) / (G - R), with G items of which R
    are relevant. For the AUROC of a finding over studies, let the finding be the query.

    Raises:
        InputError: Rule ``no-negative``: every item is relevant to a query; ``cut-off``: the
            rankings are not whole.
    """
    if not ranks.is_whole:
        raise InputError(
            "AUROC needs whole rankings, these may have been cut off; rank every item of the "
            "gallery for every query.",
            rule="cut-off",
        )
    n_relevant = np.diff(ranks.starts)
    n_other = ranks.n_gallery - n_relevant
    full = np.flatnonzero(n_other == 0)
    if len(full):
        raise InputError(
            f"All {ranks.n_gallery} items are relevant to query {full[0]}, so there is nothing to "
            "rank them above: leave such queries out and say so.",
            rule="no-negative",
        )
    groups = _groups(ranks)
    above = (groups.b - groups.c) + (groups.n - groups.r) / 2
    return np.asarray(1.0 - _total(groups, groups.r * above) / n_relevant / n_other)


class _Groups(NamedTuple):
    """Tie groups that hold a relevant item, (T,) each: `first` is where a query's groups begin."""

    first: NDArray[np.int64]
    b: NDArray[np.int64]
    n: NDArray[np.int64]
    r: NDArray[np.int64]
    c: NDArray[np.int64]


def _groups(ranks: Ranks) -> _Groups:
    pairs = np.arange(len(ranks.better))
    begins = np.zeros(len(pairs), np.bool_)
    begins[ranks.starts[:-1]] = True
    begins[1:] |= ranks.better[1:] != ranks.better[:-1]
    at = np.flatnonzero(begins)
    query = np.searchsorted(ranks.starts, at, "right") - 1
    return _Groups(
        first=np.searchsorted(at, ranks.starts[:-1]),
        b=ranks.better[at],
        n=ranks.tied[at] + 1,
        r=np.diff(np.append(at, len(pairs))),
        c=at - ranks.starts[query],
    )


def _best(ranks: Ranks) -> _Groups:
    """Return each query's first tie group alone, (Q,)."""
    groups = _groups(ranks)
    return _Groups(np.arange(ranks.n_queries), *(part[groups.first] for part in groups[1:]))


def _total(groups: _Groups, values: Values) -> Values:
    """Return the sum of a value over each query's tie groups, (Q,), in their order."""
    query = np.zeros(len(values), np.int64)
    query[groups.first[1:]] = 1
    return np.asarray(np.bincount(np.cumsum(query), values, len(groups.first)), np.float64)


def _by_query(ranks: Ranks, values: Values) -> Values:
    """Return the sum of a value over each query's relevant items, (Q,), in their order.

    `numpy.bincount` adds one value after the other, as a loop in C does; `numpy.add.reduceat` adds
    pairs and rounds otherwise.
    """
    query = np.repeat(np.arange(ranks.n_queries), np.diff(ranks.starts))
    return np.asarray(np.bincount(query, values, ranks.n_queries), np.float64)


def _found(ranks: Ranks, k: int) -> Values:
    """Return how many relevant items are expected among the first k, (Q,)."""
    _check_k(k)
    n = ranks.tied + 1
    return _by_query(ranks, _found_of(ranks.better, n, ranks, k) / n)


def _within(groups: _Groups, ranks: Ranks, k: int | None) -> NDArray[np.int64]:
    """Return how many places of each tie group are looked at, (T,)."""
    return _found_of(groups.b, groups.n, ranks, k)


def _found_of(
    b: NDArray[np.int64], n: NDArray[np.int64], ranks: Ranks, k: int | None
) -> NDArray[np.int64]:
    if k is not None:
        _check_k(k)
    end = ranks.n_gallery if k is None else min(k, ranks.n_gallery)
    return np.clip(end - b, 0, n)


def _harmonic_gap(b: NDArray[np.int64], m: NDArray[np.int64], n_gallery: int) -> Values:
    """Return 1 / (b + 1) + ... + 1 / (b + m) for each group, (T,)."""
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n_gallery + 1))])
    b = np.minimum(b, n_gallery)
    gap = harmonic[b + m] - harmonic[b]
    return np.asarray(np.where(m == 1, 1.0 / (b + 1), gap))


def _check_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k must be a whole number of at least 1, got {k!r}.", rule="k")
