"""A path the user gives → one checked `Volume`; a folder tree → everything in it that may be one.

The two entrances of the package: `read_volume` for a single CT, `find_volumes` for bulk work.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medfinder.errors import InputError, UnknownName, UnreadableVolume
from medfinder.records import Rejection, Study
from medfinder.volume.checks import CheckConfig, check_volume
from medfinder.volume.dicom import Series, find_series, read_entry, read_series
from medfinder.volume.header import Header
from medfinder.volume.series import group_series
from medfinder.volume.tree import (
    DICOM_SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    Entry,
    is_nifti_name,
    printable,
    walk,
)
from medfinder.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class VolumeRef:
    """Where a candidate lies, as `find_volumes` found it.

    Attributes:
        path: The NIfTI file, the DICOM folder that holds all slices, or one multi-frame file.
        kind: What `path` holds.
        series_id: SeriesInstanceUID; None for NIfTI.
        item: `path` relative to the root, with "/", and "#" + series where the path holds several.
        files: The series' files, where its folder holds others too; saves `read_ref` a search.
    """

    path: Path
    kind: Literal["nifti", "dicom"]
    series_id: str | None
    item: str
    files: tuple[Path, ...] = ()


def read_volume(
    path: str | Path, *, series_id: str | None = None, config: CheckConfig | None = None
) -> Volume:
    """Read one CT and check that it is one.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file, a folder that holds a DICOM series (nested folders
            and other files beside it do not matter), or one multi-frame DICOM file.
        series_id: Which series, where the folder holds several.
        config: Limits; None for the defaults.

    Returns:
        A checked volume; see `read_series` for what is done with padding.

    Raises:
        UnreadableVolume: The file or series cannot be decoded, or its values are not HU.
        GeometryError: The slices do not make a regular stack.
        InputError: Rule ``many-series`` when several series fit, ``nothing-found`` when none does.
        UnknownName: The folder holds no series of this id.
    """
    path = Path(path)
    config = config or CheckConfig()
    if not path.exists():
        raise InputError(
            "There is no such file or folder. Check the path that was given.", rule="nothing-found"
        )
    if (
        path.is_file()
        and path.suffix.lower() in UNSUPPORTED_SUFFIXES
        and not is_nifti_name(path.name)
    ):
        raise UnreadableVolume(
            f"Files of kind {path.suffix.lower()} are not read: expected NIfTI (.nii, .nii.gz) or "
            "DICOM. Convert it, or unpack it.",
            rule="unsupported-format",
        )
    if path.is_file() and is_nifti_name(path.name):
        volume = _read_nifti(path)
    else:
        volume = read_series(_one_series(path, series_id), config)
    check_volume(volume, config)
    return volume


def read_study(study: Study, check: CheckConfig | None = None) -> Volume:
    """Read the volume of a curated study, and see that it is the one that was curated.

    Raises:
        InputError: The study has no volume (rule ``no-volume``), or another one (rule
            ``changed-volume``); where its dataset keeps no hash, no difference is seen.
        UnreadableVolume: As `read_volume`.
        GeometryError: As `read_volume`.
    """
    if not study.volume_path:
        raise InputError(
            "The study has no volume: only its report is known. Curate it with its volumes.",
            rule="no-volume",
        )
    path = Path(study.volume_path)
    # A de-identified copy holds one series, whose number was taken out.
    series_id = (study.series_id or None) if path.is_dir() else None
    volume = read_volume(path, series_id=series_id, config=check)
    if study.volume_hash and volume.content_hash != study.volume_hash:
        raise InputError(
            "The volume is not the one that was curated: its content has changed. "
            "Run 'medfinder curate' again.",
            rule="changed-volume",
        )
    return volume


def read_ref(ref: VolumeRef, config: CheckConfig | None = None) -> Volume:
    """Read what `find_volumes` found; as `read_volume`, without searching the folder again.

    Raises:
        InputError: As `read_volume`.
    """
    if not ref.files:
        return read_volume(ref.path, series_id=ref.series_id, config=config)
    config = config or CheckConfig()
    lost: list[Rejection] = []
    headers: list[tuple[str, Header]] = []
    for path in ref.files:
        header = read_entry(Entry(path, path.name, "dicom", True), lost.append)
        if header is not None and header.series_id == ref.series_id:
            headers.append((path.name, header))
    found = group_series(headers, lost.append)
    if not found:
        raise _nothing(lost)
    volume = read_series(found[0], config)
    check_volume(volume, config)
    return volume


def find_volumes(root: str | Path) -> Iterator[VolumeRef | Rejection]:
    """Walk a tree and yield every candidate volume and every object that cannot be one.

    Only headers are read; whether a candidate is a sound CT is told by `read_ref`. Each folder
    directly below `root` (or below the one folder that wraps all) is a unit: its DICOM files are grouped by series wherever in it they lie,
    and its results come as soon as it is read. The order depends on names alone.

    Passed over quietly: DICOMDIR, tables, texts, pictures, hidden files.

    Raises:
        InputError: `root` does not exist.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(
            "There is no such file or folder. Check the path that was given.", rule="nothing-found"
        )
    if root.is_file():
        root_dir, entries = root.parent, iter([_single(root)])
    else:
        root_dir, entries = root, None
    depth = _wrapping(root_dir)
    told: list[Rejection] = []
    unit: list[Entry] = []
    name: str | None = None
    for entry in entries or walk(root_dir, told.append):
        parts = entry.item.split("/")
        here = parts[depth] if len(parts) > depth + 1 else ""
        if name is not None and here != name:
            yield from _unit(root_dir, unit, told)
            unit, told[:] = [], []
        name = here
        unit.append(entry)
    yield from _unit(root_dir, unit, told)


