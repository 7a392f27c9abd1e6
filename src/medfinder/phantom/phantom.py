"""Phantoms as a folder: volumes, ``studies.csv`` and ``truth.jsonl``; resumable, the same bytes whoever draws.

A study whose volume is complete is not drawn again, because a volume's file appears whole or not
at all. The tables are written last, from the seeds alone.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from medfinder.artifact import atomic_write
from medfinder.config import config_hash, to_dict
from medfinder.errors import ConfigError, InputError, Mismatch
from medfinder.phantom.acquisition import sample_acquisition
from medfinder.phantom.allocator import keep_freed_memory
from medfinder.phantom.case import CaseSpec, sample_case
from medfinder.phantom.chest import Phantom, PhantomConfig, make_phantom, render, voxel_edge_mm
from medfinder.phantom.wording import word
from medfinder.records import Language, Split
from medfinder.scale.engine import Engine, Failure, Step
from medfinder.scale.here import Here
from medfinder.scale.processes import Processes, n_cores
from medfinder.volume.volume import Volume

COLUMNS = (
    "file",
    "patient_id",
    "study_id",
    "sex",
    "age",
    "study_date",
    "manufacturer",
    "body_part",
    "language",
    "split",
    "text",
)

ReportLanguage = Literal["en", "es", "mixed"]
Progress = Callable[[int, int], None]


def write_phantoms(
    folder: str | Path,
    n: int,
    seed: int = 1,
    *,
    config: PhantomConfig | None = None,
    size: tuple[int, int, int] | None = None,
    dicom: bool = False,
    masks: bool = False,
    language: ReportLanguage = "en",
    p_second_study: float = 0.2,
    split_by: Literal["patient", "none"] = "patient",
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write `n` phantom studies with their reports and their truth.

    ``volumes/<study_id>.nii.gz`` or ``dicom/<study_id>/*.dcm``; ``masks/<study_id>.nii.gz`` where
    asked for (0, or 1 + index in ``findings``); ``studies.csv``; ``truth.jsonl``, one line a study:
    ``{"file", "study_id", "seed", "case", "acquisition", "mask"}``.

    Args:
        folder: Made where absent; a study already there is kept when it was made by the same
            settings.
        seed: Study i is the phantom of ``seed * 1_000_000 + i``: a larger `n` only adds.
        size: Shorthand for ``config.size``.
        language: Of the reports; ``"mixed"`` draws one for each study.
        p_second_study: Chance that a study is of the patient before it: same build, new findings.
        split_by: ``"patient"`` fills the column ``split``, about 70 / 10 / 20 %; ``"none"`` leaves
            it empty.
        workers: Processes, 0 for one a core; the bytes do not depend on it.
        progress: Called with (done, n) after each study.

    Returns:
        The path of ``studies.csv``.

    Raises:
        ConfigError: `n`, `seed` or `workers` is out of range.
        InputError: `folder` is a file.
        Mismatch: The folder holds phantoms of other settings.
    """
    if n < 1 or n > 1_000_000 or seed < 0 or workers < 0:
        raise ConfigError(
            f"Phantoms need 1 <= n <= 1000000, seed >= 0 and workers >= 0, got n={n}, seed={seed}, "
            f"workers={workers}.",
            rule="phantom",
        )
    config = config or PhantomConfig()
    if size is not None:
        config = replace(config, size=size)
    folder = Path(folder)
    drawn = replace(config, wording=type(config.wording)())  # another wording: only the tables
    mark = {
        "seed": seed,
        "config": config_hash(drawn),
        "p_second_study": p_second_study,
        "dicom": dicom,
    }
    keep_settings(folder / "phantoms.json", mark, resolved=to_dict(config))
    rows = []
    for row in _plan(n, seed, config, language, p_second_study):
        file = f"dicom/{row.study_id}" if dicom else f"volumes/{row.study_id}.nii.gz"
        mask = f"masks/{row.study_id}.nii.gz" if masks else None
        split = _split(row.patient_id) if split_by == "patient" else ""
        rows.append(replace(row, file=file, mask=mask, split=split))
    draw([Job(folder, row, config) for row in rows], workers, progress)
    write_tables(folder, rows, config)
    return folder / "studies.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """One study of a folder, as its tables tell it.

    Attributes:
        seed: For `make_phantom`.
        file: Path from the folder; a series where it does not end in ``.nii.gz``.
        mask: Path from the folder; None without one.
    """

    seed: int
    patient_id: str
    study_id: str
    study_date: str
    language: Language
    case: CaseSpec
    split: str = ""
    file: str = ""
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One volume to draw, with its mask."""

    folder: Path
    row: Row
    config: PhantomConfig

    @property
    def is_done(self) -> bool:
        """Whether all its files are there; a file appears whole or not at all."""
        files = (self.row.file, self.row.mask)
        return all((self.folder / file).exists() for file in files if file)

    def write(self) -> None:
        """Draw it and write its files."""
        _write_one(self)


