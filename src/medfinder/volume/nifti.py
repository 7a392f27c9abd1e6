"""One NIfTI file ↔ `Volume`: header by nibabel, bytes by libdeflate, no conversion to float.

A file is told by its bytes, not by its name, and only the named file is opened: ``ct.nii`` beside
``ct.nii.gz`` is never looked at. Nothing is allocated before the declared size has been held
against MAX_VOXELS and against what the compressed bytes can hold at most. Whether the voxels make
a CT is not known here.
"""

import contextlib
import math
import mmap
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.artifact import atomic_write
from medfinder.errors import InputError
from medfinder.volume.gunzip import BIG_BYTES, first_bytes, gunzip, unreadable
from medfinder.volume.volume import Volume, canonical

MAX_VOXELS = 2**30  # 512x512x4096; int16: 2 GiB
HEADER_BYTES = {348: 352, 540: 544}  # sizeof_hdr -> first byte that voxels may take
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1",
    512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_REFUSED = {1: "binary", 32: "complex", 128: "RGB colour", 1536: "float128",
            1792: "complex", 2048: "complex", 2304: "RGBA colour"}  # fmt: skip
_TO_MM = {1: 1000.0, 3: 0.001}  # xyzt_units: metre, micron; all else is millimetre


@dataclass(frozen=True)
class _Layout:
    """What a header says: where the voxels lie in the file and in the world."""

    shape: tuple[int, int, int]  # (X, Y, Z), first axis fastest
    dtype: np.dtype[Any]
    offset: int
    affine: npt.NDArray[np.float64]
    geometry_source: str
    slope: float
    intercept: float
    warnings: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_nifti(path: str | os.PathLike[str]) -> Volume:
    """Read one NIfTI-1 or NIfTI-2 file, compressed or not.

    `Volume.stored` keeps the file's integers (in native byte order) as a view in (D, H, W) order;
    an uncompressed file of native byte order stays a read-only memory map. ``scl_slope`` 0 or not
    finite means 1. The sform is preferred to the qform; ``tags["geometry_source"]`` is "sform",
    "qform" or "none". A fourth axis of length 1 is dropped.

    Raises:
        UnreadableVolume: With `rule` one of ``missing-file``, ``not-a-file``, ``unreadable``,
            ``not-nifti``, ``nifti-pair``, ``bad-header``, ``bad-dimensions``, ``not-3d``,
            ``not-scalar``, ``too-large``, ``truncated``, ``corrupt``.
        GeometryError: The orientation matrix is singular or not finite.

    Source:
        NIfTI-1.1 and NIfTI-2 headers (nifti.nimh.nih.gov); gzip as RFC 1952.
    """
    path = Path(path)
    with _open(path) as (handle, size):
        raw = _map(handle, size)
        try:
            compressed = raw[:2] == b"\x1f\x8b"
            layout = _layout(first_bytes(raw, 544) if compressed else raw[:544])
            notes = layout.warnings
            if compressed:
                buffer, note = gunzip(raw, layout.end)
                notes += note
                values = np.frombuffer(buffer, layout.dtype, math.prod(layout.shape), layout.offset)
            else:
                _check_end(layout, size)
                values = np.memmap(
                    handle,
                    layout.dtype,
                    "r",
                    layout.offset,
                    (math.prod(layout.shape),),
                )
        finally:
            raw.close()
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    elif not values.flags.aligned:  # an odd vox_offset
        values = values.copy()
    values = values.view(np.ndarray).reshape(layout.shape, order="F")
    values.setflags(write=False)
    stored, affine = canonical(values, layout.affine)
    return Volume(
        stored,
        affine,
        layout.slope,
        layout.intercept,
        series_id=path.name.removesuffix(".gz").removesuffix(".nii"),
        tags={"geometry_source": layout.geometry_source},
        warnings=notes,
    )


