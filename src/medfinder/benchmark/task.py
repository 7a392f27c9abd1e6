"""One ranking question: which rows ask, which answer, what is relevant → one value a query.

The same code scores a model, the best that any model can do (`ceiling`) and one that knows nothing
(`chance`): each is a function from queries to scores. Queries are looked at a block at a time, so
memory is that of a block, whatever the number of queries.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medfinder.benchmark.entrant import Seated, Side
from medfinder.benchmark.reference import Rows
from medfinder.errors import InputError
from medfinder.ranking.measures import auroc
from medfinder.ranking.names import measure
from medfinder.ranking.ranks import Ranks, rank_scores, rank_vectors

Way = Literal["report_to_volume", "volume_to_report", "volume_to_volume", "keyword_to_volume"]
Ties = Literal["expected", "row"]
Floats: TypeAlias = NDArray[np.float64]
Block: TypeAlias = Callable[[int, int], Floats]
"""From (first, last) to a row of numbers for each query in between, (last - first, G)."""

SIDES: Mapping[Way, tuple[Side, Side]] = {
    "report_to_volume": ("text", "volume"),
    "volume_to_report": ("volume", "text"),
    "volume_to_volume": ("volume", "volume"),
    "keyword_to_volume": ("keyword", "volume"),
}
_CELLS = 1 << 22  # scores held at once: 32 MiB of float64


@dataclass(frozen=True, eq=False)
class Task:
    """Queries, a gallery, and what answers what.

    Attributes:
        way: What is asked for by what.
        queries: (Q,) rows of the reference, or numbers of keywords.
        query_ids: Q names, for per-query scores and run files.
        gallery: (G,) rows of the reference, ascending.
        measures: Names, see `measure_names`.
        relevant: Positions in the gallery that answer each query, Q lists; None where graded.
        grades: The grade of every item, in [0, 1], for a block of queries; None where binary.
        excluded: Positions that are not ranked for each query, Q lists; None for none.
        left_out: Reason → queries that were left out before.
        ties: "expected": the mean over all orders of tied items. "row": the earlier row wins.
        keywords: Names of the findings asked for, where queries are keywords.
    """

    way: Way
    queries: Rows
    query_ids: tuple[str, ...]
    gallery: Rows
    measures: tuple[str, ...]
    relevant: Sequence[Rows] | None = None
    grades: Block | None = None
    excluded: Sequence[Rows] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    ties: Ties = "expected"

    def __post_init__(self) -> None:
        assert (self.relevant is None) != (self.grades is None)
        assert len(self.queries) == len(self.query_ids)

    @property
    def n(self) -> int:
        """Number of queries."""
        return len(self.queries)


def blocks(task: Task) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each block of queries."""
    step = max(1, _CELLS // max(1, len(task.gallery)))
    for first in range(0, task.n, step):
        yield first, min(first + step, task.n)


def without_empty(task: Task) -> Task:
    """Leave out queries that nothing in the gallery answers, and count them as ``no-positive``."""
    if task.relevant is None:
        keep = np.zeros(task.n, np.bool_)
        for first, last in blocks(task):
            assert task.grades is not None
            grades = task.grades(first, last)
            for i, rows in enumerate((task.excluded or [])[first:last]):
                grades[i, rows] = 0
            keep[first:last] = grades.any(axis=1)
    else:
        keep = np.array([len(rows) > 0 for rows in task.relevant], np.bool_)
    if keep.all():
        return task
    left_out = dict(task.left_out)
    left_out["no-positive"] = left_out.get("no-positive", 0) + int((~keep).sum())
    return dataclasses.replace(take(task, np.flatnonzero(keep)), left_out=left_out)


def take(task: Task, some: Rows) -> Task:
    """Return the task with some of its queries."""
    grades = task.grades
    if grades is not None:
        whole = grades

        def chosen(first: int, last: int) -> Floats:
            return np.concatenate(
                [
                    np.empty((0, len(task.gallery))),
                    *(whole(int(i), int(i) + 1) for i in some[first:last]),
                ]
            )

        grades = chosen
    return dataclasses.replace(
        task,
        queries=task.queries[some],
        query_ids=tuple(task.query_ids[i] for i in some),
        relevant=None if task.relevant is None else [task.relevant[i] for i in some],
        excluded=None if task.excluded is None else [task.excluded[i] for i in some],
        grades=grades,
    )


# --- who scores


def of_entrant(task: Task, seated: Seated) -> Block:
    """Return an entrant's scores of the task."""
    asking, answering = SIDES[task.way]
    return seated.scores(asking, task.queries, answering, task.gallery)


def of_ceiling(task: Task, query_key: Rows | None, gallery_key: Rows | None) -> Block:
    """Return the scores of a model that knows all answers, but cannot tell equal inputs apart.

    A query's items are scored by how often they answer a query of the same input, and items of one
    input share their mean. Ranking by the chance of being relevant is the best there is for
    measures that count relevant items (Robertson, "The probability ranking principle in IR", 1977).

    Args:
        query_key: (Q,) equal where queries are the same input; None where none are.
        gallery_key: (G,) equal where items are.
    """
    n_items = len(task.gallery)
    alike: dict[int, list[int]] = {}
    if query_key is not None and task.excluded is None and task.relevant is not None:
        for i, key in enumerate(query_key.tolist()):
            alike.setdefault(key, []).append(i)
    columns, sizes = None, None
    if gallery_key is not None and len(np.unique(gallery_key)) < n_items:
        _, columns, counts = np.unique(gallery_key, return_inverse=True, return_counts=True)
        sizes = counts.astype(np.float64)

    def block(first: int, last: int) -> Floats:
        if task.relevant is None:
            assert task.grades is not None
            scores = np.array(task.grades(first, last), np.float64)
        else:
            scores = np.zeros((last - first, n_items))
            for i in range(first, last):
                same = alike[int(query_key[i])] if alike and query_key is not None else [i]
                for other in same:
                    scores[i - first, task.relevant[other]] += 1.0 / len(same)
        if columns is not None and sizes is not None:
            for line in scores:
                line[:] = (np.bincount(columns, line, len(sizes)) / sizes)[columns]
        return np.round(scores, 9)

    return block


def of_chance(task: Task, seed: int = 0) -> Block:
    """Return scores that know nothing: all alike, or drawn where the earlier of two equals wins."""

    def block(first: int, last: int) -> Floats:
        if task.ties == "expected":
            return np.zeros((last - first, len(task.gallery)))
        return np.stack(
            [np.random.default_rng([seed, i]).random(len(task.gallery)) for i in range(first, last)]
        )

    return block


# --- what is measured

_POOLED = re.compile(r"R@(?P<k>\d+) of (?P<size>\d+)")
_NDCG = re.compile(r"nDCG(?:@(?P<k>\d+))?")
_BY_ORDER = re.compile(
    r"(?:Jaccard@(?P<mean>\d+)|AP@(?P<ap>\d+)(?P<over>/k)?"
    r"|MAP@(?P<past>\d+) of (?P<ks>[\d,]+))"
)
MEASURES = {
    "R@k": "1 where a relevant item is among the first k, else 0: success@k, which papers on "
    "CLIP-like models print as recall",
    "R@k of n": "the chance of R@k in a pool of n drawn from the gallery, over all such pools",
    "P@k": "share of the first k that is relevant; places beyond a smaller gallery count as not",
    "recall@k": "share of the relevant items that is among the first k",
    "AP": "mean over the relevant items of the precision at their place",
    "RR": "1 / place of the first relevant item",
    "MdR": "median over queries of the place of the first relevant item, 1 at best",
    "MnR": "mean over queries of the place of the first relevant item, 1 at best",
    "AUROC": "chance that a relevant item scores above another, ties half",
    "nDCG": "nDCG@k over all places",
    "nDCG@k": "sum over the first k places i of grade / log2(1 + i), over that of the ideal order; "
    "linear gain, the grade itself",
    "Jaccard@k": "mean grade of the first k",
    "AP@k": "sum over relevant items among the first k of the precision at their place, over the "
    "smaller of k and the number of relevant items",
    "AP@k/k": "the same sum, over k",
    "MAP@k of K,...": "mean of Jaccard@K over every K of the list up to k, as CT-CLIP's code adds up",
}
"""What each measure is, one value a query before the mean (or median) over queries."""


def is_lower_better(name: str) -> bool:
    """Tell whether a smaller value of a measure is the better one."""
    return name in ("MdR", "MnR")


def needs_ranks(name: str) -> bool:
    """Tell whether a measure needs only the places of the relevant items.

    Raises:
        UnknownName: No such measure.
    """
    if _BY_ORDER.fullmatch(name):
        return False
    if not _POOLED.fullmatch(name):
        measure(name)
    return True


def measured(task: Task, scores: Block | None, seated: Seated | None = None) -> dict[str, Floats]:
    """Return each measure's value for each query, (Q,).

    Args:
        scores: Of every item; None where `seated` gives plain vectors and nothing but places of
            relevant items is needed, which is faster and the same.
        seated: The entrant behind `scores`.

    Raises:
        InputError: Rule ``no-query``: no query is left, and a mean over nothing is undefined.
    """
    if task.n == 0:
        left = ", ".join(f"{why} {n}" for why, n in task.left_out.items()) or "none"
        raise InputError(
            f"No query of {task.way} is left to measure (left out: {left}). A measure over nothing "
            "is undefined: give studies of which some answer each other.",
            rule="no-query",
        )
    if len(task.gallery) == 0:
        raise InputError(
            f"The gallery of {task.way} is empty. A measure over nothing is undefined.",
            rule="no-query",
        )
    # Where every item has a grade, the sorted grades are at hand and places are many.
    by_place = task.relevant is not None
    ranked = [n for n in task.measures if needs_ranks(n) and (by_place or not _NDCG.fullmatch(n))]
    ordered = [name for name in task.measures if name not in ranked]
    # The mean of AP@k over the orders of tied items has no short form.
    assert task.ties == "row" or not any(name.startswith("AP@") for name in ordered)
    found: dict[str, list[Floats]] = {name: [] for name in task.measures}
    if scores is None:
        assert seated is not None
        scores = of_entrant(task, seated)
        is_plain = task.excluded is None and task.relevant is not None and task.ties == "expected"
        if is_plain and not ordered and seated.is_dense:
            asking, answering = SIDES[task.way]
            assert task.relevant is not None
            own = [rows.astype(np.int64) for rows in task.relevant]
            relevant = np.concatenate(own) if all(len(r) == 1 for r in own) else own
            ranks = rank_vectors(
                seated.vectors(asking, task.queries),
                seated.vectors(answering, task.gallery),
                relevant,
            )
            return {name: _by_rank(name, ranks) for name in ranked}
    for first, last in blocks(task):
        block = scores(first, last)
        gone = None if task.excluded is None else task.excluded[first:last]
        if gone is not None:
            block = block.copy()
            for line, rows in zip(block, gone, strict=True):
                line[rows] = line.min() - 1
        if ranked:
            ranks = _ranks(task, block, first, last)
            for name in ranked:
                found[name].append(_by_rank(name, ranks, gone))
        if ordered:
            grades = _grades(task, first, last)
            n_ranked = np.full(last - first, block.shape[1])
            for i, rows in enumerate(gone or []):
                grades[i, rows] = 0
                n_ranked[i] -= len(rows)
            order = np.argsort(-block, axis=1, kind="stable")
            sorted_ = np.take_along_axis(grades, order, 1)
            if task.ties == "expected":
                sorted_ = _shared(np.take_along_axis(block, order, 1), sorted_)
            n_relevant = (grades > 0).sum(axis=1)
            for name in ordered:
                graded = _NDCG.fullmatch(name)
                found[name].append(
                    _by_order(name, sorted_, n_ranked, n_relevant)
                    if graded is None
                    else _ndcg(sorted_, grades, int(graded["k"] or grades.shape[1]))
                )
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _grades(task: Task, first: int, last: int) -> Floats:
    if task.grades is not None:
        return np.array(task.grades(first, last), np.float64)
    assert task.relevant is not None
    grades = np.zeros((last - first, len(task.gallery)))
    for line, rows in zip(grades, task.relevant[first:last], strict=True):
        line[rows] = 1
    return grades


def _ranks(task: Task, block: Floats, first: int, last: int) -> Ranks:
    """Return where the items that answer a block of queries stand, tied or by row."""
    if task.ties == "row":
        assert task.relevant is not None
        return _places(block, task.relevant[first:last])
    assert task.relevant is not None
    return rank_scores(block, list(task.relevant[first:last]))


def _places(block: Floats, relevant: Sequence[Rows]) -> Ranks:
    """Return where relevant items stand when the earlier of two equal rows stands first."""
    starts = np.cumsum([0, *(len(rows) for rows in relevant)], dtype=np.int64)
    better = np.empty(int(starts[-1]), np.int64)
    place = np.empty(block.shape[1], np.int64)
    for line, rows, start in zip(block, relevant, starts, strict=False):
        if len(rows) == 1:  # counting is cheaper than sorting
            own = int(rows[0])
            above = np.count_nonzero(line > line[own])
            better[start] = above + np.count_nonzero(line[:own] == line[own])
            continue
        place[np.argsort(-line, kind="stable")] = np.arange(len(line))
        better[start : start + len(rows)] = np.sort(place[rows])
    return Ranks(
        starts=starts,
        better=better,
        tied=np.zeros_like(better),
        grades=np.ones(len(better)),
        n_gallery=block.shape[1],
    )


def _by_rank(name: str, ranks: Ranks, gone: Sequence[Rows] | None = None) -> Floats:
    pooled = _POOLED.fullmatch(name)
    if pooled is not None:
        return in_pools(ranks, int(pooled["k"]), int(pooled["size"]))
    if name == "AUROC" and gone is not None:
        return _auroc(ranks, np.array([len(rows) for rows in gone]))
    return np.asarray(measure(name).values(ranks))


def _auroc(ranks: Ranks, n_gone: Rows) -> Floats:
    """Return the AUROC of queries each of which ranks fewer items than the gallery holds."""
    values = np.empty(ranks.n_queries)
    for n in np.unique(n_gone):
        some = np.flatnonzero(n_gone == n)
        pairs = np.concatenate([np.arange(*ranks.starts[i : i + 2]) for i in some])
        starts = np.cumsum([0, *np.diff(ranks.starts)[some]], dtype=np.int64)
        part = Ranks(
            starts=starts,
            better=ranks.better[pairs],
            tied=ranks.tied[pairs],
            grades=ranks.grades[pairs],
            n_gallery=ranks.n_gallery - int(n),
        )
        values[some] = auroc(part)
    return values


def in_pools(ranks: Ranks, k: int, size: int) -> Floats:
    """Return the chance that each query's item is among the first k of a random pool, (Q,).

    The pool holds the item and size - 1 others of the gallery, each choice equally likely; it is
    what repeated draws of pools estimate, here without drawing. With b items above the item in the
    whole gallery of G, the number of them in the pool is hypergeometric: P(X < k) where X counts
    those among size - 1 drawn of G - 1. Over the t tied items, the mean over b, ..., b + t.

    Raises:
        InputError: Rule ``pool-size``: larger than the gallery, or several items answer a query.
    """
    if size > ranks.n_gallery or len(ranks.better) != ranks.n_queries:
        raise InputError(
            f"A pool of {size} cannot be drawn from {ranks.n_gallery} items of which one answers.",
            rule="pool-size",
        )
    chance = _fewer(k, size, ranks.n_gallery)
    upto = np.concatenate([[0.0], np.cumsum(chance)])
    upper = ranks.better + ranks.tied + 1
    values = (upto[upper] - upto[ranks.better]) / (ranks.tied + 1)
    single = ranks.tied == 0
    values[single] = chance[ranks.better[single]]  # no difference of large sums
    return np.asarray(np.clip(values, 0.0, 1.0))


@cache
def _fewer(k: int, size: int, n: int) -> Floats:
    """Return the chance that fewer than k of b better items are in a pool, for b = 0, ..., n - 1."""
    from scipy.stats import hypergeom

    return np.asarray(hypergeom.cdf(k - 1, n - 1, np.arange(n), size - 1))


def _shared(scores: Floats, grades: Floats) -> Floats:
    """Give tied items the mean grade of their group: exact for measures linear in the grades."""
    begins = np.ones(scores.shape, np.bool_)
    begins[:, 1:] = scores[:, 1:] != scores[:, :-1]
    at = np.flatnonzero(begins.ravel())
    sizes = np.diff(np.append(at, scores.size))
    means = np.add.reduceat(grades.ravel(), at) / sizes
    return np.repeat(means, sizes).reshape(scores.shape)


def _by_order(name: str, grades: Floats, n_ranked: Rows, n_relevant: Rows) -> Floats:
    """Return a measure of grades in ranked order, (B, G), of which `n_ranked` count, (B,)."""
    found = _BY_ORDER.fullmatch(name)
    assert found is not None
    if found["mean"]:
        return _mean_of_first(grades, int(found["mean"]), n_ranked)
    if found["past"]:
        ks = [k for k in map(int, found["ks"].split(",")) if k <= int(found["past"])]
        return np.asarray(np.mean([_mean_of_first(grades, k, n_ranked) for k in ks], axis=0))
    k = int(found["ap"])
    first = grades[:, :k]
    precision = np.cumsum(first, axis=1) / np.arange(1, first.shape[1] + 1)
    total = (precision * first).sum(axis=1)
    below = np.full(len(grades), k) if found["over"] else np.minimum(n_relevant, k)
    return np.asarray(total / np.maximum(below, 1))


def _ndcg(grades: Floats, given: Floats, k: int) -> Floats:
    """Return nDCG@k of grades in ranked order, (B, G), with linear gain; `given` is in any order.

    `medfinder.ranking.measures.ndcg` gives the same from places.
    """
    k = min(k, grades.shape[1])
    weights = 1 / np.log2(np.arange(2, k + 2))
    best = -np.sort(np.partition(-given, k - 1, axis=1)[:, :k], axis=1)
    return np.asarray((grades[:, :k] @ weights) / (best @ weights))


def _mean_of_first(grades: Floats, k: int, n_ranked: Rows) -> Floats:
    return np.asarray(grades[:, :k].sum(axis=1) / np.minimum(k, np.maximum(n_ranked, 1)))
