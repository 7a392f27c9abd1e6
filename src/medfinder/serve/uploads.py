"""An uploaded file → a folder that a volume can be read from, always deleted afterwards.

What it is, is told by its first bytes, never by its name. An archive's names are never used as
paths. Knows nothing of CT values: `medfinder.volume.read` judges those.
"""

import contextlib
import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from medfinder.errors import UnreadableVolume
from medfinder.serve.faults import Refusal

PREFIX = "medfinder-upload-"
MAX_MEMBERS = 20_000
MAX_RATIO = 300
"""Expanded to packed size of a whole archive; CT slices stay below 20, bombs reach 1,000."""
_FREE_BYTES = 64 * 2**20  # below this, a high ratio harms nobody: phantoms and blank slices
_BLOCK = 2**20
_HEAD_BYTES = 2**16  # within which the reader, too, expects a compressed file's header
_NIFTI_BYTES = 128  # of that header: beyond the sizes and the type of a voxel
_FORMATS = "Send a NIfTI file (.nii or .nii.gz), a DICOM file, or a zip of one DICOM series."


@contextlib.contextmanager
def unpacked(file: BinaryIO, max_expanded_bytes: int) -> Iterator[Path]:
    """Give the path of an uploaded volume; everything is deleted on leaving.

    Args:
        file: The upload, seekable, at its beginning.
        max_expanded_bytes: Bound on what is written to disk, and on what a compressed NIfTI file
            declares to become in memory.

    Yields:
        A NIfTI or DICOM file, or a folder of files from an archive.

    Raises:
        Refusal: 413 for what expands too far, 415 for what is neither NIfTI, DICOM nor zip,
            422 for an archive that climbs out, is encrypted, broken or empty.
    """
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as name:
        folder = Path(name)
        kind = sniff(file)
        if kind == "zip":
            target = folder / "series"
            target.mkdir()
            _extract(file, target, max_expanded_bytes)
            files = sorted(target.iterdir())
            if len(files) > 1:
                yield target
                return
            _check_declared(files[0], max_expanded_bytes)
            yield files[0]
            return
        path = folder / f"upload{kind}"
        with path.open("wb") as out:
            shutil.copyfileobj(file, out, _BLOCK)
        _check_declared(path, max_expanded_bytes)
        yield path


def sniff(file: BinaryIO) -> str:
    """Tell ``.nii``, ``.nii.gz``, ``.dcm`` or ``zip`` from the first bytes.

    Raises:
        Refusal: 415 for anything else.
    """
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if not head:
        raise Refusal(422, "InputError", "The uploaded file is empty.", _FORMATS)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[:2] == b"\x1f\x8b":
        if _is_nifti(_gunzipped(head)):
            return ".nii.gz"
    elif _is_nifti(head):
        return ".nii"
    elif head[128:132] == b"DICM":
        return ".dcm"
    raise Refusal(
        415,
        "UnreadableVolume",
        "The upload is not a CT: expected NIfTI, DICOM or a zip of DICOM files.",
        _FORMATS,
    )


def remove_leftovers() -> int:
    """Delete what a killed service left in the temporary folder; return how many uploads."""
    n = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
            n += 1
    return n


def _extract(file: BinaryIO, target: Path, max_bytes: int) -> None:
    """Write an archive's files to `target` under numbers in the order of their names."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = _checked(archive, max_bytes)
            left = max_bytes
            for i, member in enumerate(members):
                name = member.filename.lower()
                suffix = next((s for s in (".nii.gz", ".nii") if name.endswith(s)), ".dcm")
                with (
                    archive.open(member) as source,
                    (target / f"{i:06d}{suffix}").open("wb") as out,
                ):
                    while block := source.read(_BLOCK):
                        left -= len(block)
                        if left < 0:  # the directory lied about sizes
                            raise _too_large(max_bytes)
                        out.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk is our trouble
            raise
        raise UnreadableVolume(
            "The archive is broken or cut short: expected a whole zip file. Make it again.",
            rule="bad-archive",
        ) from None


def _checked(archive: zipfile.ZipFile, max_bytes: int) -> list[zipfile.ZipInfo]:
    """Return the members that are files, or refuse the archive before a byte is written."""
    members = [m for m in archive.infolist() if not m.filename.endswith("/")]
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]) or is_link:
            raise Refusal(
                422,
                "InputError",
                "The archive names a file outside of itself: expected plain relative names.",
                "Zip the folder of the series itself, without links.",
            )
        if member.flag_bits & 1:
            raise Refusal(
                422,
                "InputError",
                "The archive is encrypted: expected a zip without a password.",
                "Make it again without a password.",
            )
    members = [m for m in members if _is_wanted(PurePosixPath(m.filename))]
    if not members:
        raise Refusal(422, "UnreadableVolume", "The archive holds no file.", _FORMATS)
    if len(members) > MAX_MEMBERS:
        raise Refusal(
            413,
            "InputError",
            f"The archive holds {len(members)} files: expected at most {MAX_MEMBERS}.",
            "Send one series.",
        )
    expanded = sum(m.file_size for m in members)
    packed = sum(m.compress_size for m in members)
    if expanded > max_bytes or (expanded > _FREE_BYTES and expanded > MAX_RATIO * max(packed, 1)):
        raise _too_large(max_bytes)
    return sorted(members, key=lambda m: m.filename)


def _is_wanted(path: PurePosixPath) -> bool:
    """Leave out what operating systems add to archives."""
    return "__MACOSX" not in path.parts and not path.name.startswith(".")


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(
        413,
        "InputError",
        f"The upload expands too far: expected at most {max_bytes / 2**20:.0f} MiB, and no more "
        f"than {MAX_RATIO} times its own size.",
        "Send one series, as the scanner made it.",
    )


def _check_declared(path: Path, max_bytes: int) -> None:
    """Refuse a compressed NIfTI file whose header declares more bytes than may be expanded.

    The reader expands no more than what is declared; what else is odd, it tells itself.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    header = _gunzipped(head) if head[:2] == b"\x1f\x8b" else b""
    if len(header) < _NIFTI_BYTES or not _is_nifti(header):
        return
    from nibabel.nifti1 import data_type_codes

    order = "<" if header[0] else ">"
    if 0x1C in header[:4]:  # NIfTI-2
        code, *sizes = struct.unpack_from(f"{order}12x h 2x 8x 3q", header)
    else:
        *sizes, code = struct.unpack_from(f"{order}42x 3h 22x h", header)
    if code in data_type_codes and min(sizes) > 0:
        voxel: Any = data_type_codes.dtype[code]
        if math.prod(sizes) * voxel.itemsize > max_bytes:
            raise _too_large(max_bytes)


def _gunzipped(head: bytes) -> bytes:
    """Return the first bytes of a gzip stream; none where it is broken."""
    try:
        return zlib.decompressobj(31).decompress(head, _NIFTI_BYTES)
    except zlib.error:
        return b""


def _is_nifti(head: bytes) -> bool:
    return head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
