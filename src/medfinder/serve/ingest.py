"""An uploaded CT, with what is known of it → a study of the index, as a job that can be followed.

A job goes the way that the commands go: `medfinder.curate` judges and de-identifies it into a folder
of its own, `medfinder.search.build` embeds it and adds it to the index. What a job makes lies in
``studies/JOB`` of the ingest folder, which is removed unless the job is done; what is known of jobs
lies in ``jobs``, so that every process of the service, and the next one, can tell of them. A process
holds a lock on each of its jobs: one that is free while its job is not ended was interrupted.
"""

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from medfinder.artifact import atomic_write
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.dataset import Dataset
from medfinder.curate.ledger import PRIVATE
from medfinder.curate.sources.folder import FolderSource
from medfinder.curate.sources.source import Facts
from medfinder.errors import InputError, MedFinderError
from medfinder.index.interface import AnyIndex
from medfinder.records import Study
from medfinder.search.build import build_index
from medfinder.search.finder import Finder
from medfinder.serve.config import IngestConfig
from medfinder.serve.faults import Refusal
from medfinder.serve.lanes import Lane
from medfinder.serve.metrics import Metrics
from medfinder.volume.read import VolumeRef

log = logging.getLogger("medfinder.serve")

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
ACTIVE: tuple[State, ...] = ("queued", "running")
STAGES = ("waiting", "checking", "embedding", "indexed")
_POLL_S = 0.2
_RETRY_S = "30"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What is known of a job; nothing of what was sent.

    Attributes:
        job_id: 32 hex digits.
        state: Where it has got to.
        stage: One of `STAGES`.
        created: Seconds since the epoch.
        ended: Likewise; None while it is not.
        account: Who sent it; "" where nobody signs in.
        source: The studies' column ``source``.
        studies: Ids of the studies it made.
        rejections: (rule, reason) of what was sent and is no study.
        doubts: (rule, reason) of what a person should look at.
        error: (type, message) of what failed.
    """

    job_id: str
    state: State
    stage: str
    created: float
    ended: float | None = None
    account: str = ""
    source: str = "ingest"
    studies: tuple[str, ...] = ()
    rejections: tuple[tuple[str, str], ...] = ()
    doubts: tuple[tuple[str, str], ...] = ()
    error: tuple[str, str] | None = None

    @property
    def done(self) -> int:
        """Stages that are behind it, of `STAGES` but the first."""
        return STAGES.index(self.stage)


class _Stopped(Exception):
    """The job is to end here; its state says why."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.state = state


class _Upload(FolderSource):
    """What one job was sent."""

    def __init__(self, root: Path, reports: Path | None, source: str, fallback_id: str) -> None:
        super().__init__(root, reports)
        self.name = source
        self._fallback_id = fallback_id

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        facts = super().facts(ref, tags)
        return dataclasses.replace(facts, fallback_id=self._fallback_id)


