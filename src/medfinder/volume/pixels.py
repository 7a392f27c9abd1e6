"""Ordered slices → one (D, H, W) array of stored values, and the rescale that makes them HU.

Uncompressed pixels go from the file straight into their place in one preallocated array. JPEG
Lossless and RLE are decoded here (`jpeg_lossless`, `rle`), JPEG-LS by CharLS, JPEG 2000 by
OpenJPEG, both through pydicom. All on threads: reading and decoding release the interpreter.
Values are kept as stored, padding (-2000, -3024, ...) included.
"""

import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import MissingExtra, UnreadableVolume
from medfinder.volume.checks import CheckConfig, check_rescale, check_size
from medfinder.volume.header import DEFLATED_LE, UNDEFINED, Header, inflate

_DTYPES = {(8, 0): "u1", (8, 1): "i1", (16, 0): "u2", (16, 1): "i2", (32, 0): "u4", (32, 1): "i4"}

RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
# gdcm is not among them: it ends the process on some broken streams
_PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}


def load_pixels(
    slices: Sequence[Header], config: CheckConfig, n_threads: int | None = None
) -> tuple[npt.NDArray[Any], float, float]:
    """Read the pixels of ordered slices into one array.

    Args:
        slices: All of one matrix size.
        config: Its `max_voxels` is held before anything is allocated.
        n_threads: None for one a core, at most 8.

    Returns:
        (stored, slope, intercept). Stored values in the files' own integer type where all slices
        share it and their rescale; float32 HU with slope 1 and intercept 0 where they do not.

    Raises:
        UnreadableVolume: Rules ``too-large``, ``truncated``, ``corrupt``, ``unsupported-pixels``,
            ``bad-rescale``, ``unreadable``.
    """
    first = slices[0]
    shape = (len(slices), first.rows, first.columns)
    check_size(shape, config)
    for s in slices:
        _check_format(s)
    formats = {(s.bits_allocated, s.signed, s.slope, s.intercept) for s in slices}
    plain = len(formats) == 1
    dtype = np.dtype(_DTYPES[first.bits_allocated, first.signed] if plain else "f4")
    out = np.empty(shape, dtype=dtype)

    def load(i: int) -> None:
        s = slices[i]
        if plain:
            _read_slice(s, out[i])
        else:
            values = np.empty(shape[1:], _DTYPES[s.bits_allocated, s.signed])
            _read_slice(s, values)
            np.multiply(values, np.float32(s.slope), out=out[i], casting="unsafe")
            out[i] += np.float32(s.intercept)

    try:
        with _quiet(slices):
            _for_each(load, len(slices), n_threads)
    finally:
        _split_frames.cache_clear()
    return (out, first.slope, first.intercept) if plain else (out, 1.0, 0.0)


def read_pixels(header: Header) -> npt.NDArray[Any]:
    """Read one slice's stored values, shape (rows, columns).

    Raises:
        UnreadableVolume: As `load_pixels`.
    """
    _check_format(header)
    out = np.empty((header.rows, header.columns), _DTYPES[header.bits_allocated, header.signed])
    with _quiet([header]):
        _read_slice(header, out)
    return out


