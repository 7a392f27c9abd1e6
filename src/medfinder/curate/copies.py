"""The volumes that were kept → de-identified copies, so that a dataset can leave its archive."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from medfinder.curate.deidentify import Removed, write_volume_copy
from medfinder.curate.deidentify_dicom import deidentify_series
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
    """

    ref: VolumeRef
    folder: Path
    format: CopyFormat
    study_id: str
    patient_id: str
    key: str
    days: int
    check: CheckConfig

    @property
    def target(self) -> Path:
        """Where the copy is: a ``.nii.gz`` file, or a folder of slices."""
        is_series = self.format == "dicom" and self.ref.kind == "dicom"
        return self.folder / (self.study_id if is_series else f"{self.study_id}.nii.gz")


def copy_volumes(jobs: Iterable[CopyJob], workers: int) -> Iterator[tuple[str, Removed]]:
    """Write every copy that is not there; each appears whole or not at all.

    Yields:
        study_id of each copy that was written, and what its headers lost.

    Args:
        workers: Processes, at least one.

    Raises:
        InputError: A volume that was read before cannot be read or written now.
    """
    todo = (job for job in jobs if not job.target.exists())
    if workers == 1:
        yield from map(_copy, todo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for chunk in _chunks(todo, 4 * workers):
            yield from pool.map(_copy, chunk)


def _chunks(jobs: Iterator[CopyJob], size: int) -> Iterator[list[CopyJob]]:
    while chunk := [job for _, job in zip(range(size), jobs, strict=False)]:
        yield chunk


def _copy(job: CopyJob) -> tuple[str, Removed]:
    job.folder.mkdir(parents=True, exist_ok=True)
    if job.target.suffix == ".gz":
        write_volume_copy(read_ref(job.ref, job.check), job.target)
        return job.study_id, Removed()
    files = list(job.ref.files)
    if not files:
        path = job.ref.path
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    removed = deidentify_series(
        files,
        job.target,
        patient_id=job.patient_id,
        study_id=job.study_id,
        key=job.key,
        days=job.days,
    )
    return job.study_id, removed
