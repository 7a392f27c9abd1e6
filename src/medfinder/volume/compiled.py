"""Python loop → machine code by numba, kept on disk where the disk allows it.

Imported on first use only: numba takes 0.3 s.
"""

from typing import Any

import numba


def compiled(function: Any) -> Any:
    """Compile a function on its first call; it runs without the interpreter lock."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(nogil=True)(function)
