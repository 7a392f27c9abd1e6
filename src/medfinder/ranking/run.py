"""Which items a system gives for each query, best first: vectors, scores or a TREC file → `Run`.

The order is trec_eval's, so that a run scored here and by trec_eval, pytrec_eval or ir_measures is
one ranking: by score, as a float32, from high to low; items of one score by id, from high to low, as
text is compared code point by code point. No other rank is looked at: not that of a file's lines or
of its rank column, nor the order of a gallery.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import atomic_write
from medfinder.errors import InputError
from medfinder.ranking.grid import grid_and_scale, narrow_gallery, narrow_queries
from medfinder.ranking.qrels import Qrels, check_id, check_ids, fields, repeated
from medfinder.ranking.ranks import Ranks
from medfinder.ranking.tables import blocks, check_dimensions, check_table, check_vectors

_LARGEST = float(np.finfo(np.float32).max)
_WIDE = 1 << 22  # float64 products held at once: 32 MiB


class Run:
    """Query id → scored items, best first.

    Attributes:
        queries: Ids, each once.
        items: Ids, each once.
        starts: (Q + 1,) where each query's items begin in `rows` and `scores`.
        rows: (P,) numbers in `items`.
        scores: (P,) float32, falling in a query.
    """

    def __init__(
        self,
        queries: Sequence[str],
        items: Sequence[str],
        starts: NDArray[np.int64],
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> None:
        """Take parts as the attributes describe them, but for the order in a query."""
        self.queries = tuple(queries)
        self.items = tuple(items)
        query = np.repeat(np.arange(len(self.queries)), np.diff(starts))
        # + 0.0 makes -0 and 0 one score.
        order = np.lexsort((_late_first(self.items)[rows], -(scores + np.float32(0.0)), query))
        self.starts, self.rows, self.scores = starts, rows[order], scores[order]
        self._numbers = {query_id: i for i, query_id in enumerate(self.queries)}

    # -- ways in -------------------------------------------------------------

    @classmethod
    def from_lists(cls, scored: Mapping[str, Mapping[str, float]]) -> "Run":
        """Take {query id: {item id: score}}; a query may have no item.

        Raises:
            InputError: Rules ``empty``, ``id``, ``not-finite``.
        """
        items: dict[str, int] = {}
        rows, scores, starts = [], [], [0]
        check_ids("query", list(scored))
        for number, found in enumerate(scored.values()):
            for place, (item_id, score) in enumerate(found.items()):
                where = f"item {place} of query {number}"
                check_id(item_id, where)
                rows.append(items.setdefault(item_id, len(items)))
                scores.append(_score(score, where))
            starts.append(len(rows))
        return cls(
            list(scored),
            list(items),
            np.array(starts, np.int64),
            np.array(rows, np.int64),
            np.array(scores, np.float32),
        )

    @classmethod
    def from_scores(
        cls,
        query_ids: Sequence[str],
        item_ids: Sequence[str],
        scores: NDArray[Any],
        k: int | None = None,
    ) -> "Run":
        """Take the best of a table of scores.

        Args:
            query_ids: Of the rows, each once, in any order.
            item_ids: Of the columns, each once, in any order.
            scores: (Q, G), any real type, higher is better; may be a memory map.
            k: Items kept of each query; None for all.

        Raises:
            InputError: Rules ``shape``, ``empty``, ``not-finite``, ``k``, ``id``, ``repeated-id``.
        """
        check_table("scores", scores)
        _check_rows("query", query_ids, scores.shape[0])
        _check_rows("item", item_ids, scores.shape[1])
        k = _checked_k(k, len(item_ids))
        late = _late_first(item_ids)
        parts = []
        for first, last in blocks(len(scores), len(item_ids)):
            with np.errstate(over="ignore"):  # told as what it is below
                block = np.asarray(scores[first:last], np.float32)
            if not np.isfinite(block).all():
                row = first + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                raise InputError(
                    f"Row {row} of the scores holds a number beyond {_LARGEST:.4g}; a run holds "
                    "float32, as trec_eval does.",
                    rule="not-finite",
                )
            parts += [(rows, line[rows]) for line in block for rows in [_best(line, late, k)]]
        return cls._joined(query_ids, item_ids, parts)

    @classmethod
    def from_vectors(
        cls,
        query_ids: Sequence[str],
        queries: NDArray[Any],
        item_ids: Sequence[str],
        gallery: NDArray[Any],
        k: int,
        *,
        block_size: int | None = None,
    ) -> "Run":
        """Take the k items of highest inner product: of cosine, where vectors have length 1.

        A float32 product proposes, an exact one decides, so neither the blocking nor the number of
        threads changes a score. Memory is that of the gallery in float64 and float32, of
        `block_size` rows of scores and of the run; the table of scores is never there at once.

        Args:
            query_ids: One a row, each once, in any order.
            queries: (Q, dim), real numbers; may be a memory map.
            item_ids: One a row, each once, in any order.
            gallery: (G, dim).
            k: Items kept of each query.
            block_size: Queries scored at once; None for 64 MiB. Changes no result.

        Raises:
            InputError: Rules ``shape``, ``empty``, ``not-finite``, ``zero-vector``,
                ``dim-mismatch``, ``k``, ``id``, ``repeated-id``, ``block-size``.
        """
        check_vectors("queries", queries)
        check_vectors("gallery", gallery)
        check_dimensions(queries, gallery)
        _check_rows("query", query_ids, len(queries))
        _check_rows("item", item_ids, len(gallery))
        k = _checked_k(k, len(item_ids))
        late = _late_first(item_ids)
        grid, scale = grid_and_scale(gallery, axis=None)
        narrow = narrow_gallery(grid)
        parts = []
        for first, last in blocks(len(queries), len(gallery), block_size):
            block, own = grid_and_scale(queries[first:last], axis=1)
            near = narrow_queries(block) @ narrow.vectors.T  # (block, G)
            for i, line in enumerate(near):
                # What may be among the k best, once its error is taken off.
                kth = np.partition(line, len(line) - k)[len(line) - k]
                rows = np.flatnonzero(line >= kth - 2.0 * narrow.slack)
                exact = _products(grid, rows, block[i])
                with np.errstate(over="ignore"):
                    scores = np.ldexp(exact, int(own[i, 0] + scale[0, 0])).astype(np.float32)
                if not np.isfinite(scores).all():
                    raise InputError(
                        f"An inner product of query {first + i} is beyond {_LARGEST:.4g}, which is "
                        "as far as float32 goes; give vectors of length 1.",
                        rule="not-finite",
                    )
                kept = _best(scores, late[rows], k)
                parts.append((rows[kept], scores[kept]))
        return cls._joined(query_ids, item_ids, parts)

    @classmethod
    def _joined(
        cls,
        query_ids: Sequence[str],
        item_ids: Sequence[str],
        parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]],
    ) -> "Run":
        starts = np.cumsum([0, *(len(rows) for rows, _ in parts)], dtype=np.int64)
        rows = np.concatenate([rows for rows, _ in parts])
        return cls(query_ids, item_ids, starts, rows, np.concatenate([s for _, s in parts]))

    @classmethod
    def read(cls, path: str | Path) -> "Run":
        """Read a TREC run file: query id, unused, item id, rank, score, name of the run a line.

        The rank is not looked at, as trec_eval does not; the lines may stand in any order.

        Raises:
            InputError: The line is named; rules ``unreadable``, ``columns``, ``not-finite``,
                ``repeated-item``, ``empty``.
        """
        queries: dict[str, int] = {}
        items: dict[str, int] = {}
        parts = array("q"), array("q"), array("q")
        scores = array("f")
        for number, (query_id, _, item_id, _, score, _) in fields(path, "run", 6):
            parts[0].append(number)
            parts[1].append(queries.setdefault(query_id, len(queries)))
            parts[2].append(items.setdefault(item_id, len(items)))
            # Python reads 1_0 as a number, nobody else does.
            value = math.nan if "_" in score else score
            scores.append(_score(value, f"line {number} of the run"))
        if not queries:
            raise InputError("The run is empty; a measure over nothing is undefined.", rule="empty")
        lines, query, rows = (np.array(part, np.int64) for part in parts)
        twice = repeated(query * len(items) + rows)
        if twice:
            raise InputError(
                f"Line {lines[twice[1]]} of the run gives its query the item that line "
                f"{lines[twice[0]]} gives it too; rank each item once.",
                rule="repeated-item",
            )
        order = np.argsort(query, kind="stable")
        starts = np.searchsorted(query[order], np.arange(len(queries) + 1))
        return cls(
            list(queries), list(items), starts, rows[order], np.array(scores, np.float32)[order]
        )

    # -- ways out ------------------------------------------------------------

    def write(self, path: str | Path, name: str = "medfinder") -> Path:
        """Write a TREC run file, whole or not at all, and return its path.

        Scores are written so that reading gives the same float32 back. A query without items has no
        line.

        Raises:
            InputError: Rule ``id``: the name of the run has white space.
        """
        check_id(name, "the name of the run")
        path = Path(path)
        with atomic_write(path) as file:
            for query_id in self.queries:
                lines = [
                    f"{query_id} Q0 {item_id} {rank} {score!s} {name}\n"
                    for rank, (item_id, score) in enumerate(self._scored(query_id), 1)
                ]
                file.write("".join(lines).encode())
        return path

    def ranks(
        self,
        qrels: Qrels,
        *,
        ties: Literal["id", "expected"] = "id",
        missing: Literal["refuse", "unranked"] = "refuse",
    ) -> Ranks:
        """Return where each query's relevant items stand, queries in the order of the run.

        Items that the run lacks are found at no k. The rankings count as whole (see `Ranks`) if each
        query has every item that the run names and none that answers it is missing. Grades of 0 and items that the qrels do not name
        are not relevant.

        Args:
            qrels: Must name each query of the run, and an item that answers it.
            ties: "id" for the order of the run, in which nothing ties; "expected" for the
                expectation over every order of items of one score, of those that the run holds.
            missing: What to make of a query of the qrels that is not in the run: "refuse", or take
                its ranking as empty, as ir_measures does (trec_eval leaves it out of the mean); it
                then comes after those of the run.

        Raises:
            InputError: Rules ``no-relevance``, ``no-query``, ``no-positive``, ``option``.
        """
        if ties not in ("id", "expected"):
            raise InputError(f"ties must be id or expected, got {ties!r}.", rule="option")
        if missing not in ("refuse", "unranked"):
            raise InputError(f"missing must be refuse or unranked, got {missing!r}.", rule="option")
        asked = list(self.queries)
        if missing == "unranked":
            asked += [query_id for query_id in qrels if query_id not in self._numbers]
        relevance = qrels.positives(asked)
        n_found = np.concatenate([np.diff(self.starts), np.zeros(len(asked) - len(self), np.int64)])
        starts = np.concatenate([self.starts, np.full(len(asked) - len(self), self.starts[-1])])
        query = np.repeat(np.arange(len(asked)), n_found)
        place = np.arange(len(self.rows)) - starts[query]
        n_tied = np.zeros(len(place), np.int64)
        if ties == "expected":
            place, n_tied = _ties(query, place, self.scores + np.float32(0.0))
        # Both sides as one number for a query and an item.
        number = {item_id: i for i, item_id in enumerate(qrels.items)}
        known = np.array([number.get(item_id, -1) for item_id in self.items], np.int64)
        named = known[self.rows]
        mine = np.where(named >= 0, query * len(qrels.items) + named, -1)
        whose = np.repeat(np.arange(len(asked)), np.diff(relevance.starts))
        theirs = whose * len(qrels.items) + relevance.rows
        order = np.argsort(mine, kind="stable")
        at = np.minimum(np.searchsorted(mine[order], theirs), len(mine) - 1)
        at = order[at] if len(mine) else at
        found = mine[at] == theirs if len(mine) else np.zeros(len(theirs), np.bool_)
        longest = int(n_found.max())
        better = np.full(len(theirs), longest)
        tied = np.zeros(len(theirs), np.int64)
        better[found], tied[found] = place[at[found]], n_tied[at[found]]
        best = np.lexsort((-relevance.grades, better, whose))
        whole = bool((n_found == len(self.items)).all() and found.all())
        return Ranks(
            relevance.starts, better[best], tied[best], relevance.grades[best], longest, whole
        )

    def only(self, queries: Iterable[str]) -> "Run":
        """Return the run of some queries; what is left out is the caller's to tell.

        Raises:
            InputError: Rule ``empty``: nothing is left.
        """
        kept = set(queries)
        return Run.from_lists({q: dict(self[q]) for q in self.queries if q in kept})

    # -- as a mapping --------------------------------------------------------

    def __getitem__(self, query_id: str) -> list[tuple[str, float]]:
        """Return a query's items with their scores, best first."""
        return [(item_id, float(score)) for item_id, score in self._scored(query_id)]

    def _scored(self, query_id: str) -> list[tuple[str, np.float32]]:
        first, last = self.starts[self._numbers[query_id] :][:2]
        names = [self.items[row] for row in self.rows[first:last].tolist()]
        return list(zip(names, self.scores[first:last], strict=True))

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self.queries)

    def __len__(self) -> int:
        return len(self.queries)

    def __repr__(self) -> str:
        n_each = np.diff(self.starts)
        return f"<Run {len(self)} queries, {n_each.min()} to {n_each.max()} items each>"


