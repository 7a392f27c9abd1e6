"""A dataset's studies -> what training reads: preprocessed volumes in one file, reports, findings.

Every volume is read and preprocessed once, into its place in one memory-mapped array; what was done
is appended to a journal, with a checksum, so a run that is killed goes on where it stopped, and reads
again what has changed since. Knows no network and no batch.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.config import config_hash
from medfinder.errors import ArtifactError, ConfigError, InputError
from medfinder.records import Finding, Rejection, Split, Study
from medfinder.scale.engine import Engine, Failure, Step
from medfinder.scale.here import Here
from medfinder.scale.processes import Processes, n_cores
from medfinder.studies import digest
from medfinder.train.lock import held
from medfinder.volume.cache import PREPROCESS_VERSION
from medfinder.volume.checks import CheckConfig
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.read import read_study

VOLUMES, JOURNAL = "volumes.npy", "journal.jsonl"
P_VAL = 0.1

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSet:
    """Studies as training and its validation read them.

    Attributes:
        study_ids, patient_ids: N each.
        volumes: (M, C, D, H, W), M >= N, as `preprocess` makes them; possibly memory-mapped.
        reports: Each study's paraphrases of its report, mostly one; () for a study without one.
        preprocess: What made `volumes`.
        findings: Of each report; () for none known.
        rows: (N,) the study's place in `volumes`; None for 0, 1, ....
        rejections: Studies that could not be read.
        volumes_key: Changes with the content of `volumes`; "" where only reading them tells.
    """

    study_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    volumes: npt.NDArray[Any]
    reports: tuple[tuple[str, ...], ...]
    preprocess: PreprocessConfig
    findings: tuple[tuple[Finding, ...], ...] = ()
    rows: npt.NDArray[np.int64] = None  # type: ignore[assignment]
    rejections: tuple[Rejection, ...] = ()
    volumes_key: str = ""

    def __post_init__(self) -> None:
        n = len(self.study_ids)
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(n))
        if not self.findings:
            object.__setattr__(self, "findings", ((),) * n)
        lengths = {
            "patient_ids": len(self.patient_ids),
            "reports": len(self.reports),
            "findings": len(self.findings),
            "rows": len(self.rows),
        }
        for name, length in lengths.items():
            if length != n:
                raise ConfigError(f"A training set of {n} studies has {length} {name}.")
        twice = [name for name, k in Counter(self.study_ids).items() if k > 1]
        if twice:
            raise ConfigError(f"The study {twice[0]} is in a training set twice.")
        expected = (self.preprocess.n_channels, *(self.preprocess.size or ()))
        got = (self.volumes.dtype.name, *self.volumes.shape[1:])
        if got != (self.preprocess.dtype, *expected):
            raise ConfigError(
                f"The volumes of a training set are {got[0]} of shape {got[1:]} each, but its "
                f"preprocessing makes {self.preprocess.dtype} of shape {expected}."
            )
        if n and int(self.rows.max()) >= len(self.volumes):
            raise ConfigError(f"A training set of {n} studies has {len(self.volumes)} volumes.")

    def __len__(self) -> int:
        return len(self.study_ids)

    def iter_volumes(self) -> Iterator[npt.NDArray[Any]]:
        """Yield each study's volume, (C, D, H, W)."""
        return (self.volumes[row] for row in self.rows)

    @cached_property
    def report_groups(self) -> npt.NDArray[np.int64]:
        """(N,) a number equal for studies that share a report text, directly or through a third.

        -1 for a study without a report.
        """
        parent = list(range(len(self)))

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        first: dict[str, int] = {}
        for i, texts in enumerate(self.reports):
            for text in texts:
                parent[root(i)] = root(first.setdefault(text, i))
        return np.array([root(i) if self.reports[i] else -1 for i in range(len(self))], np.int64)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with the studies, their reports or the preprocessing."""
        return _digest(
            [[i, *texts] for i, texts in zip(self.study_ids, self.reports, strict=True)],
            self.preprocess,
        )

    @cached_property
    def volumes_digest(self) -> str:
        """Hex digits that change with the volumes' content; may have to read every volume."""
        if self.volumes_key:
            return self.volumes_key
        whole = hashlib.sha256()
        for volume in self.iter_volumes():
            whole.update(np.ascontiguousarray(volume).data)
        return whole.hexdigest()[:16]


