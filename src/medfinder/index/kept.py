"""What was read of studies, kept for as long as one version of the table is read."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by study_id, the least used dropped first. Safe to use from several threads.

    Args:
        most: Values kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def take(
        self, ids: Sequence[str], read: Callable[[Sequence[str]], Mapping[str, T]]
    ) -> dict[str, T]:
        """Return the values of `ids`, reading those that are not kept, all in one call."""
        found: dict[str, T] = {}
        with self._lock:
            for study_id in ids:
                if study_id in self._values:
                    self._values.move_to_end(study_id)
                    found[study_id] = self._values[study_id]
        missing = [study_id for study_id in dict.fromkeys(ids) if study_id not in found]
        if missing:
            new = read(missing)
            found |= new
            with self._lock:
                self._values |= new
                while len(self._values) > self._most:
                    self._values.popitem(last=False)
        return found

    def without(self, ids: Sequence[str]) -> "Kept[T]":
        """Return these values less those of `ids`, in a store of their own."""
        made: Kept[T] = Kept(self._most)
        with self._lock:
            made._values = self._values.copy()
        for study_id in ids:
            made._values.pop(study_id, None)
        return made
