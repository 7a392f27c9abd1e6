"""The stages as processes of their own that may be killed, and what an artifact holds, to compare.

A server process imports everything once and forks, so that a kill costs no imports; the workers
that a stage starts are forked too. What runs is the real stage; its encoders are small ones.
"""

import contextlib
import faulthandler
import hashlib
import json
import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lancedb  # noqa: F401  (imported before the fork)
import lightning_fabric  # noqa: F401
import torch

import medfinder.model.networks
import medfinder.serve.app
import medfinder.train.train  # noqa: F401
from medfinder.artifact import MANIFEST, read_manifest
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.bimcv import BimcvSource
from medfinder.curate.sources.folder import FolderSource
from medfinder.embed import Embedder
from medfinder.errors import MedFinderError
from medfinder.index.interface import UNFINISHED
from medfinder.index.store import Index
from medfinder.phantom.archive import write_archive
from medfinder.phantom.phantom import write_phantoms
from medfinder.search.build import build_index
from medfinder.search.finder import Finder
from medfinder.train.train import train
from stubs.encoders import GridEncoder, WordEncoder
from stubs.training import recipe

# Forked right after the imports, when nothing of it is at work; told anew at each fork otherwise.
warnings.filterwarnings("ignore", "lancedb fork support")

HUNG_S = 60.0  # a hang is told from a slow machine
SIZE = (24, 32, 32)

context = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Have the server process import this module, before anything is started."""
    tests = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    context.set_forkserver_preload(["faults.stages"])


# -- inputs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What the stages read.

    Attributes:
        archive: Raw, with planted defects.
        few, all: Curated folders, the first a part of the second.
    """

    archive: Path
    few: Path
    all: Path


def make_inputs(folder: Path) -> Inputs:
    """Draw phantoms and curate them, once."""
    archive = write_archive(folder / "archive", 8, size=SIZE, workers=1)
    made = []
    with workers_by("fork"):
        for name, n in (("few", 10), ("all", 16)):
            raw = folder / f"raw-{name}"
            write_phantoms(raw, n, 3, size=SIZE, workers=1)
            out = folder / f"studies-{name}"
            curate(FolderSource(raw, raw / "studies.csv"), out, CurateConfig(workers=1))
            made.append(out)
    return Inputs(archive, *made)


def encoders() -> dict[str, Embedder]:
    """Return stream -> a small embedder."""
    grid, words = Embedder(GridEncoder(joint=True)), Embedder(WordEncoder())
    return {"volume": grid, "joint": grid, "report": words}


# -- what runs in a process ------------------------------------------------------------

RECIPE = recipe(train={"steps": 8, "validate_every": 4, "checkpoint_every": 2})


def run_curate(inputs: Inputs, out: Path) -> None:
    """Curate an archive with defects, copies included."""
    curate(BimcvSource(inputs.archive), out, CurateConfig(workers=1, copy="nifti"))


def run_index(inputs: Inputs, out: Path) -> None:
    """Index all studies."""
    made = encoders()
    build_index(inputs.all, out, made["volume"], made["report"])


def run_index_of_few(inputs: Inputs, out: Path) -> None:
    """Index a part of the studies."""
    made = encoders()
    build_index(inputs.few, out, made["volume"], made["report"])


def run_train(inputs: Inputs, out: Path) -> None:
    """Train, going on with what is there."""
    train(inputs.all, out, RECIPE, resume=True, workers=1)


STAGES: dict[str, Callable[[Inputs, Path], None]] = {
    "curate": run_curate,
    "index": run_index,
    "index-few": run_index_of_few,
    "train": run_train,
}


_METHODS = dict(multiprocessing.context._concrete_contexts)  # type: ignore[attr-defined]


@contextlib.contextmanager
def workers_by(method: str) -> Iterator[None]:
    """Start worker processes by "fork", which spares each the imports, or by "spawn" as the product."""
    known = multiprocessing.context._concrete_contexts  # type: ignore[attr-defined]
    before = known["spawn"]
    known["spawn"] = _METHODS[method]
    try:
        yield
    finally:
        known["spawn"] = before


def _call(
    connection: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    is_watched: bool,
) -> None:
    os.setsid()  # it is killed with the workers it has started
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if is_watched:
        faulthandler.dump_traceback_later(HUNG_S - 5)  # where it hangs, for the log
    connection.send(("begun", os.getpid()))
    try:
        with workers_by("fork"):
            connection.send(("done", function(*arguments)))
    except MedFinderError as error:
        connection.send(("refused", f"{type(error).__name__}: {error}"))
    except BaseException as error:
        said = "".join(traceback.format_exception(error)[-6:])
        connection.send(("fell", f"{type(error).__name__}: {error}\n{said}"))


