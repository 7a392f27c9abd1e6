"""A sound CT → the broken, doubled and rewritten files that archives hold.

`TREATMENTS` change voxels or geometry before the file is written, `DAMAGE` its bytes after. Each
is named by what the file then is; the same file gives the same result.
"""

import gzip
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.artifact import atomic_write
from medfinder.volume.volume import Volume

_DESCRIP, _PIXDIM, _QFORM = 148, 76, 252  # offsets in a NIfTI-1 header, in bytes
_MAX_THICK_MM = 15.0
_BODY_MATRIX = 128  # in-plane matrix from which spacing 1 x 1 x 1 mm cannot be a body's


def _few_slices(volume: Volume) -> Volume:
    middle = volume.shape[0] // 2
    return replace(volume, stored=volume.stored[middle - 3 : middle + 3])


def _offset(volume: Volume) -> Volume:
    """Store what scanners store, and lose the intercept."""
    return replace(volume, stored=np.clip(volume.stored, -1024, 3071) + np.int16(1024))


def _windowed(volume: Volume) -> Volume:
    """Keep 256 grey values of the window -160 to 240 HU."""
    grey = (np.clip(volume.stored.astype(np.float32), -160, 240) + 160) * (255 / 400)
    return replace(volume, stored=np.rint(grey).astype(np.uint8))


def _wide(volume: Volume) -> Volume:
    """Repeat voxels in plane, to a matrix as clinical ones are."""
    times = -(-_BODY_MATRIX // min(volume.shape[1:]))
    return replace(volume, stored=volume.stored.repeat(times, 1).repeat(times, 2))


def _shrunk(volume: Volume) -> Volume:
    """Tell metres where millimetres are meant."""
    affine = volume.affine.copy()
    affine[:3] *= 0.001
    return replace(volume, affine=affine)


def _noise(volume: Volume) -> Volume:
    rng = np.random.default_rng([volume.stored.size, 0x0153])
    noise = np.rint(rng.normal(0, 3, volume.shape)).astype(np.int16)
    return replace(volume, stored=volume.stored + noise)


def _shifted(volume: Volume) -> Volume:
    return replace(volume, stored=volume.stored + np.int16(4))


def _thick(volume: Volume) -> Volume:
    """Average pairs of slices: the same scan, reconstructed twice as thick.

    Where that would put slices further apart than a CT's are, the pairs overlap: one slice fewer.
    """
    stored = volume.stored.astype(np.int32)
    pairs = (stored[:-1] + stored[1:]) // 2
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 0] / 2
    if volume.spacing_mm[0] <= _MAX_THICK_MM / 2:
        pairs = pairs[::2]
        affine[:3, 0] *= 2
    return replace(volume, stored=pairs.astype(np.int16), affine=affine)


def _sharp(volume: Volume) -> Volume:
    """Sharpen in plane: the same scan with a lung kernel."""
    hu: npt.NDArray[np.float32] = volume.stored.astype(np.float32)
    soft = (np.roll(hu, 1, 1) + np.roll(hu, -1, 1) + np.roll(hu, 1, 2) + np.roll(hu, -1, 2)) / 4
    sharp = np.clip(np.rint(hu + 0.8 * (hu - soft)), -1024, 3071)
    return replace(volume, stored=sharp.astype(np.int16))


TREATMENTS: Mapping[str, Callable[[Volume], Volume]] = {
    "few-slices": _few_slices,
    "offset": _offset,
    "windowed": _windowed,
    "blank": _wide,
    "shrunk": _shrunk,
    "noise": _noise,
    "shifted": _shifted,
    "thick": _thick,
    "sharp": _sharp,
}


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10]


def _web_page(data: bytes) -> bytes:
    """Put in its place what a download that asks for a login leaves behind."""
    return b"<!DOCTYPE html><html><body><h1>403 Forbidden</h1></body></html>\n"


def _blank(data: bytes) -> bytes:
    """Forget spacing and orientation."""
    raw = bytearray(gzip.decompress(data))
    raw[_PIXDIM : _PIXDIM + 32] = struct.pack("<8f", *[1.0] * 8)
    raw[_QFORM : _QFORM + 76] = bytes(76)  # both codes, the quaternion and the rows
    return _compress(bytes(raw))


DAMAGE: Mapping[str, Callable[[bytes], bytes]] = {
    "truncated": _cut,
    "web-page": _web_page,
    "blank": _blank,
}


def write_treated(volume: Volume, path: Path, treatment: str = "", descrip: str = "") -> None:
    """Write a volume as the NIfTI file that `treatment` leaves; whole or not at all.

    Args:
        treatment: A key of `TREATMENTS` or `DAMAGE`; "" for a sound file.
        descrip: For the header's free text, up to 79 bytes.
    """
    from medfinder.volume.nifti import write_nifti

    if treatment in TREATMENTS:
        volume = TREATMENTS[treatment](volume)
    if treatment not in DAMAGE and not descrip:
        write_nifti(volume, path)
        return
    aside = path.with_name(f".{path.name}.whole.nii.gz")
    write_nifti(volume, aside)
    data = aside.read_bytes()
    aside.unlink()
    if descrip:
        raw = bytearray(gzip.decompress(data))
        raw[_DESCRIP : _DESCRIP + 80] = descrip.encode("ascii", "replace")[:79].ljust(80, b"\0")
        data = _compress(bytes(raw))
    if treatment in DAMAGE:
        data = DAMAGE[treatment](data)
    with atomic_write(path) as file:
        file.write(data)


def write_radiograph(path: Path, seed: int) -> None:
    """Write a small grey picture, as a tree of CTs and radiographs holds beside them."""
    from PIL import Image

    rng = np.random.default_rng([seed, 0xC4])
    y, x = np.mgrid[-1:1:64j, -1:1:56j]
    field: Any = 210 * np.exp(-(x**2)) - 90 * (np.abs(np.abs(x) - 0.45) < 0.25) * (np.abs(y) < 0.7)
    grey = np.clip(field + rng.normal(0, 6, field.shape), 0, 255).astype(np.uint8)
    with atomic_write(path) as file:
        Image.fromarray(grey).save(file, format="PNG")


def _compress(data: bytes) -> bytes:
    import deflate

    return bytes(deflate.gzip_compress(data, 1))