def _late_first(ids: Sequence[str]) -> NDArray[np.int64]:
    """Return each id's place when the last in the order of code points comes first, (N,)."""
    order = sorted(range(len(ids)), key=ids.__getitem__, reverse=True)
    places = np.empty(len(ids), np.int64)
    places[order] = np.arange(len(ids))
    return places


def _best(line: NDArray[np.float32], late: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the k positions that come first by falling score, then by `late`, in that order."""
    kth = np.partition(line, len(line) - k)[len(line) - k]
    rows = np.flatnonzero(line >= kth)
    return rows[np.lexsort((late[rows], -line[rows]))[:k]]


def _products(
    grid: NDArray[np.float64], rows: NDArray[np.int64], query: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the exact inner products of some rows of the grid, a bounded number at once."""
    spans = blocks(len(rows), grid.shape[1], max(1, _WIDE // grid.shape[1]))
    return np.concatenate([grid[rows[first:last]] @ query for first, last in spans])


def _ties(
    query: NDArray[np.int64], place: NDArray[np.int64], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many items score above and beside each listed one, (P,) both."""
    begins = np.ones(len(scores), np.bool_)
    begins[1:] = (query[1:] != query[:-1]) | (scores[1:] != scores[:-1])
    group = np.cumsum(begins) - 1
    return place[begins][group], np.bincount(group)[group] - 1


def _check_rows(name: str, ids: Sequence[str], n_rows: int) -> None:
    if len(ids) != n_rows:
        raise InputError(
            f"{len(ids)} {name} ids for {n_rows} rows; every row needs one.", rule="shape"
        )
    check_ids(name, ids)


def _checked_k(k: int | None, n_items: int) -> int:
    if k is None:
        return n_items
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k must be a whole number of at least 1, got {k!r}.", rule="k")
    return min(int(k), n_items)


def _score(score: Any, where: str) -> float:
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:
        raise InputError(
            f"The score of {where} is no finite float32 number; a run cannot be put in order by it.",
            rule="not-finite",
        )
    return value
