"""Python loop → machine code by numba, kept on disk where the disk allows it.

Imported on first use only: numba takes 0.3 s.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, *, fastmath: bool = False) -> F:
    """Compile a function on its first call; it runs without the interpreter lock.

    Args:
        fastmath: Sums may be taken in another order, which lets them use vector instructions.
    """
    try:
        return cast(F, numba.njit(nogil=True, fastmath=fastmath, cache=True)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return cast(F, numba.njit(nogil=True, fastmath=fastmath)(function))
