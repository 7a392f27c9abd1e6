"""A folder tree → the files in it that may hold voxels, in one fixed order.

An index that lies in the tree is passed over. Names decide what is worth opening; contents decide the rest, elsewhere. Symbolic links are
followed, each real folder once, so that loops end.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medfinder.records import Rejection

#: Names that are never voxels and are passed over without a word.
# fmt: off
QUIET_SUFFIXES = frozenset((
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".xml", ".html", ".htm",
    ".css", ".js", ".py", ".ipynb", ".sh", ".log", ".yaml", ".yml", ".toml", ".ini", ".cfg",
    ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".parquet", ".png", ".jpg", ".jpeg",
    ".gif", ".svg", ".bmp", ".tif", ".tiff", ".webp", ".mp4", ".exe", ".dll", ".inf",
    ".bat", ".lnk", ".db", ".ico", ".tmp", ".bak", ".lock", ".sha256", ".md5", ".part",
    ".bval", ".bvec",
))
# fmt: on
#: Voxels or archives of a kind that is not read; told, so that nobody wonders.
# fmt: off
UNSUPPORTED_SUFFIXES = frozenset((
    ".mha", ".mhd", ".raw", ".nrrd", ".nhdr", ".hdr", ".img", ".npy", ".npz", ".mgz",
    ".mgh", ".h5", ".hdf5", ".zip", ".tar", ".gz", ".tgz", ".7z", ".rar",
))
# fmt: on
DICOM_SUFFIXES = frozenset((".dcm", ".dicom", ".ima", ".dic"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One file worth opening.

    Attributes:
        path: The file.
        item: Its path relative to the root that was walked, with "/".
        kind: What its name makes of it; "dicom" also for names that say nothing.
        named_dicom: The name claims to be DICOM, so that other contents are an error.
    """

    path: Path
    item: str
    kind: Literal["nifti", "dicom"]
    named_dicom: bool = False


def walk(root: Path, on_skip: Callable[[Rejection], None]) -> Iterator[Entry]:
    """Yield the files under `root` that may hold voxels, folders and names in sorted order.

    Args:
        root: A folder.
        on_skip: Told of folders that cannot be listed, of links that lead nowhere and of formats
            that are not read.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(str(root), "")]  # a stack of our own: a tree may be deeper than Python recurses
    while waiting:
        folder, prefix = waiting.pop()
        below: list[tuple[str, str]] = []
        yield from _files(folder, prefix, on_skip, seen, below)
        waiting += reversed(below)


def _files(
    folder: str,
    prefix: str,
    on_skip: Callable[[Rejection], None],
    seen: set[tuple[int, int]],
    below: list[tuple[str, str]],
) -> Iterator[Entry]:
    """Yield the files of one folder and add the folders in it to `below`."""
    try:
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            return
        seen.add((stat.st_dev, stat.st_ino))
        with os.scandir(folder) as listing:
            found = sorted(listing, key=lambda e: e.name)
    except OSError as error:
        reason = f"The folder cannot be listed: {error.strerror}. Check its permissions."
        on_skip(Rejection(printable(prefix).rstrip("/") or ".", "unreadable", reason))
        return
    if {"streams.json", "table"} <= {e.name for e in found}:
        return  # an index of our own that lies in the archive
    for entry in found:
        name = entry.name
        if name.startswith(".") or name == "__MACOSX":
            continue
        try:
            if entry.is_dir():
                below.append((entry.path, prefix + entry.name + "/"))
                continue
            regular = entry.is_file()
        except OSError:
            regular = False
        kind = _kind(name)
        if kind == "quiet":
            continue
        item = printable(prefix + name)
        if not regular:
            if entry.is_symlink():
                reason = "The link leads to no file. Restore its target, or remove it."
                on_skip(Rejection(item, "unreadable", reason))
            elif kind != "unknown":
                reason = "It is no regular file but a pipe, socket or device. Remove it."
                on_skip(Rejection(item, "unreadable", reason))
            continue  # pipes and devices would block
        if kind == "unsupported":
            suffix = os.path.splitext(name)[1].lower()
            reason = f"Files of kind {suffix} are not read. Convert to NIfTI or DICOM, or unpack."
            on_skip(Rejection(item, "unsupported-format", reason))
        elif kind == "nifti":
            yield Entry(Path(entry.path), item, "nifti")
        else:
            yield Entry(Path(entry.path), item, "dicom", kind == "named")


def printable(name: str) -> str:
    """Return a path as text that can be stored, where the file system allows any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_nifti_name(name: str) -> bool:
    """Whether a file is NIfTI by its name."""
    return name.lower().endswith((".nii", ".nii.gz"))


def _kind(name: str) -> Literal["quiet", "unsupported", "nifti", "named", "unknown"]:
    low = name.lower()
    if is_nifti_name(low):
        return "nifti"
    suffix = os.path.splitext(low)[1]
    if suffix in QUIET_SUFFIXES or low == "dicomdir":
        return "quiet"
    if suffix in UNSUPPORTED_SUFFIXES:
        return "unsupported"
    return "named" if suffix in DICOM_SUFFIXES else "unknown"


def is_binary(path: Path) -> bool:
    """Whether a file's beginning is no text; empty files and those that cannot be read are not."""
    try:
        with open(path, "rb") as file:
            return b"\0" in file.read(1024)
    except OSError:
        return False
