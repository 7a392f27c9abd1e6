"""Phantoms as a folder: volumes, ``studies.csv`` and ``truth.jsonl``; resumable, the same bytes whoever draws.

A study whose volume is complete is not drawn again, because a volume's file appears whole or not
at all. The tables are written last, from the seeds alone.
"""

import csv
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medfinder.artifact import atomic_write
from medfinder.config import config_hash, to_dict
from medfinder.errors import ConfigError, Mismatch
from medfinder.phantom.acquisition import sample_acquisition
from medfinder.phantom.case import CaseSpec, sample_case
from medfinder.phantom.chest import Phantom, PhantomConfig, make_phantom, render, voxel_edge_mm
from medfinder.phantom.wording import word
from medfinder.records import Language, Split
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
    language: Literal["en", "es", "mixed"] = "en",
    p_second_study: float = 0.2,
    split: bool = True,
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
        split: Fill the column ``split`` by patient: about 70 / 10 / 20 %.
        workers: Processes, 0 for one a core; the bytes do not depend on it.
        progress: Called with (done, n) after each study.

    Returns:
        The path of ``studies.csv``.

    Raises:
        ConfigError: `n`, `seed` or `workers` is out of range.
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
    workers = workers or len(os.sched_getaffinity(0))
    _settings(folder, config, seed, p_second_study, dicom)
    rows = list(_plan(n, seed, config, language, p_second_study))
    jobs = [(folder, row, config, dicom, masks) for row in rows]
    todo = [job for job in jobs if not _complete(job)]
    done = n - len(todo)
    if progress:
        progress(done, n)
    for _ in _run(todo, workers):
        done += 1
        if progress:
            progress(done, n)
    _tables(folder, rows, config, dicom, masks, split)
    return folder / "studies.csv"


Row = dict[str, Any]
Job = tuple[Path, Row, PhantomConfig, bool, bool]


def _plan(
    n: int, seed: int, config: PhantomConfig, language: str, p_second_study: float
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
        chosen = language if language != "mixed" else ("es" if spanish < 0.5 else "en")
        yield {
            "seed": seed * 1_000_000 + i,
            "patient_id": f"ph{seed}-p{patient:06d}",
            "study_id": f"ph{seed}-s{i:06d}",
            "study_date": seen.isoformat(),
            "language": chosen,
            "case": case,
        }


def _split(patient_id: str) -> Split:
    rng = np.random.default_rng(list(patient_id.encode()))
    draw = rng.random()
    return "train" if draw < 0.7 else "val" if draw < 0.8 else "test"


def _file(row: Row, dicom: bool) -> str:
    return f"dicom/{row['study_id']}" if dicom else f"volumes/{row['study_id']}.nii.gz"


def _mask_file(row: Row) -> str:
    return f"masks/{row['study_id']}.nii.gz"


def _complete(job: Job) -> bool:
    folder, row, _, dicom, masks = job
    return (folder / _file(row, dicom)).exists() and (
        not masks or (folder / _mask_file(row)).exists()
    )


def _run(jobs: list[Job], workers: int) -> Iterator[None]:
    """Write each job and yield after it."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            _write_one(job)
            yield
        return
    # Spawned, not forked: the caller may hold threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        for _ in pool.map(_write_one, jobs, chunksize=max(1, min(8, len(jobs) // (4 * workers)))):
            yield


def _write_one(job: Job) -> None:
    folder, row, config, dicom, masks = job
    phantom = make_phantom(row["seed"], config, row["case"])
    volume = _tagged(phantom, row)
    target = folder / _file(row, dicom)
    if masks:
        labels = Volume(phantom.lesion_mask, phantom.volume.affine)
        _write_nifti(labels, folder / _mask_file(row))
    if not dicom:
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
        patient_id=row["patient_id"],
        study_id=row["study_id"],
        sex=phantom.case.sex,
        age=phantom.case.age,
        study_date=row["study_date"],
        manufacturer=phantom.acquisition.manufacturer,
    )
    aside.rename(target)


def _write_nifti(volume: Volume, path: Path) -> None:
    from medfinder.volume.nifti import write_nifti

    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(volume, path)


def _tagged(phantom: Phantom, row: Row) -> Volume:
    identity = {k: row[k] for k in ("patient_id", "study_id", "study_date")}
    return replace(phantom.volume, series_id=row["study_id"], tags=phantom.volume.tags | identity)


def _settings(
    folder: Path, config: PhantomConfig, seed: int, p_second_study: float, dicom: bool
) -> None:
    """Refuse a folder of other settings; a different wording only rewrites the tables."""
    drawn = replace(config, wording=type(config.wording)())
    mark = {
        "seed": seed,
        "config": config_hash(drawn),
        "p_second_study": p_second_study,
        "dicom": dicom,
    }
    path = folder / "phantoms.json"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        found = json.loads(path.read_bytes())
        if {key: found.get(key) for key in mark} != mark:
            raise Mismatch(
                f"The folder {str(folder)!r} holds phantoms of other settings (seed {found.get('seed')}): "
                "expected the same seed, size and options. Choose another folder."
            )
        return
    with atomic_write(path) as file:
        file.write(json.dumps(mark | {"resolved": to_dict(config)}, indent=2).encode() + b"\n")


def _tables(
    folder: Path, rows: list[Row], config: PhantomConfig, dicom: bool, masks: bool, split: bool
) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    truth = []
    for row in rows:
        case: CaseSpec = row["case"]
        language: Language = row["language"]
        scan = sample_acquisition(
            row["seed"], config.size, case.habitus.lung_height_mm, shift=config.acquisition
        )
        table.writerow(
            {
                "file": _file(row, dicom),
                "patient_id": row["patient_id"],
                "study_id": row["study_id"],
                "sex": case.sex,
                "age": case.age,
                "study_date": row["study_date"],
                "manufacturer": scan.manufacturer,
                "body_part": "chest",
                "language": language,
                "split": _split(row["patient_id"]) if split else "",
                "text": word(case, row["seed"], language, config.wording, phase=scan.phase),
            }
        )
        line = {
            "file": _file(row, dicom),
            "study_id": row["study_id"],
            "seed": row["seed"],
            "case": case.to_dict(),
            "acquisition": to_dict(scan),
            "mask": _mask_file(row) if masks else None,
        }
        truth.append(json.dumps(line))
    with atomic_write(folder / "truth.jsonl") as file:
        file.write(("\n".join(truth) + "\n").encode())
    with atomic_write(folder / "studies.csv") as file:
        file.write(text.getvalue().encode())


__all__ = ["Phantom", "PhantomConfig", "make_phantom", "render", "write_phantoms"]
