"""Python loop → machine code by numba, kept on disk where the disk allows it.

Imported on first use only: numba takes 0.3 s.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(
    function: F, *, fastmath: bool = False, error_model: Literal["python", "numpy"] = "python"
) -> F:
    """Compile a function on its first call; it runs without the interpreter lock.

    Args:
        fastmath: Sums may be taken in another order, which lets them use vector instructions.
        error_model: "numpy" divides by zero without an exception, and loops that divide use
            vector instructions.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": error_model}
    try:
        return cast(F, numba.njit(**options, cache=True)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return cast(F, numba.njit(**options)(function))
