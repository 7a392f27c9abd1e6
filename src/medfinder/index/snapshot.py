"""One version of the table, held still: its rows, their vectors, and filters already evaluated.

A reader takes a snapshot and finishes its query on it, whatever writers do meanwhile; the store
takes a new one when the table's version has changed. Vectors already read are handed on.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError
from medfinder.index.engine import is_fault
from medfinder.index.gallery import Gallery, make_gallery
from medfinder.index.kept import Kept
from medfinder.index.listing import followed, listing_of, match, read
from medfinder.index.partitions import Partitions
from medfinder.index.schema import Stream
from medfinder.index.where import check_where, conjuncts, excluded, explain
from medfinder.records import Finding, Study

_STUDIES = 2_000  # studies kept a snapshot, some ten kilobytes each
_FINDINGS = 50_000  # studies whose findings are kept, about two kilobytes each
_MASKS = 32  # filters remembered a snapshot, a byte a row each

Derived = tuple[NDArray[np.float32], Partitions | None]
"""A column's centre and partitions."""


class _Earlier(NamedTuple):
    """A column as an earlier version had it.

    Attributes:
        gallery: All its vectors.
        derived: Centre and partitions that it was made with.
        gone: Numbers of rows that have gone since, in no order.
        n_rows: Numbers that rows had then: those from it on came later.
    """

    gallery: Gallery
    derived: Derived
    gone: NDArray[np.int32]
    n_rows: int