class Ingest:
    """The jobs of one ingest folder.

    Args:
        config: Whose folder is made where it is missing.
        finder: Returns the finder in use: whose index is added to, by its encoders.
        metrics: Where jobs are counted.

    Raises:
        OSError: The folder cannot be written to.
    """

    def __init__(
        self, config: IngestConfig, finder: Callable[[], Finder], metrics: Metrics
    ) -> None:
        self._config = config
        self._finder = finder
        self._metrics = metrics
        self._root = Path(config.folder)
        self._jobs = self._root / "jobs"
        for folder in (self._jobs, self._root / "studies", self._root / "incoming"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lane = Lane("ingest")
        self._held: dict[str, IO[bytes]] = {}
        self._lock = threading.Lock()
        self._is_closing = False
        self.recover()

    # -- asking ------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """Return all jobs that are remembered, the newest first."""
        found = (self.job(path.stem) for path in self._jobs.glob("*.json"))
        return sorted((j for j in found if j), key=lambda j: (-j.created, j.job_id))

    def job(self, job_id: str) -> Job | None:
        """Return a job, None where there is none; one whose process is gone is interrupted."""
        job = self._read(job_id)
        if job is not None and job.state in ACTIVE and self._is_free(job_id):
            job = self._read(job_id)  # it may have ended since
            if job is not None and job.state in ACTIVE:
                self._clean(job)
                job = self._end(job, "interrupted")
        return job

    # -- doing -------------------------------------------------------------------

    def submit(
        self, volume: Path, facts: Mapping[str, str], *, source: str = "ingest", account: str = ""
    ) -> Job:
        """Take a volume, which is moved away, and queue its job.

        Args:
            volume: A file, or a folder of a series.
            facts: Columns of a table of reports: ``text``, ``study_id``, ``patient_id``, …

        Raises:
            Refusal: 503 when as many jobs wait as may.
        """
        if sum(job.state in ACTIVE for job in self.jobs()) >= self._config.max_jobs:
            raise Refusal(
                503,
                "Busy",
                f"{self._config.max_jobs} studies are waiting to be taken in already.",
                "Try again when some of them are done; /v1/jobs tells.",
                headers={"retry-after": _RETRY_S},
            )
        job_id = uuid.uuid4().hex
        incoming = self._root / "incoming" / job_id
        try:
            self._hold(job_id)  # first: what nobody holds, another process clears away
            target = incoming / "volume" / (f"ct{_suffix(volume)}" if volume.is_file() else "ct")
            target.parent.mkdir(parents=True)
            shutil.move(volume, target)
            row = {"file": target.name, **{k: v for k, v in facts.items() if v}}
            (incoming / "table.json").write_text(json.dumps([row]), encoding="utf-8")
            job = Job(job_id, "queued", STAGES[0], time.time(), account=account, source=source)
            self._write(job)
        except BaseException as error:
            self._release(job_id)
            shutil.rmtree(incoming, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise Refusal(
                503,
                "NoRoom",
                "The study cannot be kept: the folder for studies that are taken in cannot be written "
                f"({error.strerror or type(error).__name__}).",
                "Tell whoever runs this service to look at its disk and its rights (ingest.folder).",
                headers={"retry-after": _RETRY_S},
            ) from None
        self.lane.submit(lambda: self._run(job))
        return job

    def cancel(self, job_id: str) -> Job | None:
        """Have a job end at its next step; return it as it is, None where there is none."""
        job = self.job(job_id)
        if job is not None and job.state in ACTIVE:
            (self._jobs / f"{job_id}.cancel").touch()
        return job

    def recover(self) -> None:
        """Clean up after processes that are gone, and forget jobs that ended long ago."""
        for job in self.jobs():  # which finds those that were interrupted
            old = time.time() - self._config.keep_days * 86400
            if job.state not in ACTIVE and (job.ended or job.created) < old:
                for path in self._jobs.glob(f"{job.job_id}.*"):
                    path.unlink(missing_ok=True)
        for folder in (self._root / "incoming").iterdir():  # of one that fell before its job began
            if self._read(folder.name) is None and self._is_free(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
                (self._jobs / f"{folder.name}.lock").unlink(missing_ok=True)

    def close(self) -> None:
        """Stop: the job in work ends as interrupted, now or when the next process looks."""
        self._is_closing = True
        if self.lane.is_running:
            for child in multiprocessing.active_children():  # they would outlive this process
                child.terminate()
        self.lane.close()
        for job_id in list(self._held):
            job = self._read(job_id)
            if job is not None and job.state == "queued":
                self._clean(job)
                self._end(job, "interrupted")

    # -- one job -----------------------------------------------------------------

    def _run(self, job: Job) -> None:
        state: State = "failed"
        try:
            with self._turn(job):
                job = self._go(dataclasses.replace(job, state="running"))
                state = "done" if job.studies else "failed"
        except _Stopped as stop:
            state = stop.state
        except InputError as error:
            job = dataclasses.replace(job, rejections=((error.rule, str(error)),))
        except MedFinderError as error:
            log.error("job %s failed: %s", job.job_id, type(error).__name__)
            said = (type(error).__name__, "The index or the ingest folder cannot be used.")
            job = dataclasses.replace(job, error=said)
        except BaseException as error:
            if self._is_closing:
                state = "interrupted"
            else:
                log.error("job %s failed: %s", job.job_id, type(error).__name__)
                job = dataclasses.replace(
                    job, error=("Internal", "Something failed inside the service.")
                )
        if state != "done":
            self._clean(self._read(job.job_id) or job)  # which knows how far it had got
            job = dataclasses.replace(job, studies=())
        shutil.rmtree(self._root / "incoming" / job.job_id, ignore_errors=True)
        self._end(job, state)

    @contextlib.contextmanager
    def _turn(self, job: Job) -> Iterator[None]:
        """Wait until no other process takes in a study."""
        with (self._root / ".lock").open("wb") as file:
            while not _locked(file):
                self._check(job)
                time.sleep(_POLL_S)
            self._check(job)
            yield

    def _go(self, job: Job) -> Job:
        """Curate, embed and index; return the job with what came of it."""
        job = self._step(job, "checking")
        finder = self._finder()
        out = self._root / "studies" / job.job_id
        incoming = self._root / "incoming" / job.job_id
        source = _Upload(
            incoming / "volume", incoming / "table.json", job.source, f"ingest-{job.job_id[:16]}"
        )
        config = CurateConfig(
            check=finder.check,
            workers=1,
            pseudonym_key=self._config.pseudonym_key,
            shift_dates=self._config.shift_dates,
            copy="nifti",  # what was sent may name somebody, and is not kept
        )
        try:
            curate(source, out, config)
        except InputError:
            rejections = _rejections(out)
            if not rejections:
                raise
            return dataclasses.replace(job, rejections=rejections)
        dataset = Dataset.open(out)
        studies = list(dataset.studies())
        rejections = (*_rejections(out), *_known(finder.index, studies))
        doubts = tuple((d["rule"], d["reason"]) for d in dataset.doubts())
        job = dataclasses.replace(job, rejections=rejections, doubts=doubts)
        if len(studies) != 1 or rejections:
            return job
        shutil.rmtree(out / PRIVATE, ignore_errors=True)  # what pseudonyms stand for
        job = dataclasses.replace(job, studies=tuple(s.study_id for s in studies))
        job = self._step(job, "embedding")
        embedders = finder.embedders()
        built = build_index(
            out,
            finder.index.place,
            embedders.get("volume"),
            embedders.get("report"),
            keep_others=True,
            config=finder.index.config,
            progress=lambda done, total: self._check(job),
        )
        if built.n_rejections:
            failed = tuple(
                (r.rule, r.reason) for r in finder.index.read_rejections() if r.item in job.studies
            )
            return dataclasses.replace(self._without(job), rejections=failed)
        return dataclasses.replace(job, stage="indexed")

    def _step(self, job: Job, stage: str) -> Job:
        self._check(job)
        job = dataclasses.replace(job, stage=stage)
        self._write(job)
        return job

    def _check(self, job: Job) -> None:
        """Raise where the job is to go no further."""
        if (self._jobs / f"{job.job_id}.cancel").exists():
            raise _Stopped("cancelled")
        if self._is_closing:
            raise _Stopped("interrupted")

    def _without(self, job: Job) -> Job:
        self._clean(job)
        return dataclasses.replace(job, studies=())

    def _clean(self, job: Job) -> None:
        """Remove all that a job has made that is not done."""
        out = self._root / "studies" / job.job_id
        index = self._finder().index
        with contextlib.suppress(MedFinderError, OSError):
            # Only its own: a study of that name may have been there before.
            known = set(index.ids()) & set(job.studies)
            ours = [
                study.study_id
                for study in index.studies(sorted(known))
                if out.resolve() in Path(study.volume_path).parents
            ]
            if ours:
                index.begin_changes()
                index.delete(ours)
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(self._root / "incoming" / job.job_id, ignore_errors=True)

    def _end(self, job: Job, state: State) -> Job:
        job = dataclasses.replace(job, state=state, ended=time.time())
        self._write(job)
        self._metrics.jobs.labels(state).inc()
        self._release(job.job_id)
        (self._jobs / f"{job.job_id}.cancel").unlink(missing_ok=True)
        return job

    # -- on disk -----------------------------------------------------------------

    def _read(self, job_id: str) -> Job | None:
        if len(job_id) != 32 or not set(job_id) <= set("0123456789abcdef"):
            return None
        try:
            plain = json.loads((self._jobs / f"{job_id}.json").read_bytes())
        except (OSError, ValueError):
            return None
        for name in ("studies", "rejections", "doubts"):
            plain[name] = tuple(tuple(v) if isinstance(v, list) else v for v in plain[name])
        plain["error"] = tuple(plain["error"]) if plain["error"] else None
        return Job(**plain)

    def _write(self, job: Job) -> None:
        with atomic_write(self._jobs / f"{job.job_id}.json") as file:
            file.write(json.dumps(dataclasses.asdict(job)).encode())

    def _hold(self, job_id: str) -> None:
        file = (self._jobs / f"{job_id}.lock").open("wb")
        while not _locked(file):  # another process looks whether anybody has it
            time.sleep(0.01)
        with self._lock:
            self._held[job_id] = file

    def _release(self, job_id: str) -> None:
        with self._lock:
            file = self._held.pop(job_id, None)
        if file is not None:
            file.close()
            (self._jobs / f"{job_id}.lock").unlink(missing_ok=True)

    def _is_free(self, job_id: str) -> bool:
        """Tell whether no process has the job."""
        with self._lock:
            if job_id in self._held:
                return False
        try:
            with (self._jobs / f"{job_id}.lock").open("rb+") as file:
                return _locked(file)
        except OSError:
            return True


def _locked(file: IO[bytes]) -> bool:
    """Lock a file for this process until it is closed; tell whether that could be done at once."""
    try:
        import fcntl
    except ImportError:  # Windows: there one process serves
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _known(index: AnyIndex, studies: list[Study]) -> list[tuple[str, str]]:
    """Return why the index cannot take a study: it has it."""
    stored = index.study_hashes()
    hashes = {held.volume_hash: study_id for study_id, held in stored.items()}
    found = []
    for study in studies:
        if study.study_id in stored:
            found.append(
                (
                    "study-exists",
                    f"The index has a study {study.study_id}. Give this one another study_id.",
                )
            )
        elif study.volume_hash in hashes:
            found.append(
                (
                    "duplicate-volume",
                    f"The same voxels as {hashes[study.volume_hash]}, which is kept.",
                )
            )
    return found


def _rejections(out: Path) -> tuple[tuple[str, str], ...]:
    return tuple((row["rule"], row["reason"]) for row in _rows(out / "rejections.parquet"))


def _rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    if not path.exists():
        return []
    rows: list[dict[str, Any]] = pq.read_table(path, columns=["item", "rule", "reason"]).to_pylist()
    return rows


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((s for s in (".nii.gz", ".nii", ".dcm") if name.endswith(s)), "")


def check_folder(config: IngestConfig) -> None:
    """Raise unless studies can be written where the settings say.

    Raises:
        InputError: The folder is a file, or cannot be written to.
    """
    try:
        Path(config.folder).mkdir(parents=True, exist_ok=True)
        if not os.access(config.folder, os.W_OK):
            raise PermissionError
    except OSError:
        raise InputError(
            f"Studies cannot be kept in {config.folder!r}: expected a folder that can be written "
            "to. Give another by --ingest.",
            rule="ingest-folder",
        ) from None
