"""One process at a time in a folder; one that is killed lets go."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a folder, and say whether that could be done.

    Where the file system has no locks everybody holds it.

    Args:
        folder: Is there; a file ``.lock`` is made in it and stays.
        wait: Until another process lets go, instead of saying no.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        is_held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_held = False
        except OSError:  # a network's file system without locks
            pass
        yield is_held
    finally:
        os.close(handle)
