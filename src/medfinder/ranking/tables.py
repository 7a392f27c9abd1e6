"""Tables of vectors and of scores: cut into blocks that memory holds, refused where they are unsound."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError

_BLOCK = 1 << 23  # scores held at once: 64 MiB of float64


def blocks(n: int, width: int, block_size: int | None = None) -> list[tuple[int, int]]:
    """Cut n rows of `width` scores into spans of at most `block_size`; None for 64 MiB of float64.

    Raises:
        InputError: Rule ``block-size``.
    """
    if block_size is None:
        block_size = max(1, _BLOCK // width)
    if block_size < 1:
        raise InputError(f"block_size must be at least 1, got {block_size}.", rule="block-size")
    return [(first, min(first + block_size, n)) for first in range(0, n, block_size)]


def check_dimensions(queries: NDArray[Any], gallery: NDArray[Any]) -> None:
    """Refuse vectors of two dimensions.

    Raises:
        InputError: Rule ``dim-mismatch``.
    """
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"Queries and gallery differ in dimension: {queries.shape[1]} and {gallery.shape[1]}; "
            "embed both with one model.",
            rule="dim-mismatch",
        )


def check_vectors(name: str, vectors: NDArray[Any]) -> None:
    """Refuse what no direction can be read from; the first row at fault is named.

    Args:
        name: What they are, in the plural, for the message.
        vectors: (N, dim).

    Raises:
        InputError: Rules ``shape``, ``empty``, ``not-finite``, ``zero-vector``.
    """
    check_table(name, vectors)
    zero = np.flatnonzero(~vectors.any(axis=1))
    if len(zero):
        raise InputError(
            f"Row {zero[0]} of the {name} is all zeros, as are {len(zero)} in all; a zero vector "
            "points nowhere: leave it out and say so.",
            rule="zero-vector",
        )


def check_table(name: str, table: NDArray[Any]) -> None:
    """Refuse what is no table of finite numbers; the first row at fault is named.

    Raises:
        InputError: Rules ``shape``, ``empty``, ``not-finite``.
    """
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype.kind not in "fiub":
        got = getattr(table, "shape", type(table).__name__)
        raise InputError(
            f"The {name} must be a 2-D array of real numbers, got {got}.", rule="shape"
        )
    if table.size == 0:
        raise InputError(
            f"The {name} are empty, of shape {table.shape}; a measure over nothing is undefined.",
            rule="empty",
        )
    for first, last in blocks(len(table), table.shape[1], None):
        bad = np.argwhere(~np.isfinite(table[first:last]))
        if len(bad):
            row, column = bad[0]
            raise InputError(
                f"Row {first + row} of the {name} holds {table[first + row, column]} at column "
                f"{column}; every value must be finite.",
                rule="not-finite",
            )
