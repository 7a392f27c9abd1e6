"""A folder of DICOM files → series → `Volume`.

What a series is and how its slices lie is decided in `series`, the bytes are read in `header` and
`pixels`; this module walks the files and puts the parts together.
"""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from medfinder.errors import GeometryError, UnreadableVolume
from medfinder.records import Rejection
from medfinder.volume.checks import CheckConfig
from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.header import Header, read_header
from medfinder.volume.pixels import load_pixels, read_pixels
from medfinder.volume.series import OnSkip, Series, Stack, group_series, stack
from medfinder.volume.tree import Entry, is_binary, walk
from medfinder.volume.volume import Volume, canonical

__all__ = ["Series", "find_series", "read_series", "write_dicom_series"]


def find_series(
    folder_or_file: str | Path, on_skip: OnSkip | None = None, series_id: str | None = None
) -> list[Series]:
    """Find the CT series in a folder, nested folders included, or in one file.

    Files of other kinds are passed over. Slices are grouped by SeriesInstanceUID wherever in the
    folder they lie.

    Args:
        folder_or_file: Where to look.
        on_skip: Told of every DICOM object that is left out and of every broken file; its `item`
            is relative to the folder.
        series_id: Keep only this series; others are neither returned nor reported.

    Returns:
        Sorted by SeriesInstanceUID; whether a series makes a volume is told by `read_series`.

    Raises:
        UnreadableVolume: A single file that is not DICOM.
    """
    root = Path(folder_or_file)
    tell: OnSkip = on_skip or (lambda _: None)
    if root.is_file():
        return group_series([(root.name, read_header(root))], tell)

    def headers() -> Iterator[tuple[str, Header]]:
        for entry in walk(root, tell):
            header = read_entry(entry, tell)
            if header is not None and series_id in (None, header.series_id):
                yield entry.item, header

    return group_series(headers(), tell)


def read_entry(entry: Entry, on_skip: OnSkip) -> Header | None:
    """Read a walked file's header if it is DICOM; tell of those that ought to be but are not."""
    if entry.kind != "dicom":
        return None
    try:
        return read_header(entry.path)
    except UnreadableVolume as error:
        looks_like_data = entry.named_dicom or is_binary(entry.path)
        if error.rule == "unreadable" or looks_like_data:
            on_skip(Rejection(entry.item, error.rule, str(error)))
        return None


def read_series(series: Series, config: CheckConfig | None = None) -> Volume:
    """Read a series into a volume.

    Stored values are kept, so that HU equal those of any other conforming reader: padding outside
    the field of view (PixelPaddingValue -2000, -3024 and the like) stays as low as it is. It lies
    below every HU window, whose lower edge is at -1024 or above, so preprocessing turns it into
    air. MONOCHROME1 changes how values are displayed, not what they are.

    Slices with the same position and the same pixels are read once.

    Args:
        series: From `find_series`.
        config: Limits; None for the defaults.

    Raises:
        GeometryError: Rules of `stack`, ``duplicate-slices`` and ``4d``.
        UnreadableVolume: Rules of `load_pixels`.
    """
    config = config or CheckConfig()
    arranged = stack(series.slices, config)
    slices, notes = _without_copies(arranged)
    stored, slope, intercept = load_pixels(slices, config)
    view, affine = canonical(stored, arranged.affine)
    notes = [*arranged.warnings, *notes]
    notes += [f"{n} object(s) of the series were left out: {rule}." for rule, n in series.left_out]
    if slices[0].photometric == "MONOCHROME1":
        notes.append("The series is marked MONOCHROME1 (shown inverted); values are unchanged.")
    if stored.dtype == np.float32:
        notes.append("The rescale differs between slices; HU were computed slice by slice.")
    return Volume(
        stored=view,
        affine=affine,
        slope=slope,
        intercept=intercept,
        series_id=series.series_id,
        tags=_tags(slices[0]),
        warnings=tuple(notes),
    )


def _without_copies(arranged: Stack) -> tuple[list[Header], list[str]]:
    """Keep one slice a position; refuse where slices at one position differ."""
    slices = [arranged.slices[group[0]] for group in arranged.groups]
    n_extra = len(arranged.slices) - len(slices)
    if n_extra == 0:
        return slices, []
    for group in arranged.groups:
        first = arranged.slices[group[0]]
        for other in (arranged.slices[i] for i in group[1:]):
            if not _same_hu(first, other):
                _refuse_repeats(arranged)
    return slices, [f"{n_extra} identical copies of slices were dropped."]


def _same_hu(a: Header, b: Header) -> bool:
    if (a.slope, a.intercept) != (b.slope, b.intercept):
        return False
    return bool(np.array_equal(read_pixels(a), read_pixels(b)))


def _refuse_repeats(arranged: Stack) -> None:
    counts = {len(group) for group in arranged.groups}
    if len(counts) == 1:
        n = counts.pop()
        raise GeometryError(
            f"The series is 4D: every one of its {len(arranged.groups)} positions occurs {n} times "
            "with different pixels (time points or reconstructions); expected once. Split it.",
            rule="4d",
        )
    n_repeated = sum(len(group) > 1 for group in arranged.groups)
    raise GeometryError(
        f"Duplicate slices: {n_repeated} of {len(arranged.groups)} positions occur more than once "
        "with different pixels; expected once. Fetch the series again, or split it.",
        rule="duplicate-slices",
    )


def _tags(header: Header) -> dict[str, Any]:
    """Return what the header tells, absent keys where it does not."""
    study_date = _date(header.study_date)
    found: dict[str, Any] = {
        "patient_id": header.patient_id,
        "study_id": header.study_id,
        "sex": header.sex if header.sex in ("F", "M") else None,
        "age": _age(header.age, _date(header.birth_date), study_date),
        "study_date": study_date.isoformat() if study_date else None,
        "manufacturer": header.manufacturer,
        "body_part": header.body_part,
        "kernel": header.kernel,
        "modality": header.modality,
        "geometry_source": "dicom",
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


def _date(text: str) -> date | None:
    match = re.fullmatch(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})", text)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def _age(text: str, born: date | None, studied: date | None) -> int | None:
    """Return whole years from an age string (``053Y``, ``018M``), or from the two dates."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text)
    if match:
        per_year = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2]]
        return int(int(match[1]) / per_year)
    if born and studied and born < studied:  # equal dates are a placeholder
        years = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
        return years if years < 130 else None
    return None
