"""One vector column of one version of the table, ready to search: what is in memory, what is mapped.

Rows that the partitions hold are searched there; all others (every row of a small index, and what
was added since `finish`) lie in memory and are searched exactly. Rows are known by their number in
the version's listing; which study that is, the store knows.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.index.exact import contenders, direction, inverse_lengths, rescore
from medfinder.index.partitions import Partitions

_CHUNK = 16_384


@dataclasses.dataclass(frozen=True, slots=True)
class Gallery:
    """The searchable vectors of a column.

    Attributes:
        centre: (dim,) mean of the unit vectors when the index was finished; zero for few vectors.
        rows: (M,) row number of each vector in memory.
        vectors: (M, dim) unit float32, in memory.
        inverse: (M,) 1 / |x - centre| of each.
        partitions: The mapped part; None where the column is small.
        partition_rows: (N,) row number of each place in it, negative where the row is gone.
        place_of: (rows,) place of each row in it, negative for a row that has none.
        partition_inverse: (N,) 1 / |x - centre| of each place.
    """

    centre: NDArray[np.float32]
    rows: NDArray[np.int32]
    vectors: NDArray[np.float32]
    inverse: NDArray[np.float32]
    partitions: Partitions | None = None
    partition_rows: NDArray[np.int32] | None = None
    place_of: NDArray[np.int32] | None = None
    partition_inverse: NDArray[np.float32] | None = None

    def search(
        self, query: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return rows and centred cosines that hold the k best and all that tie, in no order.

        Args:
            query: (dim,), any length but zero.
            k: At least 1.
            mask: By row number, False leaves a row out; None allows all.
        """
        towards = direction(query, self.centre)
        shift = np.float32(self.centre @ towards)
        rows, scores = self._in_memory(towards, shift, k, mask)
        if self.partitions is None:
            return rows, scores
        assert self.partition_rows is not None
        assert self.partition_inverse is not None
        assert self.place_of is not None
        places, sums = self.partitions.products(
            towards, self.partition_rows, self.place_of, mask, at_least=8 * k
        )
        fast = (sums - shift) * self.partition_inverse[places]
        wanted = max(4 * k, k + 64)  # room for what 8 bits put in the wrong order
        if wanted < len(places):
            places = places[np.argpartition(-fast, wanted)[:wanted]]
        more = rescore(self.partitions.vectors[places], towards, self.centre)
        return (
            np.concatenate([rows, self.partition_rows[places]]),
            np.concatenate([scores, more]),
        )

    def without(self, gone: NDArray[np.int32], n_rows: int) -> "Gallery":
        """Return the same vectors for a later version, whose rows have `n_rows` numbers.

        Args:
            gone: Numbers of rows that are not there any more; their vectors are left out.
        """
        parts: dict[str, Any] = {}
        if self.partition_rows is not None:
            assert self.place_of is not None
            more = np.full(n_rows - len(self.place_of), -1, np.int32)
            place_of, rows = np.concatenate([self.place_of, more]), self.partition_rows
            if len(gone):
                places, rows = place_of[gone], rows.copy()
                rows[places[places >= 0]] = -1
                place_of[gone] = -1
            parts = {"partition_rows": rows, "place_of": place_of}
        there = ~np.isin(self.rows, gone)
        if there.all():
            return dataclasses.replace(self, **parts)
        return dataclasses.replace(
            self,
            rows=self.rows[there],
            vectors=self.vectors[there],
            inverse=self.inverse[there],
            **parts,
        )

    def joined(self, rows: NDArray[np.int32], vectors: NDArray[np.float32]) -> "Gallery":
        """Return these vectors and, in memory, those of more rows, (n, dim) of length 1."""
        if not len(rows):
            return self
        return dataclasses.replace(
            self,
            rows=np.concatenate([self.rows, rows]),
            vectors=np.concatenate([self.vectors, vectors]),
            inverse=np.concatenate([self.inverse, inverse_lengths(vectors, self.centre)]),
        )

    def _in_memory(
        self,
        towards: NDArray[np.float64],
        shift: np.float32,
        k: int,
        mask: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        fast32 = towards.astype(np.float32)
        if not len(self.rows):
            return self.rows, np.empty(0, np.float64)
        if mask is None:
            some = np.arange(len(self.rows))
            sums = self.vectors @ fast32
        else:
            some = np.flatnonzero(mask[self.rows])
            few = 4 * len(some) < len(self.rows)  # else copying costs more than multiplying
            sums = self.vectors[some] @ fast32 if few else (self.vectors @ fast32)[some]
        fast = (sums - shift) * self.inverse[some]
        near = some[contenders(fast, k)]
        return self.rows[near], rescore(self.vectors[near], towards, self.centre)


def make_gallery(
    centre: NDArray[np.float32],
    rows: NDArray[np.int32],
    vectors: NDArray[np.float32],
    partitions: Partitions | None = None,
    partition_rows: NDArray[np.int32] | None = None,
    n_rows: int = 0,
) -> Gallery:
    """Return the gallery, with the lengths that centring needs, of a table of `n_rows`."""
    return Gallery(
        centre=centre,
        rows=rows,
        vectors=vectors,
        inverse=inverse_lengths(vectors, centre),
        partitions=partitions,
        partition_rows=partition_rows,
        place_of=None if partition_rows is None else _places(partition_rows, n_rows),
        partition_inverse=None if partitions is None else partitions.inverse(centre),
    )


def _places(partition_rows: NDArray[np.int32], n_rows: int) -> NDArray[np.int32]:
    """Return (n_rows,) the place of each row among the partitions' rows, -1 where it has none."""
    place_of = np.full(n_rows + 1, -1, np.int32)
    place_of[partition_rows] = np.arange(len(partition_rows), dtype=np.int32)  # -1: the last
    return place_of[:-1]


def mean_of(
    blocks: Iterable[NDArray[np.float32]],
    dim: int,
    at_least: int,
    keep: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Return the mean row, (dim,), or zero for fewer than `at_least` rows.

    Rounded to seven decimals, so that the order in which rows were added does not show.

    Args:
        keep: Rows of the first block that count; None for all.
    """
    n, total = 0, np.zeros(dim, np.float64)
    for number, block in enumerate(blocks):
        for start in range(0, len(block), _CHUNK):
            rows = block[start : start + _CHUNK]
            if number == 0 and keep is not None:
                rows = rows[keep[start : start + _CHUNK]]
            n += len(rows)
            total += rows.sum(axis=0, dtype=np.float64)
    if n < at_least:
        return np.zeros(dim, np.float32)
    return np.round(total / n, 7).astype(np.float32)