class Drawable(Protocol):
    """What `draw` needs of a job, which travels to another process."""

    @property
    def is_done(self) -> bool:
        """Whether its files are there, whole."""
        ...

    def write(self) -> None:
        """Write its files, each whole or not at all."""
        ...


def _plan(
    n: int, seed: int, config: PhantomConfig, language: ReportLanguage, p_second_study: float
) -> Iterator[Row]:
    """Decide each study's seed, patient, date and language; cheap, and a prefix of any larger n."""
    patient, visit, seen = -1, 0, date(2020, 1, 1)
    first: CaseSpec | None = None
    for i in range(n):
        rng = np.random.default_rng([seed, i, 0xDA7A])
        again, day, gap, spanish = (float(v) for v in rng.random(4))
        case = sample_case(
            seed * 1_000_000 + i,
            n_findings=config.n_findings,
            p_normal=config.p_normal,
            voxel_mm=voxel_edge_mm(config.size),
        )
        if first is not None and again < p_second_study and visit < 4:
            visit += 1
            seen += timedelta(days=20 + int(500 * gap))
            case = replace(
                case, seed=first.seed, sex=first.sex, age=first.age, habitus=first.habitus
            )
        else:
            patient, visit, first = patient + 1, 0, case
            seen = date(2018, 1, 1) + timedelta(days=int(1800 * day))
        yield Row(
            seed=seed * 1_000_000 + i,
            patient_id=f"ph{seed}-p{patient:06d}",
            study_id=f"ph{seed}-s{i:06d}",
            study_date=seen.isoformat(),
            language=spoken(language, spanish),
            case=case,
        )


def spoken(language: ReportLanguage, draw: float) -> Language:
    """Return the language of one report; `draw`, in 0 to 1, decides where they are mixed."""
    if language == "mixed":
        return "es" if draw < 0.5 else "en"
    return language


def _split(patient_id: str) -> Split:
    rng = np.random.default_rng(list(patient_id.encode()))
    draw = rng.random()
    return "train" if draw < 0.7 else "val" if draw < 0.8 else "test"