def _for_each(load: Callable[[int], None], n: int, n_threads: int | None) -> None:
    n_threads = n_threads or min(8, os.cpu_count() or 1)
    if n_threads == 1:
        for i in range(n):
            load(i)
        return
    n_parts = min(n, n_threads * 8)  # ranges: neighbours share pages of the result

    def part(k: int) -> None:
        for i in range(k * n // n_parts, (k + 1) * n // n_parts):
            load(i)

    with ThreadPoolExecutor(n_threads) as pool:
        jobs = [pool.submit(part, k) for k in range(n_parts)]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _quiet(slices: Sequence[Header]) -> Iterator[None]:
    """Keep back the plugins' Python warnings, about trifles of what they are given.

    Only where a plugin is called: the filters it changes belong to the whole process.
    """
    if not any(s.transfer_syntax in _PLUGINS for s in slices):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_format(s: Header) -> None:
    if s.rows == 0 or s.columns == 0:
        raise UnreadableVolume(
            f"A slice has no voxels: its matrix is {s.rows} x {s.columns}. Export it again.",
            rule="corrupt",
        )
    if (s.bits_allocated, s.signed) not in _DTYPES:
        raise UnreadableVolume(
            f"The pixel format cannot be read: expected 8, 16 or 32 bits a voxel, got "
            f"{s.bits_allocated} (pixel representation {s.signed}).",
            rule="unsupported-pixels",
        )
    if not 1 <= s.bits_stored <= s.bits_allocated or not (
        s.bits_stored - 1 <= s.high_bit < s.bits_allocated
    ):
        raise UnreadableVolume(
            f"The header contradicts itself: {s.bits_stored} bits stored, highest bit "
            f"{s.high_bit}, of {s.bits_allocated} allocated. Export the series again.",
            rule="corrupt",
        )
    check_rescale(s.slope, s.intercept)


def _truncated(expected: int, got: int) -> UnreadableVolume:
    return UnreadableVolume(
        f"A slice is truncated: expected {expected} bytes of pixels, got {max(got, 0)}. "
        "Copy the file again from its source.",
        rule="truncated",
    )


def _corrupt(syntax: str) -> UnreadableVolume:
    return UnreadableVolume(
        f"The compressed pixels of a slice cannot be decoded (transfer syntax {syntax}). "
        "Copy the file again from its source.",
        rule="corrupt",
    )


def _read_slice(s: Header, out: npt.NDArray[Any]) -> None:
    """Fill `out` (rows, columns), C-contiguous, of the slice's own dtype."""
    try:
        if s.is_encapsulated:
            _decode(s, out)
        else:
            _copy(s, out)
    except OSError as error:
        raise UnreadableVolume(
            f"A slice cannot be read: {error.strerror or type(error).__name__}. "
            "Check its permissions and the disk.",
            rule="unreadable",
        ) from None
    if s.big_endian and out.itemsize > 1:
        out.byteswap(inplace=True)
    spare_low = s.high_bit + 1 - s.bits_stored
    spare_high = s.bits_allocated - s.high_bit - 1
    if spare_high:  # old overlays live up there; the shift back extends the sign
        np.left_shift(out, spare_high, out=out)
    if spare_high or spare_low:
        np.right_shift(out, spare_high + spare_low, out=out)


def _copy(s: Header, out: npt.NDArray[Any]) -> None:
    start = s.frame * out.nbytes
    if s.pixel_bytes == UNDEFINED or start + out.nbytes > s.pixel_bytes:
        raise _truncated(start + out.nbytes, 0 if s.pixel_bytes == UNDEFINED else s.pixel_bytes)
    target = memoryview(out.data).cast("B")
    if s.transfer_syntax == DEFLATED_LE:
        data = inflate(s.path)[s.pixel_offset + start :][: out.nbytes]
        if len(data) < out.nbytes:
            raise _truncated(out.nbytes, len(data))
        target[:] = data
        return
    fd = os.open(s.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        done = 0
        while done < out.nbytes:
            n = os.preadv(fd, [target[done:]], s.pixel_offset + start + done)
            if n == 0:
                raise _truncated(out.nbytes, done)
            done += n
    finally:
        os.close(fd)


def _decode(s: Header, out: npt.NDArray[Any]) -> None:
    if s.transfer_syntax not in (RLE, *JPEG_LOSSLESS, *_PLUGINS):
        raise UnreadableVolume(
            f"The pixels use a compression that is not read (transfer syntax "
            f"{s.transfer_syntax[:64]}). Export the series uncompressed.",
            rule="unsupported-pixels",
        )
    frame = _frame(s)
    declared = codestream_shape(frame)
    if declared is not None and declared != (s.rows, s.columns):
        raise UnreadableVolume(
            f"The compressed pixels do not fit their header: expected {s.rows} x {s.columns}, "
            f"got {declared[0]} x {declared[1]}. Copy the file again from its source.",
            rule="corrupt",
        )
    if s.transfer_syntax == RLE:
        from medfinder.volume import rle

        if not rle.decode(frame, out):
            raise _corrupt(s.transfer_syntax)
    elif s.transfer_syntax in JPEG_LOSSLESS:
        from medfinder.volume import jpeg_lossless

        try:
            np.copyto(out.view(f"u{out.itemsize}"), jpeg_lossless.decode(frame), casting="unsafe")
        except jpeg_lossless.BrokenStream:
            raise _corrupt(s.transfer_syntax) from None
    else:
        _decode_by_plugin(s, frame, out)


def _frame(s: Header) -> bytes:
    """Return one frame's compressed bytes."""
    with open(s.path, "rb") as file:
        if s.n_frames == 1:
            file.seek(s.pixel_offset)
            return _join_fragments(file.read())
        mtime_ns = os.fstat(file.fileno()).st_mtime_ns
    split = _split_frames(str(s.path), mtime_ns, s.pixel_offset, s.n_frames, s.transfer_syntax)
    if s.frame >= len(split):
        raise _truncated(s.n_frames, len(split))
    return split[s.frame]


def _decode_by_plugin(s: Header, frame: bytes, out: npt.NDArray[Any]) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    plugin = _PLUGINS[s.transfer_syntax]
    decoder = get_decoder(s.transfer_syntax)
    if plugin not in decoder.available_plugins:
        raise MissingExtra(
            f"No decoder is installed for transfer syntax {s.transfer_syntax}: "
            "pip install pyjpegls pylibjpeg pylibjpeg-openjpeg pillow"
        )
    options: dict[str, Any] = {
        "rows": s.rows,
        "columns": s.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": s.photometric or "MONOCHROME2",
        "bits_allocated": s.bits_allocated,
        "bits_stored": s.bits_stored,
        "pixel_representation": s.signed,
        "pixel_keyword": "PixelData",
    }
    try:
        values, _ = decoder.as_array(
            encapsulate([frame], has_bot=False),
            index=0,
            raw=True,
            decoding_plugin=plugin,
            **options,
        )
    except Exception:  # decoders raise whatever their C libraries make of broken bytes
        raise _corrupt(s.transfer_syntax) from None
    if values.shape != out.shape:
        raise _corrupt(s.transfer_syntax)
    out[...] = values


def _join_fragments(data: bytes) -> bytes:
    """Return the one frame of an encapsulated value: its fragments without the offset table.

    Source:
        DICOM PS3.5 section A.4.
    """
    parts: list[bytes] = []
    pos, first = 0, True
    while pos + 8 <= len(data):
        tag, length = struct.unpack_from("<4sI", data, pos)
        pos += 8
        if tag == b"\xfe\xff\xdd\xe0":
            break
        if tag != b"\xfe\xff\x00\xe0" or length == UNDEFINED or pos + length > len(data):
            raise _truncated(length, len(data) - pos)
        if not first:
            parts.append(data[pos : pos + length])
        first, pos = False, pos + length
    if not any(parts):
        raise _truncated(1, 0)
    return b"".join(parts)


@lru_cache(maxsize=2)
def _split_frames(
    path: str, mtime_ns: int, offset: int, n_frames: int, syntax: str
) -> tuple[bytes, ...]:
    """Split a multi-frame file's encapsulated value; kept for the other frames of the same file."""
    from pydicom.encaps import generate_frames

    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read()
    try:
        return tuple(generate_frames(data, number_of_frames=n_frames))
    except Exception:  # pydicom raises ValueError, struct.error and others on broken offsets
        raise _corrupt(syntax) from None


def codestream_shape(data: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) as a JPEG, JPEG-LS or JPEG 2000 stream declares them itself.

    Asked before decoding: a small stream may declare a huge image and would be given the memory.

    Returns:
        None where the stream is of another kind, or its header is not found.

    Source:
        ITU-T T.81 B.2.2 (frame header), T.87 C.2.2, T.800 A.5.1 (SIZ).
    """
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 24:
        x1, y1, x0, y0 = struct.unpack_from(">IIII", data, 8)
        return y1 - y0, x1 - x0
    if data[:2] != b"\xff\xd8":
        return None
    pos = 2
    while pos + 9 <= len(data) and data[pos] == 0xFF:
        marker = data[pos + 1]
        if marker == 0xFF:
            pos += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = struct.unpack_from(">HH", data, pos + 5)
            return rows, columns
        (length,) = struct.unpack_from(">H", data, pos + 2)
        pos += 2 + length
    return None
