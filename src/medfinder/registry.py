"""Name → factory, for everything a user may pick or bring by name."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from medfinder.errors import ConfigError, UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named factories.

    Args:
        kind: What it holds, in the singular, for messages: ``"encoder"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its argument under `name`.

        Raises:
            ConfigError: The name is taken.
        """

        def add(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise ConfigError(f"{self.kind} {name!r} is registered twice; rename one of them.")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """Return the entry called `name`.

        Raises:
            UnknownName: No such entry; the message lists the known names.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownName(unknown(self.kind, name, sorted(self._entries))) from None

    def names(self) -> list[str]:
        """Return the known names, sorted."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: str) -> bool:
        return name in self._entries


def unknown(kind: str, name: str, known: list[str]) -> str:
    """Return the message for an unknown name, with the nearest known one first."""
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known) or 'none'}."
