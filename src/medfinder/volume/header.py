"""One DICOM file → what its header says, read once, without its pixels.

A scanner of its own instead of `pydicom.dcmread`: it visits the top-level elements, skips those
that no later step asks for, and notes where the pixels lie, several times faster than building a
dataset. It knows nothing of series or volumes. Nested data (the functional groups of an Enhanced
CT) is left to pydicom, which is only imported then.

Source:
    DICOM PS3.5 sections 7.1 (data elements), 7.5 (nesting), 10 and A.4 (transfer syntaxes).
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.errors import UnreadableVolume

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
UNDEFINED = 0xFFFFFFFF
#: Largest inflated dataset that is accepted; a deflated file is the only one that can hide its size.
MAX_INFLATED_BYTES = 2**31
#: Longest value of an element that is kept; longer ones (in practice garbage) are refused.
MAX_VALUE_BYTES = 64 * 1024
MAX_NESTING = 32
MAX_ELEMENTS = 100_000
_CHUNK_BYTES = 8 * 1024

_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_PIXEL_TAGS = frozenset((0x7FE00010, 0x7FE00008, 0x7FE00009))

# tag → (field of the raw dict, kind); "s" text, "m" multi-valued text, "f" floats, "u" unsigned
# short, "p" signed or unsigned short by PixelRepresentation
_WANTED: dict[int, tuple[str, str]] = {
    0x00020010: ("transfer_syntax", "s"),
    0x00080008: ("image_type", "m"),
    0x00080016: ("sop_class", "s"),
    0x00080018: ("sop_instance", "s"),
    0x00080020: ("study_date", "s"),
    0x00080060: ("modality", "s"),
    0x00080070: ("manufacturer", "s"),
    0x00100020: ("patient_id", "s"),
    0x00100030: ("birth_date", "s"),
    0x00100040: ("sex", "s"),
    0x00101010: ("age", "s"),
    0x00180015: ("body_part", "s"),
    0x00181210: ("kernel", "s"),
    0x0020000D: ("study_id", "s"),
    0x0020000E: ("series_id", "s"),
    0x00200032: ("position", "f"),
    0x00200037: ("orientation", "f"),
    0x00280002: ("samples", "u"),
    0x00280004: ("photometric", "s"),
    0x00280008: ("n_frames", "s"),
    0x00280010: ("rows", "u"),
    0x00280011: ("columns", "u"),
    0x00280030: ("pixel_spacing", "f"),
    0x00280100: ("bits_allocated", "u"),
    0x00280101: ("bits_stored", "u"),
    0x00280102: ("high_bit", "u"),
    0x00280103: ("signed", "u"),
    0x00281052: ("intercept", "f"),
    0x00281053: ("slope", "f"),
    0x00281054: ("rescale_type", "s"),
    0x00283000: ("modality_lut", "x"),
    0x52009229: ("shared_groups", "x"),
    0x52009230: ("frame_groups", "x"),
}


@dataclass(frozen=True, slots=True)
class Header:
    """What one slice or frame says about itself; fields the file lacks hold their defaults.

    Attributes:
        path: The file.
        position: ImagePositionPatient, LPS millimetres of the first voxel's centre.
        orientation: ImageOrientationPatient: direction of a row, then of a column, in LPS.
        pixel_spacing: Millimetres between rows, then between columns.
        signed: PixelRepresentation, 1 for two's complement.
        frame: Index of the frame in the file; 0 for a single-frame image.
        pixel_offset: Byte at which the pixel value starts (in the inflated data where the file is
            deflated); -1 where the object has no pixels.
        pixel_bytes: Length of the pixel value; `UNDEFINED` where it is encapsulated.
        float_pixels: The pixels are in Float or Double Float Pixel Data.
    """

    path: Path
    transfer_syntax: str = IMPLICIT_LE
    image_type: tuple[str, ...] = ()
    sop_class: str = ""
    sop_instance: str = ""
    study_date: str = ""
    modality: str = ""
    manufacturer: str = ""
    patient_id: str = ""
    birth_date: str = ""
    sex: str = ""
    age: str = ""
    body_part: str = ""
    kernel: str = ""
    study_id: str = ""
    series_id: str = ""
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    samples: int = 1
    photometric: str = ""
    n_frames: int = 1
    rows: int = 0
    columns: int = 0
    pixel_spacing: tuple[float, ...] = ()
    bits_allocated: int = 16
    bits_stored: int = 16
    high_bit: int = 15
    signed: int = 0
    intercept: float = 0.0
    slope: float = 1.0
    rescale_type: str = ""
    has_modality_lut: bool = False
    has_frame_groups: bool = False
    frame: int = 0
    pixel_offset: int = -1
    pixel_bytes: int = 0
    float_pixels: bool = False

    @property
    def is_encapsulated(self) -> bool:
        """Whether the pixels are compressed."""
        return self.transfer_syntax not in (IMPLICIT_LE, EXPLICIT_LE, DEFLATED_LE, EXPLICIT_BE)

    @property
    def big_endian(self) -> bool:
        """Whether numbers in the file have their most significant byte first."""
        return self.transfer_syntax == EXPLICIT_BE


class NotDicom(UnreadableVolume):
    """The file does not have the form of a DICOM file at all."""

    rule = "corrupt"


def read_header(path: Path) -> Header:
    """Read the header of one DICOM file.

    Files without the 128-byte preamble are read as well, when they begin with a plausible element.

    Raises:
        NotDicom: The bytes are not DICOM.
        UnreadableVolume: Rule ``corrupt`` for a header that breaks off or contradicts itself,
            ``unreadable`` when the system does not let the file be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            raw = _scan_file(file.fileno(), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UnreadableVolume(
            f"The file cannot be read: {error.strerror or type(error).__name__}. "
            "Check its permissions and the disk.",
            rule="unreadable",
        ) from None
    except (struct.error, IndexError, RecursionError):
        raise UnreadableVolume(
            "The DICOM header breaks off or contradicts itself. Copy the file again from its source.",
            rule="corrupt",
        ) from None
    return _header(path, raw)


def inflate(path: Path) -> bytes:
    """Return the dataset of a file with the deflated transfer syntax, without its meta group.

    Raises:
        UnreadableVolume: Rule ``corrupt`` when the stream is broken, ``too-large`` when it
            inflates beyond `MAX_INFLATED_BYTES`.
    """
    with open(path, "rb") as file:
        data = file.read()
    source = _Bytes(data)
    start = _scan_meta(source)[1]
    return _inflate(data[start:])


class _Bytes:
    """Bytes by offset, from a file descriptor in chunks or from memory."""

    def __init__(self, data: bytes = b"", fd: int = -1, size: int | None = None) -> None:
        self.data, self.fd, self.base = data, fd, 0
        self.size = len(data) if size is None else size

    def need(self, start: int, n: int) -> int:
        """Make bytes [start, start + n) available; return the index of `start` in `data`."""
        at = start - self.base
        if at < 0 or at + n > len(self.data):
            if self.fd < 0 or start + n > self.size:
                raise IndexError(start)
            self.base, at = start, 0
            self.data = os.pread(self.fd, max(_CHUNK_BYTES, n), start)
            if len(self.data) < n:
                raise IndexError(start)
        return at


def _scan_file(fd: int, size: int) -> dict[str, Any]:
    source = _Bytes(os.pread(fd, _CHUNK_BYTES, 0), fd, size)
    if len(source.data) >= 132 and source.data[128:132] == b"DICM":
        raw, start = _scan_meta(source)
    else:
        raw, start = {}, 0
        if size < 64 or source.data[:2] not in (b"\x08\x00", b"\x02\x00") or source.data[3] != 0:
            raise NotDicom(
                "The file is not DICOM: it is empty."
                if size == 0
                else "The file is not DICOM: the mark 'DICM' at byte 128 is missing. "
                "Export it again, or remove it.",
                rule="corrupt",
            )
        if source.data[:2] == b"\x02\x00":
            raw, start = _scan_meta(source, start=0)
    syntax = _text(raw.get("transfer_syntax", b""))
    if syntax == DEFLATED_LE:
        source = _Bytes(_inflate(os.pread(fd, size, 0)[start:]))
        start = 0
    at = source.need(start, 8)
    vr = source.data[at + 4 : at + 6]
    # files exist that declare one and use the other; the VR's two letters tell (as pydicom does)
    explicit = vr.isalpha() and vr.isupper()
    big = syntax == EXPLICIT_BE and source.data[at] == 0
    if not syntax:
        raw["transfer_syntax"] = (EXPLICIT_LE if explicit else IMPLICIT_LE).encode()
    _scan_elements(source, start, explicit, ">" if big else "<", raw)
    return raw


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = stream.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error:
        raise UnreadableVolume(
            "The deflated DICOM data is broken. Copy the file again from its source.",
            rule="corrupt",
        ) from None
    if stream.unconsumed_tail:
        raise UnreadableVolume(
            f"The deflated DICOM data grows beyond {MAX_INFLATED_BYTES} bytes; it is not read.",
            rule="too-large",
        )
    return out


def _scan_meta(source: _Bytes, start: int = 132) -> tuple[dict[str, Any], int]:
    """Read group 0002 (always explicit little endian); return it and where the dataset starts."""
    raw: dict[str, Any] = {}
    pos = start
    while pos + 8 <= source.size:
        at = source.need(pos, 8)
        if source.data[at : at + 2] != b"\x02\x00":
            break
        tag, _, length, pos = _element(source, pos, True, "<")
        if length == UNDEFINED:
            raise IndexError(pos)
        _keep(source, tag, pos, length, "<", raw)
        pos += length
    return raw, pos


def _element(source: _Bytes, pos: int, explicit: bool, order: str) -> tuple[int, bytes, int, int]:
    """Return (tag, VR, length, offset of the value) of the element at `pos`."""
    at = source.need(pos, 8)
    data = source.data
    group, element = struct.unpack_from(order + "HH", data, at)
    tag = group << 16 | element
    if not explicit or group == 0xFFFE:
        return tag, b"", struct.unpack_from(order + "I", data, at + 4)[0], pos + 8
    vr = data[at + 4 : at + 6]
    if vr in _LONG_VRS:
        at = source.need(pos, 12)
        return tag, vr, struct.unpack_from(order + "I", source.data, at + 8)[0], pos + 12
    return tag, vr, struct.unpack_from(order + "H", data, at + 6)[0], pos + 8


def _scan_elements(
    source: _Bytes, pos: int, explicit: bool, order: str, raw: dict[str, Any]
) -> None:
    head = struct.Struct(order + "HH2sH" if explicit else order + "HHI")
    size, last = source.size, -1
    for _ in range(MAX_ELEMENTS):
        if pos + 8 > size:
            return
        at = pos - source.base
        if at + 12 > len(source.data):
            at = source.need(pos, min(12, size - pos))
        if explicit:
            group, element, vr, length = head.unpack_from(source.data, at)
            value = pos + 8
            if vr in _LONG_VRS:
                (length,) = struct.unpack_from(order + "I", source.data, at + 8)
                value = pos + 12
        else:
            group, element, length = head.unpack_from(source.data, at)
            vr, value = b"", pos + 8
        tag = group << 16 | element
        if tag <= last and group != 0xFFFE:
            raise IndexError(pos)  # elements ascend; out of order means we lost the thread
        last = tag
        if group > 0x0028 and "rows" not in raw:
            return  # no image: what follows (contours, doses, texts) can be long and is not wanted
        if tag in _PIXEL_TAGS:
            raw["pixel_offset"], raw["pixel_bytes"] = value, length
            raw["float_pixels"] = tag != 0x7FE00010
            return
        if tag in _WANTED:
            _keep(source, tag, value, length, order, raw)
        if length == UNDEFINED:
            pos = _skip_sequence(source, value, explicit and vr != b"UN", order, 0)
        else:
            pos = value + length
            if pos > size:
                raise IndexError(pos)
    raise IndexError(pos)


def _skip_sequence(source: _Bytes, pos: int, explicit: bool, order: str, depth: int) -> int:
    """Return the offset after a sequence of undefined length that starts at `pos`."""
    if depth > MAX_NESTING:
        raise IndexError(pos)
    while True:
        tag, _, length, pos = _element(source, pos, False, order)
        if tag == 0xFFFEE0DD:
            return pos
        if tag != 0xFFFEE000:
            raise IndexError(pos)
        if length != UNDEFINED:
            pos += length
            continue
        while True:  # an item of undefined length: walk its elements
            tag, vr, length, pos = _element(source, pos, explicit, order)
            if tag == 0xFFFEE00D:
                break
            if length == UNDEFINED:
                pos = _skip_sequence(source, pos, explicit and vr != b"UN", order, depth + 1)
            else:
                pos += length


def _keep(source: _Bytes, tag: int, pos: int, length: int, order: str, raw: dict[str, Any]) -> None:
    wanted = _WANTED.get(tag)
    if wanted is None:
        return
    name, kind = wanted
    if kind == "x":
        raw[name] = True
        return
    if length > MAX_VALUE_BYTES:
        raise IndexError(pos)
    if length == 0:
        return
    at = source.need(pos, length)
    value = source.data[at : at + length]
    if kind == "u":
        raw[name] = struct.unpack_from(order + "H", value)[0]
    else:
        raw[name] = value


def _text(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return text.strip(" \0\r\n\t")


def _floats(value: bytes) -> tuple[float, ...]:
    parts = _text(value).split("\\")
    return tuple(float(p) for p in parts if p.strip())


def _header(path: Path, raw: dict[str, Any]) -> Header:
    """Turn the raw values into a `Header`."""
    out: dict[str, Any] = {}
    kinds = dict(_WANTED.values())
    for name, value in raw.items():
        kind = kinds.get(name)
        if kind == "s":
            out[name] = _text(value)
        elif kind == "m":
            out[name] = tuple(p.strip() for p in _text(value).split("\\"))
        elif kind == "f":
            try:
                out[name] = _floats(value)
            except ValueError:
                raise UnreadableVolume(
                    f"The header's {name.replace('_', ' ')} is not a number. "
                    "Export the series again.",
                    rule="corrupt",
                ) from None
        elif kind is None or kind == "u":
            out[name] = value
    for name in ("slope", "intercept"):  # single numbers
        if name in out:
            values = out.pop(name)
            if values:
                out[name] = values[0]
    if "n_frames" in out:
        try:
            out["n_frames"] = max(1, int(out["n_frames"].split("\\")[0] or 1))
        except ValueError:
            raise UnreadableVolume(
                "The header's number of frames is not a number. Export the series again.",
                rule="corrupt",
            ) from None
    if "high_bit" not in out and "bits_stored" in out:
        out["high_bit"] = out["bits_stored"] - 1
    out["has_modality_lut"] = raw.get("modality_lut", False)
    out["has_frame_groups"] = raw.get("frame_groups", False)
    return Header(path=path, **out)
