"""The rows of one version of the table: which study each is, which vectors it has, where it lies.

Rows are numbered in the order of LanceDB's row ids. A row id is fragment << 32 | offset and its
row never changes: what is replaced gets a new one, at the end, and only compaction moves rows. So a
later version is read by what came and what went, not as a whole; and a row that went keeps its
number, so that all that is kept by row number stays as it is.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BATCH = 65_536  # rows a batch; one large batch is ten times slower to fetch
_SOUGHT = 10_000  # rows gone that are looked for one by one
_SAMPLED = 64  # rows compared before a later version is read by its changes
_FRAGMENT = np.uint64(32)
_OFFSET = np.uint64(0xFFFFFFFF)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The rows of a version, and rows of earlier ones that are gone.

    Attributes:
        row_ids: (rows,) LanceDB's, ascending.
        study_ids: ``pyarrow.StringArray`` of them.
        keys: Column → (rows,) key of the vector; 0 where there is none, or the row is gone.
        gone: (G,) numbers of the rows that are gone, ascending.
        fragments: (F,) numbers of the fragments that hold rows, ascending.
        bases: (F,) where each fragment's offsets begin in `row_of`.
        row_of: Row of each offset of each fragment, -1 where it is gone.
    """

    row_ids: NDArray[np.uint64]
    study_ids: Any
    keys: dict[str, NDArray[np.int64]]
    gone: NDArray[np.int32]
    fragments: NDArray[np.uint64]
    bases: NDArray[np.int64]
    row_of: NDArray[np.int32]

    def __len__(self) -> int:
        """How many rows are there."""
        return self.n_rows - len(self.gone)

    @property
    def n_rows(self) -> int:
        """How many numbers rows have, those that are gone included."""
        return len(self.row_ids)

    def rows(self) -> NDArray[np.int32]:
        """Return the numbers of the rows that are there, ascending."""
        rows: NDArray[np.int32] = np.delete(np.arange(self.n_rows, dtype=np.int32), self.gone)
        return rows

    def rows_of(self, row_ids: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Return the row number of each LanceDB row id of this version."""
        rows: NDArray[np.int32] = self.row_of[self._addresses(row_ids)]
        return rows

    def _addresses(self, row_ids: NDArray[np.uint64]) -> NDArray[Any]:
        """Return where each row id stands in `row_of`."""
        if len(self.fragments) == 1:  # a compacted table of up to about a million rows
            inside: NDArray[np.uint64] = row_ids - (self.fragments[0] << _FRAGMENT)
            return inside
        fragment = np.searchsorted(self.fragments, row_ids >> _FRAGMENT)
        dense: NDArray[np.int64] = self.bases[fragment] + (row_ids & _OFFSET).astype(np.int64)
        return dense

    def after(self, gone: NDArray[np.int32], came: "Listing") -> "Listing":
        """Return a later version: without more rows that are gone, ascending, and with those that came."""
        import pyarrow as pa

        row_of = np.concatenate(
            [self.row_of, np.where(came.row_of >= 0, came.row_of + self.n_rows, -1)]
        ).astype(np.int32, copy=False)
        row_of[self._addresses(self.row_ids[gone])] = -1
        keys = {name: np.concatenate([own, came.keys[name]]) for name, own in self.keys.items()}
        for column in keys.values():
            column[gone] = 0
        return Listing(
            np.concatenate([self.row_ids, came.row_ids]),
            pa.concat_arrays([self.study_ids, came.study_ids]),
            keys,
            np.union1d(self.gone, gone).astype(np.int32),
            np.concatenate([self.fragments, came.fragments]),
            np.concatenate([self.bases, came.bases + len(self.row_of)]),
            row_of,
        )

    def names(self, rows: NDArray[Any]) -> list[str]:
        """Return the study_ids of these rows."""
        import pyarrow as pa

        found: list[str] = self.study_ids.take(pa.array(rows)).to_pylist()
        return found


def read(table: Any, columns: Sequence[str], where: str | None = None) -> Any:
    """Return the columns of all rows that pass the filter, as a ``pyarrow.Table``."""
    import pyarrow as pa

    query = table.search().select(list(columns)).limit(max(1, table.count_rows()))
    if where is not None:
        query = query.where(where)
    reader = query.to_batches(_BATCH)
    return pa.Table.from_batches(list(reader), schema=reader.schema)


def listing_of(table: Any, streams: Sequence[str]) -> Listing:
    """Return the rows of the version that `table` is checked out at."""
    return _listing(_rows(table, streams), streams)


def followed(
    earlier: Listing, table: Any, streams: Sequence[str]
) -> tuple[Listing, NDArray[np.int32] | None]:
    """Return the rows of a later version of the table, and which of the earlier ones are gone.

    Costs as much as has changed where studies were only added; where some went, it reads the row
    ids besides; where rows have moved (compaction, another table in its place) or more are gone than
    there, everything.

    Returns:
        The listing, in which the earlier rows keep their numbers, and the numbers of those that went
        since, ascending; None where nothing is known of the earlier rows.
    """
    if not len(earlier):
        return listing_of(table, streams), None
    last = int(earlier.row_ids[-1])
    n, came = table.count_rows(), _rows(table, streams, f"_rowid > {last}")
    n_kept = n - came.num_rows
    went: NDArray[np.int32] | None = np.empty(0, np.int32)
    if n_kept == 0:  # compacted: all of it came
        return _listing(came, streams), None
    if 2 * n_kept < earlier.n_rows:
        return listing_of(table, streams), None
    if n_kept != len(earlier):
        ids = read(table, ["_rowid"], f"_rowid <= {last}")["_rowid"].to_numpy()
        went = _lacking(earlier, ids)
    if went is None or not _are_the_same(earlier, went, table):
        return listing_of(table, streams), None
    return earlier.after(went, _listing(came, streams)), went


def _lacking(earlier: Listing, ids: NDArray[np.uint64]) -> NDArray[np.int32] | None:
    """Return the rows that are not among these row ids; None where one of these is no row."""
    if not (ids[1:] > ids[:-1]).all():
        ids = np.sort(ids)
    held = np.delete(earlier.row_ids, earlier.gone) if len(earlier.gone) else earlier.row_ids
    n = len(held) - len(ids)
    if n < 0:
        return None
    if n > _SOUGHT:
        at = np.flatnonzero(~np.isin(held, ids, assume_unique=True))
    else:
        found: list[int] = []
        for _ in range(n):  # up to the next row that is gone, both are alike but for those before
            low, high = (found[-1] + 1 if found else 0), len(ids) + len(found)
            while low < high:
                middle = (low + high) // 2
                if held[middle] == ids[middle - len(found)]:
                    low = middle + 1
                else:
                    high = middle
            found.append(low)
        at = np.array(found, np.int64)
    if len(at) != n or not np.array_equal(np.delete(held, at), ids):
        return None
    return np.searchsorted(earlier.row_ids, held[at]).astype(np.int32)


def _rows(table: Any, streams: Sequence[str], where: str | None = None) -> Any:
    return read(table, ["_rowid", "study_id", *(f"key_{name}" for name in streams)], where)


def _listing(rows: Any, streams: Sequence[str]) -> Listing:
    import pyarrow as pa

    row_ids = rows["_rowid"].to_numpy()
    if not (row_ids[1:] > row_ids[:-1]).all():
        order = np.argsort(row_ids, kind="stable")
        rows, row_ids = rows.take(pa.array(order)), row_ids[order]
    # 0 stands for "no vector"; a real key is 0 once in 2^64.
    keys = {
        name: rows[f"key_{name}"].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
        for name in streams
    }
    nobody = np.empty(0, np.int32)
    study_ids = rows["study_id"].combine_chunks()
    return Listing(row_ids, study_ids, keys, nobody, *_address_book(row_ids))


def _address_book(
    row_ids: NDArray[np.uint64],
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]:
    """Return fragments, where each one's offsets begin in a dense table, and that table of rows."""
    fragment = row_ids >> _FRAGMENT
    offset = (row_ids & _OFFSET).astype(np.int64)
    first = np.flatnonzero(np.r_[True, fragment[1:] != fragment[:-1]][: len(row_ids)])
    last = np.append(first[1:], len(row_ids)) - 1
    sizes = offset[last] + 1 if len(first) else np.empty(0, np.int64)
    bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    row_of = np.full(int(bases[-1]), -1, np.int32)
    row_of[bases[:-1].repeat(last - first + 1) + offset] = np.arange(len(row_ids), dtype=np.int32)
    return fragment[first], bases[:-1], row_of


def _are_the_same(earlier: Listing, went: NDArray[np.int32], table: Any) -> bool:
    """Tell a later version of the same table from another table in its place, by some rows."""
    some = np.unique(np.linspace(0, earlier.n_rows - 1, _SAMPLED).astype(np.int32))
    rows = np.setdiff1d(some, np.union1d(earlier.gone, went))
    if not len(rows):
        return True
    columns = ["study_id", *(f"key_{name}" for name in earlier.keys)]
    query = table.take_row_ids(earlier.row_ids[rows].tolist()).select(columns).with_row_id()
    found = query.to_arrow().sort_by("_rowid")
    if found["study_id"].to_pylist() != earlier.names(rows):
        return False
    return all(
        np.array_equal(found[f"key_{name}"].fill_null(0).to_numpy(), keys[rows])
        for name, keys in earlier.keys.items()
    )


def match(
    held: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for each wanted key its position in `held`, and whether it is there."""
    if not len(held):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    # Both sorted: looking up in order is ten times faster than looking up at random.
    order, asked = np.argsort(held, kind="stable"), np.argsort(wanted)
    at = np.empty(len(wanted), np.int64)
    at[asked] = np.searchsorted(held[order], wanted[asked])
    place = order[np.minimum(at, len(held) - 1)]
    return place, held[place] == wanted