def split_of(studies: Sequence[Study], split: Split) -> list[Study]:
    """Return the studies of a split; where no study has one, a tenth of the patients is "val".

    Raises:
        InputError: A patient is in both "train" and "val", or nothing is in the split.
    """
    if not any(study.split for study in studies):
        chosen = [s for s in studies if (_share(s.patient_id) < P_VAL) == (split == "val")]
        chosen = [] if split == "test" else chosen
    else:
        patients = {
            name: {s.patient_id for s in studies if s.split == name} for name in ("train", "val")
        }
        both = patients["train"] & patients["val"]
        if both:
            raise InputError(
                f"{len(both)} patients have studies in both splits, train and val: a model would be "
                "judged on patients that it knows. Split by patient.",
                rule="split",
            )
        chosen = [s for s in studies if s.split == split]
    if not chosen:
        raise InputError(
            f"None of {len(studies)} studies is in the split {split!r}. Give the table of reports a "
            "column 'split' with train and val, or more patients.",
            rule="split",
        )
    return chosen


def prepare_set(
    studies: Sequence[Study],
    folder: Path,
    config: PreprocessConfig,
    *,
    check: CheckConfig | None = None,
    workers: int = 0,
    engine: Engine | None = None,
    progress: Progress | None = None,
    is_checked: bool = False,
) -> TrainingSet:
    """Read and preprocess studies into one memory-mapped file; resumable.

    Args:
        studies: Of one split.
        folder: A folder below it is named by the studies' content and the preprocessing, so that
            other studies or another preprocessing never meet these volumes.
        config: With a `size`.
        check: Limits that the volumes were curated with.
        workers: Processes; 0 for one a core.
        engine: Who reads, in place of such processes; its workers write to `folder`.
        progress: Called with (done, total) after each study.
        is_checked: Another process of the run has compared what was kept with its checksums.

    Returns:
        The studies that could be read; the others are `TrainingSet.rejections`.

    Raises:
        ConfigError: `config` has no size.
        InputError: No study could be read.
        ArtifactError: A process that read volumes was ended from outside, again and again; or the
            disk has no room for them.
    """
    if config.size is None:
        raise ConfigError("Setting preprocess.size is missing: training needs volumes of one size.")
    studies = sorted(studies, key=lambda s: s.study_id)
    key = _digest([[s.study_id, digest(s)] for s in studies], config)
    place = folder / key
    place.mkdir(parents=True, exist_ok=True)
    path = place / VOLUMES
    shape = (len(studies), config.n_channels, *config.size)
    with held(place, wait=True):  # runs may share it: the second finds what the first has read
        kept = read_journal(place / JOURNAL)
        seen = kept if is_checked else believed(path, kept)
        if seen is None:
            seen = {}
            (place / JOURNAL).unlink(missing_ok=True)
            allocate(path, shape, config.dtype, is_reserved=True)
        todo = [i for i in range(len(studies)) if i not in seen]
        if engine is None:
            n_workers = min(workers or n_cores(), len(todo))
            engine = Here() if n_workers <= 1 else Processes(n_workers)
        jobs = [(i, studies[i], str(path), config, check or CheckConfig()) for i in todo]
        with (place / JOURNAL).open("a", encoding="utf-8") as journal:
            for n, entry in enumerate(_run(jobs, engine), 1):
                journal.write(json.dumps(entry) + "\n")
                journal.flush()
                seen[entry["row"]] = entry
                if progress:
                    progress(len(studies) - len(todo) + n, len(studies))
    good = [i for i in range(len(studies)) if "rule" not in seen[i]]
    if not good:
        raise InputError(
            f"None of {len(studies)} volumes could be read, the first because: {seen[0]['reason']}",
            rule="nothing-usable",
        )
    return TrainingSet(
        study_ids=tuple(studies[i].study_id for i in good),
        patient_ids=tuple(studies[i].patient_id for i in good),
        volumes=np.load(path, mmap_mode="r"),
        reports=tuple(_report(studies[i]) for i in good),
        preprocess=config,
        findings=tuple(studies[i].findings for i in good),
        rows=np.array(good, np.int64),
        rejections=tuple(
            Rejection(studies[i].study_id, e["rule"], e["reason"])
            for i, e in sorted(seen.items())
            if "rule" in e
        ),
        volumes_key=key,
    )


