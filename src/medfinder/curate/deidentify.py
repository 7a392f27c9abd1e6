"""What leaves a hospital: dates moved, ages capped, volumes written without their headers' words.

The smaller parts of de-identification, and the sum of what all parts removed. Text is the work of
`medfinder.curate.deidentify_text`, DICOM of `medfinder.curate.deidentify_dicom`, numbers of
patients and studies of `medfinder.curate.pseudonym`.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from medfinder.curate.deidentify_numbers import OLDEST_AGE
from medfinder.errors import InputError
from medfinder.volume.nifti import write_nifti
from medfinder.volume.volume import Volume

MAX_SHIFT_DAYS = 5 * 365
"""Dates are moved back by at least one day and by at most this many."""


@dataclass(frozen=True, slots=True)
class Removed:
    """How much was removed or replaced, by kind; sums of it go into a manifest.

    Attributes:
        counts: Kind, such as ``"name"`` or ``"private"``, → how often.
    """

    counts: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(dict(Counter(self.counts) + Counter(other.counts)))

    def to_dict(self, prefix: str = "removed_") -> dict[str, int]:
        """Return ``{"removed_date": 249, ...}``, sorted, fit for a manifest's counts."""
        return {f"{prefix}{kind}": n for kind, n in sorted(self.counts.items())}


def shift_days(patient: str, key: str) -> int:
    """Return by how many days this patient's dates are moved back, 1 to `MAX_SHIFT_DAYS`.

    One number a patient, so that the time between a patient's studies stays as it was.

    Args:
        patient: The raw number of the patient, as `pseudonym` takes it.
        key: Secret of the site; whoever has it can move the dates forward again.

    Source:
        DICOM PS3.15 E.3.6, Retain Longitudinal Temporal Information with Modified Dates.
    """
    digest = hashlib.blake2b(
        f"days\0{patient.strip()}".encode("utf-8", "surrogatepass"),
        digest_size=8,
        key=key.encode()[:64],
    )
    return 1 + int.from_bytes(digest.digest(), "big") % MAX_SHIFT_DAYS


def shift_date(iso: str, days: int) -> str:
    """Return the ISO date that lies `days` before an ISO date ``YYYY-MM-DD``.

    Raises:
        InputError: It is no such date, or the day before it has no number of its own.
    """
    try:
        return (date.fromisoformat(iso) - timedelta(days=days)).isoformat()
    except (ValueError, OverflowError):
        raise InputError(
            f"A date cannot be moved by {days} days: expected YYYY-MM-DD after the year 1. "
            "Leave the date out, or write it so."
        ) from None


def cap_age(age: int | None) -> int | None:
    """Return an age in years, with everything above 89 made 90."""
    return None if age is None else min(age, OLDEST_AGE + 1)


def write_volume_copy(volume: Volume, path: str | Path) -> None:
    """Write voxels and geometry as NIfTI and nothing of the file that they came from.

    The header is made anew: its description, file names and extensions are empty, and a compressed
    file holds no name and no time.

    Raises:
        InputError: As `medfinder.volume.nifti.write_nifti`.
    """
    write_nifti(volume, path)
