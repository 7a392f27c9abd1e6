"""Memory that is given back and asked for again costs page faults; keep it."""

import ctypes


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees; where there is another C library, do nothing.

    By default each array of a few megabytes is mapped anew, and the kernel clears its pages: about
    half of the time that drawing many phantoms takes.

    Source:
        mallopt(3).
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, 1 << 30)