class Child:
    """A function in a process of its own.

    Args:
        is_watched: Say where it is after `HUNG_S`; that alone may bring down one with threads.

    Attributes:
        said: How it ended: ("done", what it returned), ("refused", the message of a
            MedFinderError), ("fell", another error), ("killed", ""), ("hung", "").
    """

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, is_watched: bool = True
    ) -> None:
        self._ours, theirs = context.Pipe()
        self.process = context.Process(target=_call, args=(theirs, function, arguments, is_watched))
        self.process.start()
        theirs.close()
        self.said: tuple[str, Any] = ("killed", "")
        assert self._says(HUNG_S), "The process did not start."
        self._ours.recv()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process.pid is not None
        return self.process.pid

    def _says(self, within_s: float) -> bool:
        """Wait for a message, in short waits: some sandboxes' kernels lose a wake-up."""
        deadline = time.monotonic() + within_s
        while not self._ours.poll(0.5):
            if time.monotonic() > deadline:
                return False
        return True

    def _ends(self, within_s: float) -> bool:
        """Wait until it has ended with all its threads, which then hold no lock."""
        deadline = time.monotonic() + within_s
        while self.process.exitcode is None:
            if time.monotonic() > deadline:
                return False
            self.process.join(0.5)
        return True

    def kill(self) -> bool:
        """Kill it and its workers with no warning; tell whether it was still at work."""
        was_at_work = not self._ours.poll(0) and self.process.is_alive()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        assert self._ends(HUNG_S), "A process that was killed did not end."
        return was_at_work

    def end(self, within_s: float = HUNG_S) -> tuple[str, Any]:
        """Wait until it has ended, and return `said`."""
        try:
            self.said = self._ours.recv() if self._says(within_s) else ("hung", "")
        except (EOFError, OSError):
            self.said = ("killed", "")
        if not self._ends(0.0 if self.said[0] == "hung" else HUNG_S):
            self.said = ("hung", self.said)  # at its end, where it had said something
            self.kill()
        return self.said


# -- what an artifact holds ------------------------------------------------------------


def contents(stage: str, out: Path) -> dict[str, Any]:
    """Return what must be the same in the artifacts of a run that was killed and one that was not."""
    kind = "index" if stage.startswith("index") else stage
    said = asdict(read_manifest(out, kind))
    del said["duration_s"]
    found: dict[str, Any] = {"manifest": said, "left": left_over(out)}
    return found | {"curate": _curated, "index": indexed, "train": _trained}[kind](out)


def left_over(out: Path) -> list[str]:
    """Return files that only a run in work has."""
    return sorted(
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.name == UNFINISHED
        or (path.name.endswith(".tmp") and "table" not in path.parts)
        or path.name.startswith((".building-", ".studies", ".manifest"))
    )


def _curated(out: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    tables = ("studies", "rejections", "doubts", "translations")
    rows = {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in tables}
    for row in rows["studies"]:
        row["volume_path"] = Path(row["volume_path"]).name  # a folder of another name
    copies = {path.name: digest(path) for path in (out / "volumes").iterdir()}
    return {"ids": [row["study_id"] for row in rows["studies"]], "rows": rows, "copies": copies}


def indexed(out: Path | str) -> dict[str, Any]:
    """Return what an index holds and finds, wherever it lies."""
    index = Index.open(out)
    ids = index.ids()
    vectors = {
        stream: [None if v is None else v.tobytes().hex() for v in index.vectors(stream, ids)]
        for stream in index.streams
    }
    finder = Finder(index, encoders())
    asked = {
        text: [(hit.study.study_id, round(hit.score, 5)) for hit in finder.search(text, k=5)]
        for text in ("dense left", "pleural effusion", "nodule in the right upper lobe")
    }
    studies = [asdict(study) for study in index.studies(ids)]
    return {"ids": ids, "studies": studies, "vectors": vectors, "asked": asked}


def _trained(out: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights = {
        key: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for path in sorted((out / "checkpoint").glob("*.safetensors"))
        for key, tensor in load_file(path).items()
    }
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("cpu_s", None)
        line.pop("time_s", None)
    return {"ids": [str(line.get("step")) for line in lines], "weights": weights, "curve": lines}


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_finished(out: Path) -> bool:
    """Tell whether the folder says that it is whole."""
    return (out / MANIFEST).is_file() and not (out / UNFINISHED).exists()


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    """Run a function in a process to its end, and return its seconds."""
    child = Child(function, *arguments)
    start = time.monotonic()
    said = child.end()
    assert said[0] == "done", said
    return time.monotonic() - start
