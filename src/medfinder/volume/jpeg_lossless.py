"""JPEG Lossless (process 14, one grey component) ↔ arrays.

The commonest compression of archived CT, and the one no packaged decoder here reads safely: gdcm
ends the whole process on some broken streams. This one is compiled, holds no interpreter lock,
checks every bound, and returns an error instead. It knows bytes and arrays, nothing of DICOM.

Source:
    ITU-T T.81, annex H (lossless mode), C and F.2.2 (Huffman coding), B (markers).
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.compiled import compiled

_SOF3, _DHT, _SOS, _DRI, _EOI = 0xC3, 0xC4, 0xDA, 0xDD, 0xD9


class BrokenStream(ValueError):
    """The bytes are no complete JPEG Lossless image of one component."""


@dataclass(frozen=True)
class _Scan:
    """What the markers say before the entropy-coded data begins at `start`."""

    rows: int
    columns: int
    precision: int
    predictor: int
    point_transform: int
    restart_rows: int
    table: npt.NDArray[np.uint16]
    start: int


def decode(data: bytes) -> npt.NDArray[np.uint16]:
    """Decode one image to uint16 (rows, columns); signed samples come as two's complement.

    Raises:
        BrokenStream: Truncated or damaged data, or another JPEG process.
    """
    try:
        scan = _scan(data)
    except (struct.error, IndexError):
        raise BrokenStream("the markers break off") from None
    out = np.empty((scan.rows, scan.columns), np.uint16)
    done = _decode_scan(
        np.frombuffer(data, np.uint8),
        scan.start,
        scan.table,
        scan.predictor,
        scan.precision,
        scan.point_transform,
        scan.restart_rows,
        out,
    )
    if done < scan.rows:
        raise BrokenStream(f"the data end in row {done} of {scan.rows}")
    return out


def _scan(data: bytes) -> _Scan:
    tables: dict[int, npt.NDArray[np.uint16]] = {}
    frame: tuple[int, int, int] | None = None
    restart, pos = 0, 2
    if data[:2] != b"\xff\xd8":
        raise BrokenStream("no start of image")
    while True:
        if data[pos] != 0xFF:
            raise BrokenStream("a marker is missing")
        marker = data[pos + 1]
        if marker == 0xFF:
            pos += 1
            continue
        (length,) = struct.unpack_from(">H", data, pos + 2)
        body, pos = data[pos + 4 : pos + 2 + length], pos + 2 + length
        if marker == _SOF3:
            precision, rows, columns, n = struct.unpack_from(">BHHB", body)
            if n != 1 or not 2 <= precision <= 16 or rows * columns == 0:
                raise BrokenStream("not one grey component of 2 to 16 bits")
            if frame is not None or rows * columns > 8 * len(data):  # a pixel takes a bit at least
                raise BrokenStream("more pixels are declared than the bytes can hold")
            frame = precision, rows, columns
        elif 0xC0 <= marker <= 0xCF and marker not in (_DHT, 0xC8, 0xCC):
            raise BrokenStream("another JPEG process")
        elif marker == _DHT:
            _read_tables(body, tables)
        elif marker == _DRI:
            (restart,) = struct.unpack_from(">H", body)
        elif marker == _SOS:
            break
    n, _, which, predictor, _, low = struct.unpack_from(">BBBBBB", body)
    if frame is None or n != 1 or not 1 <= predictor <= 7 or which >> 4 not in tables:
        raise BrokenStream("the scan fits no frame or table")
    precision, rows, columns = frame
    if restart % columns or (low & 15) >= precision:
        raise BrokenStream("restarts inside a row, or a point transform beyond the precision")
    return _Scan(
        rows,
        columns,
        precision,
        predictor,
        low & 15,
        restart // columns,
        tables[which >> 4],
        pos,
    )


def _read_tables(body: bytes, tables: dict[int, npt.NDArray[np.uint16]]) -> None:
    """Build for each Huffman table: the next 16 bits → length of the code << 8 | its symbol."""
    pos = 0
    while pos < len(body):
        counts = body[pos + 1 : pos + 17]
        table = np.zeros(65536, np.uint16)
        code, at = 0, pos + 17
        for size, count in enumerate(counts, start=1):
            for symbol in body[at : at + count]:
                if symbol > 16 or code >= 1 << size:
                    raise BrokenStream("an impossible Huffman table")
                first = code << (16 - size)
                table[first : first + (1 << (16 - size))] = size << 8 | symbol
                code += 1
            at += count
            code <<= 1
        tables[body[pos] & 15] = table
        pos = at


def _decode_scan_python(
    data: npt.NDArray[np.uint8],
    pos: int,
    table: npt.NDArray[np.uint16],
    predictor: int,
    precision: int,
    point_transform: int,
    restart_rows: int,
    out: Any,
) -> int:
    """Fill `out`; return the number of rows decoded, fewer than it has where the data end early.

    64-bit signed integers throughout: mixed with unsigned ones the compiler makes floats of them.
    """
    n_bytes = data.size
    rows, columns = out.shape
    bits, n_bits, n_pad = 0, 0, 0  # bits read ahead (low n_bits); the last n_pad are made up
    for r in range(rows):
        fresh = r == 0
        if restart_rows > 0 and r > 0 and r % restart_rows == 0:
            if pos + 1 >= n_bytes or data[pos] != 0xFF or data[pos + 1] & 0xF8 != 0xD0:
                return r
            pos += 2
            bits, n_bits, n_pad = 0, 0, 0
            fresh = True
        for c in range(columns):
            while n_bits <= 48:
                byte = 0
                if pos >= n_bytes:
                    n_pad += 8
                elif data[pos] != 0xFF:
                    byte = int(np.int64(data[pos]))
                    pos += 1
                elif pos + 1 < n_bytes and data[pos + 1] == 0:
                    byte = 0xFF
                    pos += 2
                else:  # a marker: the scan or the restart interval ends here
                    n_pad += 8
                bits = (bits << 8) | byte
                n_bits += 8
            entry = int(np.int64(table[(bits >> (n_bits - 16)) & 0xFFFF]))
            size, category = entry >> 8, entry & 0xFF
            n_bits -= size
            difference = 0
            if category == 16:
                difference = 32768
            elif category > 0:
                n_bits -= category
                difference = (bits >> n_bits) & ((1 << category) - 1)
                if difference < 1 << (category - 1):
                    difference += 1 - (1 << category)
            if size == 0 or n_bits < n_pad:
                return r
            if fresh:
                left = 1 << (precision - point_transform - 1)
                guess = left if c == 0 else int(np.int64(out[r, c - 1]))
            elif c == 0:
                guess = int(np.int64(out[r - 1, 0]))
            else:
                a = int(np.int64(out[r, c - 1]))
                b = int(np.int64(out[r - 1, c]))
                d = int(np.int64(out[r - 1, c - 1]))
                if predictor == 1:
                    guess = a
                elif predictor == 2:
                    guess = b
                elif predictor == 3:
                    guess = d
                elif predictor == 4:
                    guess = a + b - d
                elif predictor == 5:
                    guess = a + ((b - d) >> 1)
                elif predictor == 6:
                    guess = b + ((a - d) >> 1)
                else:
                    guess = (a + b) >> 1
            out[r, c] = (guess + difference) & 0xFFFF
    if point_transform > 0:
        for r in range(rows):
            for c in range(columns):
                out[r, c] = out[r, c] << point_transform
    return int(rows)


_decode_scan = compiled(_decode_scan_python)


def encode(values: npt.NDArray[Any]) -> bytes:
    """Encode a 16-bit array (rows, columns) with predictor 1 and one flat Huffman table.

    Meant for phantoms and tests: right and quick to write, not small.
    """
    x = np.ascontiguousarray(values).view(np.uint16).astype(np.int64)
    guess = np.empty_like(x)
    guess[:, 1:] = x[:, :-1]
    guess[1:, 0] = x[:-1, 0]
    guess[0, 0] = 1 << 15
    difference = ((x - guess + 32767) % 65536 - 32767).ravel()  # -32767..32768
    category = np.ceil(np.log2(np.abs(difference) + 1)).astype(np.int64)
    n_extra = np.where(category == 16, 0, category)
    extra = np.where(difference > 0, difference, difference - 1 + (1 << category))
    word = category << n_extra | np.where(category == 16, 0, extra)  # code of a symbol = itself
    width = 5 + n_extra
    places = np.arange(19, -1, -1)
    bits = (word[:, None] >> places & 1).astype(np.uint8)[places < width[:, None]]
    packed = np.packbits(np.concatenate([bits, np.ones(-bits.size % 8, np.uint8)]))
    stuffed = np.insert(packed, np.flatnonzero(packed == 0xFF) + 1, 0).tobytes()
    counts = bytes([0, 0, 0, 0, 17, *[0] * 11])
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHBBBB", 11, 16, *values.shape, 1, 1, 0x11, 0),
            b"\xff\xc4" + struct.pack(">HB", 2 + 1 + 16 + 17, 0) + counts + bytes(range(17)),
            b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0),
            stuffed,
            b"\xff\xd9",
        ]
    )