class Snapshot:
    """The rows of one version, numbered in the order the table lists them; see `Listing`.

    Args:
        table: A LanceDB table, checked out at the version.
        streams: Its vector columns.
        derived: Column → its centre and partitions.
        before: The snapshot this one replaces: what it read is used again as far as it stayed.
    """

    def __init__(
        self,
        table: Any,
        streams: Mapping[str, Stream],
        derived: Callable[[str], Derived],
        before: "Snapshot | None" = None,
    ) -> None:
        self.table = table
        self.streams = streams
        self._derived = derived
        self._galleries: dict[str, Gallery] = {}
        self._derived_of: dict[str, Derived] = {}
        self._earlier: dict[str, _Earlier] = {}
        self._masks: OrderedDict[str, NDArray[np.bool_]] = OrderedDict()
        self._lock = threading.RLock()
        self.studies: Kept[Study] = Kept(_STUDIES)
        self.findings: Kept[tuple[Finding, ...]] = Kept(_FINDINGS)
        if before is None:
            self._rows = listing_of(table, list(streams))
            return
        self._rows, went = followed(before._rows, table, list(streams))
        if went is None:
            return
        names = before.names(went)
        self.studies = before.studies.without(names)
        self.findings = before.findings.without(names)
        self._earlier = before._handed_on(went)

    def __len__(self) -> int:
        """How many studies there are."""
        return len(self._rows)

    def rows(self) -> NDArray[np.int32]:
        """Return the numbers of the rows that are there."""
        return self._rows.rows()

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
            others = ~self._mask(opposite)
            others[self._rows.gone] = False
            return others
        with self._lock:
            if where in self._masks:
                self._masks.move_to_end(where)
                return self._masks[where]
        kept = np.zeros(self._rows.n_rows, np.bool_)
        try:
            found = read(self.table, ["_rowid"], where)["_rowid"].to_numpy()
        except (ValueError, RuntimeError, OSError) as error:
            if is_fault(error):
                raise
            raise explain(error) from None
        kept[self._rows.rows_of(found)] = True
        with self._lock:
            self._masks[where] = kept
            while len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        return kept

    def has(self, column: str) -> NDArray[np.bool_]:
        """Return which rows have a vector in the column."""
        has_vector: NDArray[np.bool_] = self.keys(column) != 0
        return has_vector

    def duplicates(self) -> NDArray[np.uint64]:
        """Return the row ids of all but the newest row of each study_id that occurs twice."""
        import pyarrow as pa

        rows = self.rows()
        there = self._rows.study_ids.take(pa.array(rows))
        if len(there.unique()) == len(rows):
            return np.empty(0, np.uint64)
        seen: set[str] = set()
        older = []
        # Later rows have larger row ids.
        for row, study_id in zip(rows[::-1], reversed(there.to_pylist()), strict=True):
            if study_id in seen:
                older.append(self._rows.row_ids[row])
            seen.add(study_id)
        return np.array(older, np.uint64)

    def names(self, rows: NDArray[Any]) -> list[str]:
        """Return the study_ids of these rows."""
        return self._rows.names(rows)

    def in_order(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the rows sorted by study_id."""
        import pyarrow as pa
        import pyarrow.compute as pc

        order = pc.sort_indices(self._rows.study_ids.take(pa.array(rows))).to_numpy()
        ordered: NDArray[np.int32] = rows[order]
        return ordered

    def keys(self, column: str) -> NDArray[np.int64]:
        """Return each row's key of the column's vector, (rows,); 0 where it has none."""
        return self._rows.keys[column]

    def match(
        self, column: str, keys: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the row of each key, -1 where it is gone, and which rows are among the keys."""
        place, known = match(keys, self.keys(column))
        rows = np.full(len(keys), -1, np.int32)
        rows[place[known]] = np.flatnonzero(known)
        return rows, known

    def _handed_on(self, went: NDArray[np.int32]) -> dict[str, _Earlier]:
        """Return column → the latest gallery that was read.

        Args:
            went: Numbers of the rows of this version that are gone in the later one.
        """
        with self._lock:
            handed = {
                column: earlier._replace(gone=np.concatenate([earlier.gone, went]))
                for column, earlier in self._earlier.items()
            }
            for column, gallery in self._galleries.items():
                derived = self._derived_of[column]
                handed[column] = _Earlier(gallery, derived, went, self._rows.n_rows)
            return handed

    def gallery(self, column: str) -> Gallery:
        """Return the column, ready to search; the first call reads it."""
        with self._lock:
            if column not in self._galleries:
                derived = self._derived(column)
                self._galleries[column] = self._load_gallery(column, derived)
                self._derived_of[column] = derived
                self._earlier.pop(column, None)
            return self._galleries[column]

    def _load_gallery(self, column: str, derived: Derived) -> Gallery:
        """Read the column's vectors that neither the partitions nor an earlier snapshot hold."""
        earlier = None
        if column in self._earlier:
            known = self._earlier[column]
            earlier = known.gallery.without(known.gone, self._rows.n_rows)
            if known.derived is derived:
                came = np.flatnonzero(self.keys(column)[known.n_rows :]) + known.n_rows
                rows = came.astype(np.int32)
                return earlier.joined(rows, self.vectors(column, rows))
        missing = self.has(column)
        centre, partitions = derived
        partition_rows = None
        if partitions is not None:
            partition_rows, in_partitions = self.match(column, partitions.keys)
            missing &= ~in_partitions
        rows = np.flatnonzero(missing).astype(np.int32)
        vectors = np.empty((len(rows), self.streams[column].dim), np.float32)
        unread = np.ones(len(rows), np.bool_)
        if earlier is not None and len(earlier.rows):
            held = np.full(self._rows.n_rows, -1, np.int64)
            held[earlier.rows] = np.arange(len(earlier.rows))
            is_held = held[rows] >= 0
            vectors[is_held] = earlier.vectors[held[rows[is_held]]]
            unread = ~is_held
        if unread.any():
            vectors[unread] = self.vectors(column, rows[unread])
        return make_gallery(centre, rows, vectors, partitions, partition_rows, self._rows.n_rows)

    def vectors(
        self, column: str, rows: NDArray[np.int32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the unit vectors of these rows, (n, dim), each of which has one.

        Args:
            out: Where to write them; None for a new array.
        """
        if out is None:
            out = np.empty((len(rows), self.streams[column].dim), np.float32)
        place = np.full(self._rows.n_rows, -1, np.int64)
        place[rows] = np.arange(len(rows))
        if 4 * len(rows) > len(self):
            query = self.table.search().where(f"key_{column} IS NOT NULL")
            batches = query.select(["_rowid", column]).limit(len(self)).to_batches(8192)
            for batch in batches:
                self._place(batch, column, place, out)
            return out
        for start in range(0, len(rows), 4096):
            ids = self._rows.row_ids[rows[start : start + 4096]].tolist()
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
        into = place[self._rows.rows_of(batch.column("_rowid").to_numpy())]
        out[into[into >= 0]] = block[into >= 0]


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
        if is_fault(error):
            raise
        raise explain(error) from None
