"""A curated dataset → a folder to give out: in the Hub's layout, as WebDataset, as BIMCV-R.

Nothing of the archive leaves but what is meant to: volumes are written anew from their voxels and
geometry, without a header's free text; no path, no series number. The folder is made aside and
takes its name only when it is whole; a run that was stopped goes on where it stopped.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import medfinder
from medfinder.artifact import MANIFEST, Manifest, atomic_write, write_manifest
from medfinder.config import from_dict
from medfinder.curate.card import PICTURES, card_blocks, licence, write_pictures
from medfinder.curate.dataset import Dataset
from medfinder.curate.exports.bimcv_r import BimcvRLayout
from medfinder.curate.exports.hub import HubLayout
from medfinder.curate.exports.layout import Layout
from medfinder.curate.exports.webdataset import DONE, WebDatasetLayout
from medfinder.curate.page import to_html, to_markdown
from medfinder.curate.statistics import Statistics, statistics
from medfinder.errors import ConfigError, InputError, Mismatch
from medfinder.place import is_temporary
from medfinder.records import Rejection, Study
from medfinder.registry import unknown
from medfinder.studies import write_rejections
from medfinder.volume.checks import CheckConfig

Format = Literal["hub", "webdataset", "bimcv-r"]
Volumes = Literal["copy", "link", "none"]
_Prepared = tuple[Study | None, Path | None, Rejection | None]
_MARK = ".export.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Where a NIfTI-1 header has room for words: data_type and db_name, descrip and aux_file,
# intent_name (nifti1.h); and the four bytes after it that announce extensions.
_WORDS = (slice(4, 32), slice(148, 252), slice(328, 344), slice(348, 352))


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Settings of ``medfinder export``.

    Attributes:
        format: The layout.
        volumes: ``"copy"`` writes each volume anew as NIfTI. ``"link"`` makes a hard link instead
            where the file is a ``.nii.gz`` on the same disk whose header holds no words.
            ``"none"`` gives out the tables and texts alone.
        shard_mb: Largest Parquet file or tar shard, in megabytes of 10^6 bytes.
        licence: The Hub's identifier of a licence; "" for the source's own.
        card: Write the dataset card too: as the README's text, with pictures, and as one page.
        workers: Volumes read at once; 0 for one a core, at most 4. Each takes the memory of a CT.
    """

    format: Format = "hub"
    volumes: Volumes = "copy"
    shard_mb: int = 500
    licence: str = ""
    card: bool = True
    workers: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("format", get_args(Format)), ("volumes", get_args(Volumes))):
            if getattr(self, name) not in allowed:
                raise ConfigError(unknown(f"export.{name}", getattr(self, name), sorted(allowed)))
        if self.shard_mb < 1:
            raise ConfigError(
                f"export.shard_mb must be at least 1, got {self.shard_mb}. 500 suits the Hub."
            )


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export` wrote.

    Attributes:
        folder: The export.
        n_studies: All of the dataset's.
        n_volumes: Studies whose volume is in it.
        left_out: Rule → studies whose volume could not be given out; their reports are in it.
        terms: The licence's, in one sentence.
    """

    folder: Path
    n_studies: int
    n_volumes: int
    left_out: Mapping[str, int]
    terms: str


def export(
    studies: Path,
    out: Path,
    config: ExportConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a curated dataset in a layout that others read.

    A volume that is gone, changed or unreadable costs its study the volume, not the export: each
    is a row of ``rejections.parquet`` in `out`.

    Args:
        studies: Folder of ``medfinder curate``.
        out: Folder to make. One that holds the same export is left as it is.
        progress: Called with (done, total) after each study.

    Raises:
        InputError: `out` holds something else (rules ``other-export``, ``not-empty``), the dataset
            has no studies (``nothing-to-export``), another run is writing it (``export-running``)
            or the disk cannot hold it (``disk-full``).
        Incomplete, Mismatch: As `Dataset.open`.
    """
    config = config or ExportConfig()
    dataset = Dataset.open(studies)
    if not dataset.n_studies:
        raise InputError(
            "The dataset has no studies, so there is nothing to export. See its "
            "rejections.parquet for the reasons.",
            rule="nothing-to-export",
        )
    mark = _mark(dataset, config)
    if _is_there(out, mark):
        return _read(out, dataset, config)
    whole = out.resolve()
    aside = whole.parent / f".{whole.name}.partial"
    try:
        with _claimed(aside, mark):
            _write(dataset, aside, config, mark, progress)
            if whole.exists():
                whole.rmdir()  # it is empty
            os.rename(aside, whole)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(
            f"The disk cannot hold the export: {error.strerror}. Nothing is in its place yet. Free "
            "some space and run the same command again; it goes on where it stopped.",
            rule="disk-full",
        ) from None
    _sweep(out)
    return _read(out, dataset, config)


def _mark(dataset: Dataset, config: ExportConfig) -> dict[str, Any]:
    """Return what makes two exports the same."""
    settings = {name: value for name, value in asdict(config).items() if name != "workers"}
    return {"dataset": dataset.hash, **settings, "version": medfinder.__version__}


def _is_there(out: Path, mark: Mapping[str, Any]) -> bool:
    """Tell whether `out` is this export, finished; False where there is nothing.

    Raises:
        InputError: It is something else.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; an export needs a folder. Give another path.")
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        found = manifest["config"] if manifest["stage"] == "export" else None
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found is None:
        if next(out.iterdir(), None) is None:
            return False
        raise InputError(
            f"{str(out)!r} is not empty and holds no export. Give another path; nothing there was "
            "changed.",
            rule="not-empty",
        )
    if found != mark:
        differing = [name for name in mark if found.get(name) != mark[name]]
        raise InputError(
            f"{str(out)!r} holds another export: it differs in {', '.join(differing)}. Give "
            "another path, or remove it first; nothing there was changed.",
            rule="other-export",
        )
    return True


@contextlib.contextmanager
def _claimed(aside: Path, mark: Mapping[str, Any]) -> Iterator[None]:
    """Hold the folder that is being written: for one run alone, and of one export alone."""
    aside.mkdir(parents=True, exist_ok=True)
    with (aside.parent / f"{aside.name}.lock").open("wb") as lock:
        _lock(lock)
        try:
            same = json.loads((aside / _MARK).read_bytes()) == mark
        except (OSError, ValueError):
            same = False
        if not same:  # of another dataset or with other settings, which changed since
            shutil.rmtree(aside)
            aside.mkdir()
            with atomic_write(aside / _MARK) as file:
                file.write(json.dumps(mark).encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(lock.name)


def _lock(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError:  # not POSIX: two runs at once are the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(
            "Another run is writing this export. Wait for it, or give another path.",
            rule="export-running",
        ) from None


def _write(
    dataset: Dataset,
    aside: Path,
    config: ExportConfig,
    mark: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> None:
    numbers = statistics(dataset.folder)
    layout = _layout(aside, config, bool(numbers.splits.keys() & {"train", "val", "test"}))
    shutil.rmtree(aside / ".volumes", ignore_errors=True)
    for path in aside.rglob(".*"):  # what a killed run was writing; this one alone writes here now
        if is_temporary(path.name):
            path.unlink(missing_ok=True)
    left_out = list(layout.earlier)
    n_done = 0
    try:
        # Closed here, so that no volume is still being written when this returns or raises.
        with contextlib.closing(_prepared(dataset, layout, config)) as prepared:
            for study, volume, rejection in prepared:
                if study is not None:
                    layout.add(study, volume, rejection)
                    left_out += [rejection] if rejection else []
                n_done += 1
                if progress:
                    progress(n_done, dataset.n_studies)
        layout.finish()
    except BaseException:
        with contextlib.suppress(Exception):
            layout.abandon()
        raise
    write_rejections(aside / "rejections.parquet", left_out)
    _write_pages(dataset, numbers, aside, config, layout)
    n_volumes = numbers.n_volumes - len(left_out) if config.volumes != "none" else 0
    write_manifest(
        aside,
        Manifest(
            stage="export",
            config=mark,
            parents={"curate": dataset.hash},
            counts={
                "studies": dataset.n_studies,
                "volumes": n_volumes,
                "rejections": len(left_out),
                **{
                    f"left-out-{r}": n for r, n in sorted(Counter(x.rule for x in left_out).items())
                },
            },
            package_version=medfinder.__version__,
        ),
    )


def _layout(folder: Path, config: ExportConfig, has_splits: bool) -> Layout:
    shard_bytes = config.shard_mb * 10**6
    if config.format == "hub":
        return HubLayout(folder, shard_bytes, has_splits)
    if config.format == "webdataset":
        return WebDatasetLayout(folder, shard_bytes, has_splits)
    return BimcvRLayout(folder, has_splits, config.volumes != "none")


def _prepared(
    dataset: Dataset, layout: Layout, config: ExportConfig
) -> Generator[_Prepared, None, None]:
    """Yield every study in order, its volume written; None for one that is done already.

    A few volumes are read ahead; no more than that many studies are held.
    """
    check = _check(dataset)
    workers = config.workers or min(4, os.cpu_count() or 1)
    ahead: deque[tuple[Study | None, Future[Path | Rejection] | None]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for study in dataset.studies():
                if layout.is_done(study):
                    ahead.append((None, None))
                elif config.volumes == "none" or not study.volume_hash:
                    ahead.append((study, None))
                else:
                    place = layout.place(study)
                    task = pool.submit(_volume, study, place, config.volumes, check)
                    ahead.append((study, task))
                while len(ahead) > 2 * workers:
                    yield _taken(*ahead.popleft())
            while ahead:
                yield _taken(*ahead.popleft())
        finally:
            for _, waiting in ahead:
                if waiting:
                    waiting.cancel()


def _taken(study: Study | None, task: Future[Path | Rejection] | None) -> _Prepared:
    made = task.result() if task else None
    return (
        study,
        made if isinstance(made, Path) else None,
        made if isinstance(made, Rejection) else None,
    )


def _volume(study: Study, place: Path, volumes: Volumes, check: CheckConfig) -> Path | Rejection:
    """Write one volume to its place, or say why it cannot be given out."""
    from medfinder.volume.nifti import write_nifti
    from medfinder.volume.read import read_study

    if place.exists():  # by a run that was stopped; files take their names when they are whole
        return place
    source = Path(study.volume_path)
    try:
        if not source.exists():
            raise InputError(
                "The volume is no longer where it was curated. Bring the archive back, or curate "
                "it again.",
                rule="volume-missing",
            )
        volume = read_study(study, check)
    except InputError as error:
        return Rejection(study.study_id, error.rule, str(error))
    except MemoryError:
        return Rejection(study.study_id, "out-of-memory", "The volume does not fit in memory.")
    place.parent.mkdir(parents=True, exist_ok=True)
    if volumes == "link" and is_bare(source):
        with contextlib.suppress(OSError):  # another disk, or one without links
            os.link(source, place)
            return place
    write_nifti(volume, place)
    return place


def is_bare(path: Path) -> bool:
    """Tell whether a file is a ``.nii.gz`` that holds voxels and geometry and nothing else.

    No word in its header, no extension, nothing after the voxels, no name in the gzip header.
    """
    import gzip

    if not path.name.endswith(".nii.gz") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if start[:3] != b"\x1f\x8b\x08" or start[3] != 0:
                return False
            file.seek(-4, os.SEEK_END)
            n_bytes = int.from_bytes(file.read(4), "little")  # of the content, modulo 2^32
        with gzip.open(path) as content:
            header = content.read(352)
    except (OSError, EOFError):
        return False
    if len(header) < 352 or any(any(header[part]) for part in _WORDS):
        return False
    order: Literal["little", "big"] = "little" if header[:4] == b"\x5c\x01\0\0" else "big"
    if int.from_bytes(header[:4], order) != 348:
        return False
    n_voxels = 1
    n_axes = int.from_bytes(header[40:42], order)
    for k in range(1, n_axes + 1):
        n_voxels *= int.from_bytes(header[40 + 2 * k : 42 + 2 * k], order)
    bits = int.from_bytes(header[72:74], order)
    return n_bytes == (352 + n_voxels * bits // 8) % 2**32


def _check(dataset: Dataset) -> CheckConfig:
    """Return the limits that the dataset was curated by."""
    told = dataset.manifest.config.get("check")
    if not isinstance(told, Mapping):
        return CheckConfig()
    return from_dict(CheckConfig, told)


def _write_pages(
    dataset: Dataset, numbers: Statistics, folder: Path, config: ExportConfig, layout: Layout
) -> None:
    front = layout.front_matter() if isinstance(layout, HubLayout) else ""
    text = f"---\n{_about(dataset, numbers, config)}{front}---\n"
    if config.card:
        blocks = card_blocks(dataset, numbers)
        write_pictures(blocks, folder / PICTURES)
        text += "\n" + to_markdown(blocks, PICTURES)
        with atomic_write(folder / "card.html") as file:
            file.write(to_html(blocks).encode())
    with atomic_write(folder / "README.md") as file:
        file.write(text.encode())


def _about(dataset: Dataset, numbers: Statistics, config: ExportConfig) -> str:
    """Return what the Hub shows of a dataset, as YAML."""
    terms = licence(dataset.source)
    lines = [f"license: {json.dumps(config.licence or terms.hub)}"]
    if not config.licence and terms.hub == "other":
        name = re.sub(r"[^a-z0-9]+", "-", terms.name.lower()).strip("-")
        lines.append(f"license_name: {name}")
    spoken = [name for name in numbers.languages if name in ("en", "es")]
    if sum(numbers.states["translated"].values()) and "en" not in spoken:
        spoken.append("en")
    if spoken:
        lines += ["language:", *(f"- {name}" for name in sorted(spoken))]
    sizes = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
    size = next((name for most, name in sizes if numbers.n_studies < most), "1M<n<10M")
    lines += ["size_categories:", f"- {size}", "tags:", "- medical", "- radiology", "- ct"]
    return "\n".join(lines) + "\n"


def _sweep(out: Path) -> None:
    """Remove what only a run in progress needs."""
    for name in (DONE, ".volumes"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / _MARK).unlink(missing_ok=True)


def _read(out: Path, dataset: Dataset, config: ExportConfig) -> Exported:
    _sweep(out)
    try:
        counts = json.loads((out / MANIFEST).read_bytes())["counts"]
        left_out = {
            name.removeprefix("left-out-"): int(n)
            for name, n in counts.items()
            if name.startswith("left-out-")
        }
        terms = config.licence or licence(dataset.source).terms
        return Exported(out, int(counts["studies"]), int(counts["volumes"]), left_out, terms)
    except (KeyError, ValueError, TypeError):
        raise Mismatch(
            f"The manifest of {str(out)!r} cannot be read. Remove the folder and export again."
        ) from None