def draw(jobs: Sequence[Drawable], workers: int, progress: Progress | None = None) -> None:
    """Draw the volumes that are not there yet.

    Args:
        workers: Processes, 0 for one a core; the bytes do not depend on it.
        progress: Called with (done, all) at first and after each volume.

    Raises:
        InputError: A volume could not be written, however often it was tried.
    """
    todo = [job for job in jobs if not job.is_done]
    done = len(jobs) - len(todo)
    if progress:
        progress(done, len(jobs))
    is_here = workers == 1 or len(todo) < 2
    engine: Engine = Here() if is_here else Processes(workers)
    chunk = max(1, min(8, len(todo) // (4 * (workers or n_cores()))))
    for _, failed in engine.map(todo, [Step(partial(_writer, not is_here))], chunk=chunk):
        if isinstance(failed, Failure):
            raise InputError(f"A phantom was not drawn: {failed.reason}", rule=failed.rule)
        done += 1
        if progress:
            progress(done, len(jobs))


def _writer(has_own_process: bool) -> Callable[[Drawable], None]:
    if has_own_process:
        keep_freed_memory()
    return _write


def _write(job: Drawable) -> None:
    job.write()


def _write_one(job: Job) -> None:
    folder, row = job.folder, job.row
    phantom = make_phantom(row.seed, job.config, row.case)
    volume = _tagged(phantom, row)
    target = folder / row.file
    if row.mask:
        labels = Volume(phantom.lesion_mask, phantom.volume.affine)
        _write_nifti(labels, folder / row.mask)
    if target.exists():  # only the mask was asked for
        return
    if target.name.endswith(".nii.gz"):
        _write_nifti(volume, target)
        return
    from medfinder.volume.dicom_writer import write_dicom_series

    # A series is many files: they are written aside and appear together.
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_dicom_series(
        volume,
        aside,
        patient_id=row.patient_id,
        study_id=row.study_id,
        sex=phantom.case.sex,
        age=phantom.case.age,
        study_date=row.study_date,
        manufacturer=phantom.acquisition.manufacturer,
    )
    aside.rename(target)


def _write_nifti(volume: Volume, path: Path) -> None:
    from medfinder.volume.nifti import write_nifti

    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(volume, path)


def _tagged(phantom: Phantom, row: Row) -> Volume:
    identity = {
        "patient_id": row.patient_id,
        "study_id": row.study_id,
        "study_date": row.study_date,
    }
    return replace(phantom.volume, series_id=row.study_id, tags=phantom.volume.tags | identity)


def keep_settings(path: Path, mark: dict[str, Any], **notes: Any) -> None:
    """Note a folder's settings at its first run, and refuse others at a later one.

    Args:
        path: In the folder, which is made where absent.
        mark: What must not change.
        notes: What is noted beside it.

    Raises:
        InputError: The folder of `path` is a file, or lies in one.
        Mismatch: The folder was begun with another `mark`.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"Phantoms cannot be written to {str(folder)!r}: it is a file, or lies in one. Expected "
            "a folder, new or of an earlier run. Choose another path.",
            rule="phantom",
        ) from None
    if not path.exists():
        with atomic_write(path) as file:
            file.write(json.dumps(mark | notes, indent=2).encode() + b"\n")
        return
    found = json.loads(path.read_bytes())
    shown = found | {"config": f"of size {found.get('resolved', {}).get('size')}"}
    other = ", ".join(f"{key} {shown.get(key)}" for key in mark if found.get(key) != mark[key])
    if other:
        raise Mismatch(
            f"The folder {str(folder)!r} holds phantoms of other settings ({other}): "
            "expected the same seed, size and options. Choose another folder."
        )


def write_tables(folder: Path, rows: list[Row], config: PhantomConfig) -> None:
    """Write ``truth.jsonl`` and ``studies.csv``, from the seeds alone."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    truth = []
    for row in rows:
        case = row.case
        scan = sample_acquisition(
            row.seed, config.size, case.habitus.lung_height_mm, shift=config.acquisition
        )
        table.writerow(
            {
                "file": row.file,
                "patient_id": row.patient_id,
                "study_id": row.study_id,
                "sex": case.sex,
                "age": case.age,
                "study_date": row.study_date,
                "manufacturer": scan.manufacturer,
                "body_part": "chest",
                "language": row.language,
                "split": row.split,
                "text": word(case, row.seed, row.language, config.wording, phase=scan.phase),
            }
        )
        truth.append(
            {
                "file": row.file,
                "study_id": row.study_id,
                "seed": row.seed,
                "case": case.to_dict(),
                "acquisition": to_dict(scan),
                "mask": row.mask,
            }
        )
    write_lines(folder / "truth.jsonl", truth)
    with atomic_write(folder / "studies.csv") as file:
        file.write(text.getvalue().encode())


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    """Write JSON Lines, whole or not at all."""
    with atomic_write(path) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


__all__ = ["Phantom", "PhantomConfig", "make_phantom", "render", "write_phantoms"]