def write_nifti(volume: Volume, path: str | os.PathLike[str], level: int = 1) -> None:
    """Write a volume as NIfTI-1 in RAS+ order; the same volume gives the same bytes.

    The stored integers and their rescale are kept, so that `read_nifti` returns the same
    `content_hash`. Types that NIfTI does not know are widened (float16 to float32, bool to uint8).

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``; replaced whole or not at all.
        level: Of compression, 1 to 12.

    Raises:
        InputError: Another suffix, or an axis longer than NIfTI-1 can tell.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(
            f"The suffix {path.suffix!r} is not NIfTI's. Name the file .nii or .nii.gz.",
            rule="bad-suffix",
        )
    data = encode_nifti(volume, level if path.name.endswith(".gz") else 0)
    with atomic_write(path) as file:
        file.write(data)


def encode_nifti(volume: Volume, level: int = 1) -> bytes:
    """Return a volume as the bytes of a NIfTI-1 file in RAS+ order, see `write_nifti`.

    Args:
        level: Of gzip compression, 1 to 12; 0 for none.

    Raises:
        InputError: An axis is longer than NIfTI-1 can tell.
    """
    import deflate
    import nibabel

    if max(volume.shape) > 32767:
        raise InputError(
            f"An axis of {max(volume.shape)} voxels is too long for NIfTI-1 (32767). "
            "Crop the volume.",
            rule="too-large",
        )
    stored = np.ascontiguousarray(volume.stored)
    wider = {"f2": np.float32, "b1": np.uint8}.get(stored.dtype.str[1:])
    stored = stored.astype(wider or stored.dtype.newbyteorder("<"), copy=False)
    header: Any = nibabel.nifti1.Nifti1Header(endianness="<")  # type: ignore[no-untyped-call]
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(volume.shape[::-1])
    affine = volume.affine[:, [2, 1, 0, 3]]  # columns (d, h, w) -> (x, y, z)
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(volume.slope, volume.intercept)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    data: Any = b"".join((header.binaryblock, bytes(4), stored.tobytes()))
    if level:
        data = deflate.gzip_compress(data, level)  # libdeflate writes MTIME 0 and no name
    return bytes(data)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[Any, int]]:
    try:
        status = os.stat(path)  # before opening: a pipe would wait for a writer for ever
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise unreadable("not-a-file", f"it is {what}", "Name a .nii or .nii.gz.")
        if status.st_size == 0:
            raise unreadable("truncated", "it is empty", "Fetch it again.")
        with open(path, "rb") as handle:
            yield handle, status.st_size
    except FileNotFoundError:
        raise unreadable("missing-file", "there is none", "Check the path.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise unreadable("unreadable", reason, "Check its permissions and the disk.") from None


def _map(handle: Any, size: int) -> mmap.mmap:
    return mmap.mmap(handle.fileno(), size, access=mmap.ACCESS_READ)


def _layout(start: bytes) -> _Layout:
    """Read the header and check all that can be checked without the voxels."""
    import nibabel

    cls: Any = nibabel.nifti1.Nifti1Header
    length = next(
        (n for n in HEADER_BYTES for e in "<>" if start[:4] == struct.pack(e + "i", n)), 0
    )
    if not length:
        raise unreadable("not-nifti", "it does not begin with a NIfTI header", "Convert it.")
    if len(start) < length:
        raise unreadable("truncated", "it ends inside its header", "Fetch it again.")
    if length == 540:
        cls = nibabel.nifti2.Nifti2Header
    endian = "<" if start[:4] == struct.pack("<i", length) else ">"
    header = cls(start[:length], endianness=endian, check=False)
    magic = bytes(header["magic"].item())[:3].rstrip(b"\0")
    if magic in (b"ni1", b"ni2"):
        raise unreadable(
            "nifti-pair", "it is the .hdr half of a two-file NIfTI", "Convert it to one .nii."
        )
    if magic not in (b"n+1", b"n+2"):
        raise unreadable(
            "not-nifti",
            "it lacks NIfTI's magic (an ANALYZE file tells no orientation)",
            "Convert it to NIfTI.",
        )
    shape = _shape([int(n) for n in header["dim"]])
    code = int(header["datatype"])
    if code not in _DTYPES:
        raise unreadable(
            "not-scalar",
            f"its voxels are {_REFUSED.get(code, f'of unknown type {code}')}, expected integers or floats",
            "Export the series as grey values.",
        )
    dtype = np.dtype(endian + _DTYPES[code])
    offset = float(header["vox_offset"])
    first = HEADER_BYTES[length]
    if not (math.isfinite(offset) and offset == int(offset) and first <= offset <= BIG_BYTES):
        raise unreadable(
            "bad-header",
            f"vox_offset is {offset:g}, expected {first} to {BIG_BYTES}",
            "Convert it again.",
        )
    if math.prod(shape) > MAX_VOXELS:
        raise unreadable(
            "too-large",
            f"it declares {math.prod(shape)} voxels, at most {MAX_VOXELS} are read",
            "Crop or split the series.",
        )
    affine, source, notes = _affine(header)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not math.isfinite(intercept):
        intercept = 0.0
    return _Layout(shape, dtype, int(offset), affine, source, slope, intercept, notes)


def _shape(dim: list[int]) -> tuple[int, int, int]:
    n = dim[0]
    if not 2 <= n <= 7 or any(size <= 0 for size in dim[1 : min(n, 3) + 1]):
        raise unreadable(
            "bad-dimensions", f"dim is {dim}, expected 3 axes of at least 1", "Convert it again."
        )
    if any(size > 1 for size in dim[4 : n + 1]):
        raise unreadable(
            "not-3d", f"it has {n} axes of {dim[1 : n + 1]} voxels, expected 3", "Split it by time."
        )
    return dim[1], dim[2], dim[3] if n > 2 else 1


def _affine(header: Any) -> tuple[npt.NDArray[np.float64], str, tuple[str, ...]]:
    """Return the affine of (x, y, z) to RAS+ mm, where it comes from, and what is odd about it."""
    import nibabel

    notes: tuple[str, ...] = ()
    sform = qform = None
    if int(header["sform_code"]) > 0:
        sform = np.asarray(header.get_sform(), np.float64)
        if not np.isfinite(sform).all() or abs(np.linalg.det(sform[:3, :3])) < 1e-12:
            sform = None
            notes += ("The sform is singular; it is ignored.",)
    if int(header["qform_code"]) > 0:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                qform = np.asarray(header.get_qform(), np.float64)
            except (ValueError, nibabel.spatialimages.HeaderDataError):
                notes += ("The qform's quaternion is impossible; it is ignored.",)
        if qform is not None and not np.isfinite(qform).all():
            qform = None
    if sform is not None:
        affine, source = sform, "sform"
        if qform is not None and not np.allclose(sform, qform, atol=0.1):
            notes += ("sform and qform differ; the sform is used.",)
    elif qform is not None:
        affine, source = qform, "qform"
    else:  # the header tells voxel sizes only; RAS+ order is assumed, as "method 1" has it
        sizes = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
        affine, source = np.diag([*np.where(sizes > 0, sizes, 1.0), 1.0]), "none"
        notes += ("The file tells no orientation; RAS+ order is assumed.",)
    factor = _TO_MM.get(int(header["xyzt_units"]) & 7)
    if factor:
        affine = affine.copy()
        affine[:3] *= factor
        notes += ("Lengths were not in millimetres; they are converted.",)
    return affine, source, notes


def _check_end(layout: _Layout, size: int) -> None:
    if layout.end > size:
        raise unreadable(
            "truncated",
            f"it holds {size} bytes, its header declares {layout.end}",
            "Fetch it again.",
        )