_Job = tuple[int, Study, str, PreprocessConfig, CheckConfig]


def _fill(job: _Job) -> dict[str, Any]:
    """Read one study into its row; return its line of the journal."""
    row, study, path, config, check = job
    try:
        volume = read_study(study, check)
        made = preprocess(volume, config, n_threads=1)
        if not np.isfinite(made).all():
            raise InputError("The volume holds values that are not finite.", rule="not-finite")
    except InputError as error:
        return {"row": row, "rule": error.rule, "reason": str(error)}
    volumes = np.load(path, mmap_mode="r+")
    volumes[row] = made
    return {"row": row, "crc": crc_of(volumes[row])}


def _filler() -> Callable[[_Job], dict[str, Any]]:
    return _fill


def _run(jobs: list[_Job], engine: Engine) -> Iterator[dict[str, Any]]:
    with contextlib.closing(engine.map(jobs, [Step(_filler)], ordered=False)) as stream:
        for _, entry in stream:
            if not isinstance(entry, Failure):
                yield entry
            else:  # these volumes were read when they were curated: the machine is to blame
                raise ArtifactError(
                    "A process that read volumes was ended from outside, perhaps for want of memory, "
                    f"or its disk failed ({entry.rule}, tried {entry.attempts} times). Run the same "
                    "command again: it goes on where it stopped."
                )


def allocate(path: Path, shape: tuple[int, ...], dtype: str, *, is_reserved: bool = False) -> None:
    """Make an array file that is complete or absent.

    Args:
        is_reserved: Take its room on the disk now. Otherwise it is sparse, and a process that
            writes to it through memory is killed by the system where the disk turns out full.

    Raises:
        ArtifactError: There is no such room.
    """
    temporary = path.with_suffix(".tmp.npy")
    try:
        np.lib.format.open_memmap(temporary, "w+", dtype, shape).flush()
        if is_reserved and hasattr(os, "posix_fallocate"):
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raise ArtifactError(
            f"The disk is full: the preprocessed volumes need {size / 2**20:.0f} MiB. Free space, or "
            "name a folder on another disk with --cache, and run the same command again."
        ) from None
    os.replace(temporary, path)


def read_journal(path: Path) -> dict[int, dict[str, Any]]:
    """Return the whole lines of a journal by their row; {} where there is none."""
    seen = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            seen[int(entry["row"])] = entry
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill cut short, or damaged: its study is read again
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
    return seen


def believed(
    path: Path, seen: dict[int, dict[str, Any]], first: int = 0
) -> dict[int, dict[str, Any]] | None:
    """Return the journal's lines whose rows are what was written; None where the array is no array.

    Args:
        path: The array, (n, ...).
        first: The journal's row that is the array's first.
    """
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return {
        row: entry
        for row, entry in seen.items()
        if 0 <= row - first < len(rows)
        # Older versions wrote no checksum; a study that was refused has no row.
        and ("crc" not in entry or entry["crc"] == crc_of(rows[row - first]))
    }


def crc_of(row: npt.NDArray[Any]) -> int:
    """Return the CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(row).data)


def _report(study: Study) -> tuple[str, ...]:
    return (study.text,) if study.text.strip() else ()


def _share(patient_id: str) -> float:
    """Return a number in [0, 1) that a patient keeps whatever other patients there are."""
    return int(hashlib.sha256(patient_id.encode()).hexdigest()[:8], 16) / 2**32


def _digest(studies: list[list[str]], config: PreprocessConfig) -> str:
    what = json.dumps([studies, config_hash(config), PREPROCESS_VERSION])
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:16]
