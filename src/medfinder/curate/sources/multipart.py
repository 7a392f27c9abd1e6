"""A multipart body in chunks → one file a part, no more of it in memory than a chunk.

A part is whole when the boundary after it has come, and only then is it handed over: a body that
breaks off never gives half a file. Knows neither HTTP nor DICOM.

Source:
    RFC 2046 section 5.1.1 (boundaries), DICOM PS3.18 section 8.6.1 (multipart/related).
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from medfinder.curate.sources.remote import Refused, Stalled

_MAX_HEAD_BYTES = 64 * 1024


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type names, with its two leading dashes.

    Raises:
        Refused: It names none.
    """
    match = re.search(r';\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', content_type, re.I)
    if not match:
        raise Refused("it sent a multipart answer without a boundary")
    return b"--" + (match[1] or match[2]).encode("latin-1", "replace")


def write_parts(chunks: Iterable[bytes], boundary: bytes, path: Path) -> Iterator[Path]:
    """Write each part of a body to `path` and yield it when it is whole.

    The caller takes the file away before it asks for the next; what it leaves is overwritten.

    Args:
        chunks: The body.
        boundary: From `boundary_of`.

    Raises:
        Stalled: The body ends before its closing boundary, or a part is shorter than it says.
        Refused: The body is not of this form.
        OSError: The disk's.
    """
    body = _Body(iter(chunks))
    # The first boundary may be the first bytes or follow a preamble and a line break.
    body.data += b"\r\n"
    body.drop_until(b"\r\n" + boundary)
    while body.line_ends():
        length = _length(body.take_until(b"\r\n\r\n"))
        n_bytes = 0
        with path.open("wb") as file:
            for piece in body.pieces_until(b"\r\n" + boundary):
                file.write(piece)
                n_bytes += len(piece)
        if length is not None and n_bytes != length:
            raise Stalled(f"a part announced {length} bytes and had {n_bytes}")
        yield path


def _length(head: bytes) -> int | None:
    match = re.search(rb"(?:^|\r\n)content-length:[ \t]*(\d{1,15})[ \t]*(?:\r\n|$)", head, re.I)
    return int(match[1]) if match else None


class _Body:
    """Bytes that came and were not used yet."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.data = bytearray()

    def more(self) -> None:
        chunk = next(self.chunks, None)
        if chunk is None:
            raise Stalled("its answer broke off")
        self.data += chunk

    def pieces_until(self, mark: bytes) -> Iterator[bytes]:
        while (at := self.data.find(mark)) < 0:
            sure = len(self.data) - len(mark) + 1  # the mark may begin in the bytes after these
            if sure > 0:
                yield bytes(self.data[:sure])
                del self.data[:sure]
            self.more()
        yield bytes(self.data[:at])
        del self.data[: at + len(mark)]

    def drop_until(self, mark: bytes) -> None:
        for _ in self.pieces_until(mark):
            pass

    def take_until(self, mark: bytes) -> bytes:
        taken = b""
        for piece in self.pieces_until(mark):
            taken += piece
            if len(taken) > _MAX_HEAD_BYTES:
                raise Refused("it sent a part without an end of its head")
        return taken

    def line_ends(self) -> bool:
        """Read what follows a boundary; whether another part does."""
        while len(self.data) < 2:
            self.more()
        if self.data.startswith(b"--"):
            return False
        blanks = self.take_until(b"\r\n")
        if blanks.strip(b" \t"):
            raise Refused("it sent a boundary with other characters after it")
        # A head may be empty: then the blank line is the whole of it.
        self.data[:0] = b"\r\n"
        return True