def _wrapping(root: Path) -> int:
    """Count the folders that hold one folder and nothing else, from `root` down."""
    folder, depth = root, 0
    while depth < 32:
        try:
            names = [p for p in folder.iterdir() if not p.name.startswith(".")]
        except OSError:
            return depth
        if len(names) != 1 or not names[0].is_dir():
            return depth
        folder, depth = names[0], depth + 1
    return depth


def _single(path: Path) -> Entry:
    if is_nifti_name(path.name):
        return Entry(path, printable(path.name), "nifti")
    named = path.suffix.lower() in DICOM_SUFFIXES
    return Entry(path, printable(path.name), "dicom", named)


def _unit(
    root: Path, entries: list[Entry], told: list[Rejection]
) -> Iterator[VolumeRef | Rejection]:
    """Turn the files of one unit into candidates and rejections, sorted by item."""
    out: list[VolumeRef | Rejection] = list(told)
    lost: list[Rejection] = []
    headers: list[tuple[str, Header]] = []
    for entry in entries:
        if entry.kind == "nifti":
            out.append(VolumeRef(entry.path, "nifti", None, entry.item))
        elif (header := read_entry(entry, lost.append)) is not None:
            headers.append((entry.item, header))
    found = group_series(headers, lost.append)
    out += lost
    out += _refs(root, found)
    out.sort(key=lambda x: (x.item, isinstance(x, Rejection)))
    yield from out


def _refs(root: Path, found: list[Series]) -> list[VolumeRef]:
    places: dict[Path, list[tuple[Series, tuple[Path, ...]]]] = defaultdict(list)
    for series in found:
        files = tuple(sorted({s.path for s in series.slices}))
        multi_frame = len(files) == 1 and len(series.slices) > 1
        folder = files[0] if multi_frame else Path(os.path.commonpath([f.parent for f in files]))
        places[folder].append((series, files))
    refs = []
    for place, members in places.items():
        crowded = len(members) > 1 or any(
            other != place and other.is_relative_to(place) for other in places
        )
        for series, files in members:
            item = printable(place.relative_to(root).as_posix())
            item += f"#{series.series_id}" if len(members) > 1 else ""
            kept = files if crowded and files != (place,) else ()
            refs.append(VolumeRef(place, "dicom", series.series_id, item, kept))
    return refs


def _read_nifti(path: Path) -> Volume:
    from medfinder.volume.nifti import read_nifti

    return read_nifti(path)


def _one_series(path: Path, series_id: str | None) -> Series:
    lost: list[Rejection] = []
    found = find_series(path, lost.append, series_id)
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{s.series_id} ({len(s.slices)} slices)" for s in found[:8])
        raise InputError(
            f"The folder holds {len(found)} CT series, expected one: {ids}"
            f"{', ...' if len(found) > 8 else ''}. Choose one by its series_id.",
            rule="many-series",
        )
    if series_id is not None:
        known = [s.series_id for s in find_series(path)]
        if known:
            raise UnknownName(
                f"The folder holds no CT series {series_id!r}; it holds {', '.join(known[:8])}.",
                rule="unknown-series",
            )
    raise _nothing(lost)


def _nothing(lost: list[Rejection]) -> InputError:
    """Return the error for a place without a usable series, with the first reason there is."""
    if not lost:
        return InputError(
            "No CT was found: expected a NIfTI file or DICOM slices. Check the path.",
            rule="nothing-found",
        )
    return UnreadableVolume(
        f"No CT series was found. {len(lost)} object(s) were left out, the first because: "
        f"{lost[0].reason}",
        rule=lost[0].rule,
    )
