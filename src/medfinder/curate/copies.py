"""The volumes that were kept → de-identified copies, so that a dataset can leave its archive."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from medfinder.curate.deidentify import Removed, write_volume_copy
from medfinder.curate.deidentify_dicom import deidentify_series
from medfinder.errors import ArtifactError, InputError, MedFinderError
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
    jobs: Iterable[CopyJob], workers: int
) -> Iterator[tuple[CopyJob, Removed | Refused]]:
    """Write every copy, in order; each appears whole or not at all, over what was there before.

    Yields:
        Each job, and what the headers lost; or why there is no copy.

    Args:
        workers: Processes, at least one.

    Raises:
        ArtifactError: A process was ended from outside, for memory it may be.
        OSError: The copies' folder cannot be written to, or is full.
    """
    waiting = iter(jobs)
    if workers == 1:
        for job in waiting:
            yield job, _copy(job)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for chunk in _chunks(waiting, 4 * workers):
                yield from zip(chunk, pool.map(_copy, chunk), strict=True)
        except BrokenProcessPool:
            raise ArtifactError(
                "A process that writes copies was ended from outside: there may be too little memory. "
                "Run the same command again with fewer workers (--set workers=1); it goes on."
            ) from None


def _chunks(jobs: Iterator[CopyJob], size: int) -> Iterator[list[CopyJob]]:
    while chunk := [job for _, job in zip(range(size), jobs, strict=False)]:
        yield chunk


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
