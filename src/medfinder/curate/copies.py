"""The volumes that were kept → de-identified copies, so that a dataset can leave its archive."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medfinder.curate.deidentify import Removed, write_volume_copy
from medfinder.curate.deidentify_dicom import deidentify_series
from medfinder.errors import InputError, MedFinderError
from medfinder.scale.engine import Engine, Failure, Step
from medfinder.volume.checks import CheckConfig
from medfinder.volume.read import VolumeRef, read_ref

CopyFormat = Literal["none", "nifti", "dicom"]


@dataclass(frozen=True, slots=True)
class CopyJob:
    """One volume to copy.

    Attributes:
        ref: Where it lies.
        folder: Of the copies.
        format: A DICOM series can stay one; whatever came as NIfTI is written as NIfTI.
        study_id: Of the copy, fit for a file name.
        patient_id: Of the copy.
        key: Site secret that UIDs are derived with.
        days: By which dates are shifted.
        check: As the volume was read.
        volume_hash: Of the volume that was read; another is not written in its name.
    """

    ref: VolumeRef
    folder: Path
    format: CopyFormat
    study_id: str
    patient_id: str
    key: str
    days: int
    check: CheckConfig
    volume_hash: str

    @property
    def target(self) -> Path:
        """Where the copy is: a ``.nii.gz`` file, or a folder of slices."""
        is_series = self.format == "dicom" and self.ref.kind == "dicom"
        return self.folder / (self.study_id if is_series else f"{self.study_id}.nii.gz")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a volume could not be copied.

    Attributes:
        rule: As of a rejection.
        reason: One sentence.
    """

    rule: str
    reason: str


def copy_volumes(
    jobs: Iterable[CopyJob], engine: Engine
) -> Iterator[tuple[CopyJob, Removed | Refused]]:
    """Write every copy, in order; each appears whole or not at all, over what was there before.

    Yields:
        Each job, and what the headers lost; or why there is no copy.

    Args:
        engine: Who writes them.

    Raises:
        OSError: The copies' folder cannot be written to, or is full.
    """
    with contextlib.closing(engine.map(jobs, [Step(_copier)])) as stream:
        for job, removed in stream:
            if not isinstance(removed, Failure):
                yield job, removed
            elif isinstance(removed.error, OSError):
                raise removed.error
            else:
                yield job, Refused(removed.rule, removed.reason)


def _copier() -> Callable[[CopyJob], Removed | Refused]:
    return _copy


def _copy(job: CopyJob) -> Removed | Refused:
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        return _written(job)
    except MedFinderError as error:
        return Refused(getattr(error, "rule", "unreadable"), str(error))


def _written(job: CopyJob) -> Removed:
    if job.target.suffix == ".gz":
        volume = read_ref(job.ref, job.check)
        if volume.content_hash != job.volume_hash:
            raise InputError(
                "The volume changed while the archive was curated. Run again when it is whole.",
                rule="changed-meanwhile",
            )
        write_volume_copy(volume, job.target)
        return Removed()
    files = list(job.ref.files)
    if not files:
        path = job.ref.path
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return deidentify_series(
        files,
        job.target,
        patient_id=job.patient_id,
        study_id=job.study_id,
        key=job.key,
        days=job.days,
    )
