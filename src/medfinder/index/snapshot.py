"""One version of the table, held still: its rows, their vectors, and filters already evaluated.

A reader takes a snapshot and finishes its query on it, whatever writers do meanwhile; the store
takes a new one when the table's version has changed. Vectors already read are handed on.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError
from medfinder.index.gallery import Gallery, make_gallery
from medfinder.index.kept import Kept
from medfinder.index.partitions import Partitions
from medfinder.index.schema import Stream
from medfinder.index.where import check_where, conjuncts, excluded, explain
from medfinder.records import Finding, Study

_BATCH = 65_536  # rows a batch; one large batch is ten times slower to fetch
_STUDIES = 2_000  # studies kept a snapshot, some ten kilobytes each
_FINDINGS = 50_000  # studies whose findings are kept, about two kilobytes each
_MASKS = 32  # filters remembered a snapshot, a byte a row each


class Snapshot:
    """The rows of one version, numbered in the order the table lists them.

    Args:
        table: A LanceDB table, checked out at the version.
        streams: Its vector columns.
        derived: Column → its centre and partitions.
        before: The snapshot this one replaces, whose vectors in memory are used again.
    """

    def __init__(
        self,
        table: Any,
        streams: Mapping[str, Stream],
        derived: Callable[[str], tuple[NDArray[np.float32], Partitions | None]],
        before: "Snapshot | None" = None,
    ) -> None:
        import pyarrow as pa

        self.table = table
        self.streams = streams
        self._keys_of: dict[str, NDArray[np.int64]] = {}
        self._derived = derived
        self._galleries: dict[str, Gallery] = {}
        self._held = {} if before is None else before.in_memory()
        self._masks: OrderedDict[str, NDArray[np.bool_]] = OrderedDict()
        self._lock = threading.RLock()
        columns = ["_rowid", "study_id", *(f"key_{name}" for name in streams)]
        listing = read(table, columns)
        order = np.argsort(listing["_rowid"].to_numpy(), kind="stable")
        if not np.array_equal(order, np.arange(len(order))):
            listing = listing.take(pa.array(order))
        self.studies: Kept[Study] = Kept(_STUDIES)
        self.findings: Kept[tuple[Finding, ...]] = Kept(_FINDINGS)
        self.row_ids: NDArray[np.uint64] = listing["_rowid"].to_numpy()
        self.study_ids: Any = listing["study_id"].combine_chunks()
        for name in streams:
            # 0 stands for "no vector"; a real key is 0 once in 2^64.
            keys = listing[f"key_{name}"].combine_chunks().fill_null(0)
            self._keys_of[name] = keys.to_numpy(zero_copy_only=False)
        self._fragments, self._bases, self._row_of = _address_book(self.row_ids)

    def __len__(self) -> int:
        return len(self.row_ids)

    def mask(self, where: str) -> NDArray[np.bool_]:
        """Return which rows the filter keeps, (rows,), remembering the latest filters.

        Raises:
            InputError: The filter cannot be used.
        """
        parts = conjuncts(check_where(where))
        kept = self._mask(parts[0])
        for part in parts[1:]:
            kept = kept & self._mask(part)
        return kept

    def _mask(self, where: str) -> NDArray[np.bool_]:
        """Return the mask of one condition; filters share theirs ("the same sex, another age")."""
        opposite = excluded(where)
        if opposite is not None:  # few rows found and turned around, not all but few
            return ~self._mask(opposite)
        with self._lock:
            if where in self._masks:
                self._masks.move_to_end(where)
                return self._masks[where]
        kept = np.zeros(len(self), np.bool_)
        try:
            found = read(self.table, ["_rowid"], where)["_rowid"].to_numpy()
        except (ValueError, RuntimeError, OSError) as error:
            raise explain(error) from None
        kept[self.rows_of(found)] = True
        with self._lock:
            self._masks[where] = kept
            while len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        return kept

    def rows_of(self, row_ids: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Return the row number of each LanceDB row id of this version."""
        if len(self._fragments) == 1:  # a compacted table of up to about a million rows
            whole: NDArray[np.int32] = self._row_of[row_ids - (self._fragments[0] << np.uint64(32))]
            return whole
        fragment = np.searchsorted(self._fragments, row_ids >> np.uint64(32))
        offset = (row_ids & np.uint64(0xFFFFFFFF)).astype(np.int64)
        rows: NDArray[np.int32] = self._row_of[self._bases[fragment] + offset]
        return rows

    def has(self, column: str) -> NDArray[np.bool_]:
        """Return which rows have a vector in the column."""
        has_vector: NDArray[np.bool_] = self._keys_of[column] != 0
        return has_vector

    def duplicates(self) -> NDArray[np.uint64]:
        """Return the row ids of all but the newest row of each study_id that occurs twice."""
        if len(self.study_ids.unique()) == len(self):
            return np.empty(0, np.uint64)
        ids: list[str] = self.study_ids.to_pylist()
        seen: set[str] = set()
        older = []
        for row in range(len(ids) - 1, -1, -1):  # later rows have larger row ids
            if ids[row] in seen:
                older.append(self.row_ids[row])
            seen.add(ids[row])
        return np.array(older, np.uint64)

    def names(self, rows: NDArray[Any]) -> list[str]:
        """Return the study_ids of these rows."""
        import pyarrow as pa

        found: list[str] = self.study_ids.take(pa.array(rows)).to_pylist()
        return found

    def in_order(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the rows sorted by study_id."""
        import pyarrow as pa
        import pyarrow.compute as pc

        order = pc.sort_indices(self.study_ids.take(pa.array(rows))).to_numpy()
        ordered: NDArray[np.int32] = rows[order]
        return ordered

    def keys(self, column: str) -> NDArray[np.int64]:
        """Return each row's key of the column's vector, (rows,); 0 where it has none."""
        return self._keys_of[column]

    def match(
        self, column: str, keys: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the row of each key, -1 where it is gone, and which rows are among the keys."""
        place, known = _match(keys, self._keys_of[column])
        rows = np.full(len(keys), -1, np.int32)
        rows[place[known]] = np.flatnonzero(known)
        return rows, known

    def in_memory(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Return column → keys and vectors that are in memory, for the snapshot that follows."""
        with self._lock:
            loaded = {
                column: (self._keys_of[column][gallery.rows], gallery.vectors)
                for column, gallery in self._galleries.items()
            }
            return {**self._held, **loaded}

    def gallery(self, column: str) -> Gallery:
        """Return the column, ready to search; the first call reads it."""
        with self._lock:
            if column not in self._galleries:
                self._galleries[column] = self._load_gallery(column)
                self._held.pop(column, None)
            return self._galleries[column]

    def _load_gallery(self, column: str) -> Gallery:
        """Read the column's vectors that neither the partitions nor the snapshot before hold."""
        centre, partitions = self._derived(column)
        keys, has_vector = self._keys_of[column], self.has(column)
        partition_rows = None
        if partitions is not None:
            partition_rows, in_partitions = self.match(column, partitions.keys)
            has_vector &= ~in_partitions
        rows = np.flatnonzero(has_vector).astype(np.int32)
        vectors = np.empty((len(rows), self.streams[column].dim), np.float32)
        missing = np.arange(len(rows))
        if column in self._held:
            old_keys, old_vectors = self._held[column]
            place, known = _match(old_keys, keys[rows])
            vectors[known] = old_vectors[place[known]]
            missing = np.flatnonzero(~known)
        if len(missing):
            vectors[missing] = self.vectors(column, rows[missing])
        return make_gallery(centre, rows, vectors, partitions, partition_rows, len(self))

    def vectors(
        self, column: str, rows: NDArray[np.int32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the unit vectors of these rows, (n, dim), each of which has one.

        Args:
            out: Where to write them; None for a new array.
        """
        if out is None:
            out = np.empty((len(rows), self.streams[column].dim), np.float32)
        place = np.full(len(self), -1, np.int64)
        place[rows] = np.arange(len(rows))
        if 4 * len(rows) > len(self):
            query = self.table.search().where(f"key_{column} IS NOT NULL")
            batches = query.select(["_rowid", column]).limit(len(self)).to_batches(8192)
            for batch in batches:
                self._place(batch, column, place, out)
            return out
        for start in range(0, len(rows), 4096):
            ids = self.row_ids[rows[start : start + 4096]].tolist()
            query = self.table.take_row_ids(ids).select([column]).with_row_id()
            for batch in query.to_arrow().to_batches():
                self._place(batch, column, place, out)
        return out

    def _place(
        self,
        batch: Any,
        column: str,
        place: NDArray[np.int64],
        out: NDArray[np.float32],
    ) -> None:
        values, dim = batch.column(column), out.shape[1]
        # `values.values` is the whole buffer, nulls included: cut this batch's share from it.
        flat = values.values.to_numpy(zero_copy_only=False)
        block = flat.reshape(-1, dim)[values.offset : values.offset + len(values)]
        into = place[self.rows_of(batch.column("_rowid").to_numpy())]
        out[into[into >= 0]] = block[into >= 0]


def read(table: Any, columns: Sequence[str], where: str | None = None) -> Any:
    """Return the columns of all rows that pass the filter, as a ``pyarrow.Table``."""
    import pyarrow as pa

    query = table.search().select(list(columns)).limit(max(1, table.count_rows()))
    if where is not None:
        query = query.where(where)
    reader = query.to_batches(_BATCH)
    return pa.Table.from_batches(list(reader), schema=reader.schema)


def evaluate(where: str, count: Any) -> Any:
    """Return ``count(where)`` on the checked filter, errors explained.

    Raises:
        InputError: The filter cannot be used.
    """
    text = check_where(where)
    try:
        return count(text)
    except InputError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise explain(error) from None


def _address_book(
    row_ids: NDArray[np.uint64],
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]:
    """Return fragments, where each one's rows begin in a dense table, and that table of rows.

    A LanceDB row id is fragment << 32 | offset; deleted offsets leave holes, filled with -1.
    """
    fragment = row_ids >> np.uint64(32)
    offset = (row_ids & np.uint64(0xFFFFFFFF)).astype(np.int64)
    fragments, first = np.unique(fragment, return_index=True)
    last = np.append(first[1:], len(row_ids)) - 1
    sizes = offset[last] + 1 if len(first) else np.empty(0, np.int64)
    bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    row_of = np.full(int(bases[-1]), -1, np.int32)
    row_of[bases[:-1].repeat(last - first + 1) + offset] = np.arange(len(row_ids), dtype=np.int32)
    return fragments, bases[:-1], row_of


def _match(
    held: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for each wanted key its position in `held`, and whether it is there."""
    if not len(held):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    order = np.argsort(held, kind="stable")
    at = np.minimum(np.searchsorted(held[order], wanted), len(held) - 1)
    place = order[at]
    return place, held[place] == wanted
