"""One compressed file → its bytes, of a size that is known before anything is allocated.

libdeflate in one call where the file is what almost all are, one gzip member; a stream where it is
not. Knows no header but gzip's.
"""

import contextlib
import mmap
import zlib
from typing import Any

import numpy as np

from medfinder.errors import UnreadableVolume

MAX_DEFLATE_RATIO = 1032  # the format's own limit: 258 bytes for 2 bits
MAX_RATIO = 250  # of a declared size above BIG_BYTES; CT shrinks 2 to 20 times
BIG_BYTES = 64 * 2**20
SLACK_BYTES = 2**20  # bytes beyond the declared ones that are read over: some tools pad
_CHUNK_BYTES = 2**18
_DAMAGED = "its gzip stream is damaged (CRC or code)"


def first_bytes(raw: mmap.mmap, n_bytes: int) -> bytes:
    """Return at most the first `n_bytes` of a gzip stream, decompressing no more.

    Raises:
        UnreadableVolume: ``corrupt``.
    """
    try:
        return zlib.decompressobj(31).decompress(raw[: 2**16], n_bytes)
    except zlib.error:
        raise unreadable("corrupt", _DAMAGED, "Fetch it again.") from None


def gunzip(raw: mmap.mmap, n_bytes: int) -> tuple[Any, tuple[str, ...]]:
    """Decompress `n_bytes`, checking CRC and length of every gzip member.

    Returns:
        A buffer of `n_bytes` or up to SLACK_BYTES more, and warnings.

    Raises:
        UnreadableVolume: ``truncated``, ``too-large`` or ``corrupt``.
    """
    if n_bytes > len(raw) * MAX_DEFLATE_RATIO:
        raise unreadable(
            "truncated",
            f"its header declares {n_bytes} bytes, {len(raw)} compressed bytes cannot hold them",
            "Fetch it again.",
        )
    if n_bytes > max(BIG_BYTES, len(raw) * MAX_RATIO):
        raise unreadable(
            "too-large",
            f"it would grow {n_bytes // len(raw)} times when decompressed, at most {MAX_RATIO} is believed",
            "If it is a real CT, decompress it first.",
        )
    # The trailer's length is modulo 2**32 and anybody's to write: libdeflate may allocate it only
    # where it is what the header declares.
    declared = int.from_bytes(raw[-4:], "little")
    if len(raw) > 18 and n_bytes <= declared <= n_bytes + SLACK_BYTES:
        import deflate

        with contextlib.suppress(deflate.DeflateError):
            buffer = deflate.gzip_decompress(raw)
            if len(buffer) >= n_bytes:
                return buffer, ()
    return _stream(raw, n_bytes)


def _stream(raw: mmap.mmap, n_bytes: int) -> tuple[Any, tuple[str, ...]]:
    """Decompress what libdeflate in one call does not: many members, odd tails, damage."""
    buffer = np.empty(n_bytes, np.uint8)
    done = position = 0
    while position < len(raw):
        complete = done >= n_bytes  # what follows is not needed, but may be part of the stream
        member = zlib.decompressobj(31)
        while not member.eof:
            chunk = raw[position : position + _CHUNK_BYTES]
            if not chunk:
                raise unreadable("truncated", "its gzip stream stops early", "Fetch it again.")
            try:
                piece = member.decompress(chunk, 8 * _CHUNK_BYTES)
            except zlib.error:
                if complete:
                    return buffer, ("Foreign bytes follow the compressed data; they are ignored.",)
                raise unreadable("corrupt", _DAMAGED, "Fetch it again.") from None
            position += len(chunk) - len(member.unconsumed_tail) - len(member.unused_data)
            if done < n_bytes:
                kept = piece[: n_bytes - done]
                buffer[done : done + len(kept)] = np.frombuffer(kept, np.uint8)
            done += len(piece)
            if done > n_bytes + SLACK_BYTES:
                return buffer, ("Much data follows the voxels; it is ignored, its CRC unchecked.",)
    if done < n_bytes:
        raise unreadable(
            "truncated",
            f"it holds {done} bytes, its header declares {n_bytes}",
            "Fetch it again.",
        )
    return buffer, ()


def unreadable(rule: str, what: str, advice: str) -> UnreadableVolume:
    """Return the error that a NIfTI file is refused with."""
    return UnreadableVolume(f"The NIfTI file cannot be read: {what}. {advice}", rule=rule)
