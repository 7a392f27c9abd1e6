"""An index as an account may see it: only studies of its sources, for every question asked of it.

This is the one place where confinement is enforced: a `Finder` over a `ConfinedIndex` searches,
counts, explains and shows nothing else, whatever asks it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import UnknownName
from medfinder.index.interface import AnyIndex, Stored
from medfinder.index.query import Ranking
from medfinder.index.store import Index
from medfinder.index.where import conjuncts, excluded, literal
from medfinder.records import Finding, Rejection, Study
from medfinder.search.finder import Finder

PLAIN = frozenset({"place", "streams", "config"})
"""Attributes of an index that tell nothing of its studies."""


def confined(finder: Finder, sources: Sequence[str]) -> Finder:
    """Return a finder that knows only studies of these sources; it shares what is loaded."""
    return finder.seen_through(ConfinedIndex(finder.index, sources))


class ConfinedIndex(Index):
    """An index, narrowed to sources.

    It has none of an index's own state: a method that is not narrowed here finds nothing to read,
    and fails.
    """

    def __init__(self, index: AnyIndex, sources: Sequence[str]) -> None:
        self._whole = index
        self._mine = (
            f"source IN ({', '.join(literal(source) for source in sources)})"
            if sources
            else "false"
        )

    def __getattr__(self, name: str) -> Any:
        # Reached only for what is not narrowed below and is no method of Index.
        if name in PLAIN:
            return getattr(self._whole, name)
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<ConfinedIndex {self.count():,} studies>"

    # -- what tells nothing of studies ---------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """As `Index.is_finished`."""
        return self._whole.is_finished

    def check_model(self, stream: str, model_id: str) -> None:
        """As `Index.check_model`."""
        self._whole.check_model(stream, model_id)

    def centre(self, column: str) -> NDArray[np.float32]:
        """As `Index.centre`: the mean of thousands, by which scores are shifted."""
        return self._whole.centre(column)

    # -- what is narrowed ----------------------------------------------------------------------

    def count(self, where: str | None = None) -> int:
        """As `Index.count`."""
        return self._whole.count(self._both(where))

    def ids(self, where: str | None = None) -> list[str]:
        """As `Index.ids`."""
        return self._whole.ids(self._both(where))

    def facets(self, column: str, where: str | None = None) -> dict[Any, int]:
        """As `Index.facets`."""
        return self._whole.facets(column, self._both(where))

    def studies(self, ids: Sequence[str]) -> list[Study]:
        """As `Index.studies`."""
        self._check(ids)
        return self._whole.studies(ids)

    def findings(self, ids: Sequence[str]) -> dict[str, tuple[Finding, ...]]:
        """As `Index.findings`."""
        self._check(ids)
        return self._whole.findings(ids)

    def vectors(self, column: str, ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """As `Index.vectors`."""
        self._check(ids)
        return self._whole.vectors(column, ids)

    def study_hashes(self) -> dict[str, Stored]:
        """As `Index.study_hashes`."""
        mine = set(self.ids())
        return {i: stored for i, stored in self._whole.study_hashes().items() if i in mine}

    def search_vector(
        self,
        column: str,
        vector: NDArray[np.float32],
        k: int = 10,
        where: str | None = None,
        model_id: str | None = None,
    ) -> Ranking:
        """As `Index.search_vector`."""
        return self._whole.search_vector(column, vector, k, self._both(where), model_id)

    def search_text(self, query: str, k: int = 10, where: str | None = None) -> Ranking:
        """As `Index.search_text`."""
        return self._whole.search_text(query, k, self._both(where))

    def search_findings(
        self,
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        k: int = 10,
        where: str | None = None,
        match_all: bool = False,
    ) -> Ranking:
        """As `Index.search_findings`."""
        return self._whole.search_findings(present, absent, k, self._both(where), match_all)

    # -- what nobody confined does -------------------------------------------------------------

    def add(self, studies: Sequence[Study], vectors: Mapping[str, Any] | None = None) -> NoReturn:
        """Refuse: a view is not written to."""
        raise PermissionError("A confined view of an index is not written to.")

    def delete(self, ids: Sequence[str]) -> NoReturn:
        """Refuse: a view is not written to."""
        raise PermissionError("A confined view of an index is not written to.")

    def compact(self, kept: timedelta) -> NoReturn:
        """Refuse: a view is not written to."""
        raise PermissionError("A confined view of an index is not written to.")

    def begin_changes(self) -> NoReturn:
        """Refuse: a view is not written to."""
        raise PermissionError("A confined view of an index is not written to.")

    def end_changes(self) -> NoReturn:
        """Refuse: a view is not written to."""
        raise PermissionError("A confined view of an index is not written to.")

    def write_rejections(self, rejections: Sequence[Rejection]) -> NoReturn:
        """Refuse: a view is not written to."""
        raise PermissionError("A confined view of an index is not written to.")

    def read_rejections(self) -> NoReturn:
        """Refuse: what was left out has no source."""
        raise PermissionError("A confined view of an index tells nothing of what was left out.")

    @property
    def regions(self) -> NoReturn:
        """Refuse: files of all sources lie together."""
        raise PermissionError("A confined view of an index has no region features.")

    def finish(self, *args: Any, **more: Any) -> NoReturn:
        """Refuse: a view is not written to."""
        raise PermissionError("A confined view of an index is not written to.")

    def _both(self, where: str | None) -> str:
        if where is None or not where.strip():
            return self._mine
        # In brackets, so that no OR reaches out; but for the one form that the index knows.
        parts = [p if excluded(p) else f"({p})" for p in conjuncts(where)]
        return " AND ".join([*parts, self._mine])

    def _check(self, ids: Iterable[str]) -> None:
        """Refuse ids of other sources in the words for those that are not there at all."""
        wanted = list(ids)
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            if not part:
                continue
            asked = ", ".join(literal(i) for i in dict.fromkeys(part))
            found = set(self.ids(f"study_id IN ({asked})"))
            missing = [i for i in part if i not in found]
            if missing:
                raise UnknownName(
                    f"There is no study {missing[0]!r} in this index of {self.count():,}. "
                    "Take a study_id from a search result."
                )
