"""Studies and encoders → an index: the stage behind ``medfinder index``.

A run that is killed goes on where it stopped, and a run over changed studies embeds only what
changed: what is already in the index is compared by content, never by time. An engine does the
work; what comes back is written here, in the studies' order, by one process.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import medfinder
from medfinder.artifact import manifest_hash, read_manifest
from medfinder.config import from_dict, to_dict
from medfinder.curate.pseudonym import safe_id
from medfinder.embed import Embedded, Embedder, Embeddings, prepare
from medfinder.errors import ArtifactError, ConfigError, InputError, Mismatch
from medfinder.index.interface import AnyIndex, Stored
from medfinder.index.open import create_index, open_index, shown
from medfinder.index.schema import IndexConfig, Stream
from medfinder.model.encoder import EncoderInfo, find_encoder
from medfinder.place import Location, Place, join
from medfinder.records import Rejection, Study
from medfinder.scale.engine import Engine, Failure, Step
from medfinder.scale.here import Here
from medfinder.scale.line import threads
from medfinder.studies import digest, read_studies
from medfinder.volume.cache import PreprocessCache
from medfinder.volume.checks import CheckConfig
from medfinder.volume.preprocess import PreprocessConfig
from medfinder.volume.read import read_study

Vectors = dict[str, npt.NDArray[np.float32]]

BATCH = 16  # studies a commit, at least
MOST = 4096  # at most: they wait in memory
SHARE = 0.05  # of a run's time that commits may take, each of which costs more the more there were


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """What a run of `build_index` did.

    Attributes:
        where: The artifact, as it may be shown: a folder or a URL without its password.
        n_studies: Studies in the index.
        n_embedded: Studies embedded by this run.
        n_deleted: Studies dropped because the dataset no longer holds them.
        n_rejections: Studies whose volume can no longer be read.
        rejections: Where they are told of.
        duration_s: Wall time.
    """

    where: str
    n_studies: int
    n_embedded: int
    n_deleted: int
    n_rejections: int
    rejections: str
    duration_s: float


def build_index(
    studies_folder: Location,
    out: Location,
    encoder: str | Embedder | None = "astra",
    text_encoder: str | Embedder | None = "minilm",
    *,
    keep_regions: bool = False,
    keep_others: bool = False,
    cache: str | Path | None = None,
    config: IndexConfig | None = None,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Bring the index at `out` up to the studies that ``medfinder curate`` wrote.

    Args:
        studies_folder: A folder, or ``s3://…``.
        out: A folder, ``s3://…`` or ``postgresql://…``; see `medfinder.index.open.create_index`.
        encoder: Of the volumes: a name, a checkpoint's folder, a repository of the Hub, or an
            embedder; None for an index over reports alone. One that reads text too also embeds
            the reports, into the volumes' space, so that a CT finds them.
        text_encoder: Of the reports; None for BM25 and findings alone.
        keep_regions: Also write each volume's region features to ``OUT/regions/STUDY.npy``,
            (n_regions, F) float16.
        keep_others: Leave studies of the index in it that the folder does not hold: these are
            added to those.
        cache: Folder that keeps preprocessed volumes, for indexing again with another encoder of
            the same input; None to preprocess each time.
        engine: Who reads and embeds; None for this process. Encoders given by name are loaded by
            its workers. With one number of threads a worker, the vectors are the same bit for bit
            whoever made them.
        progress: Called with (done, total) after each study.

    Raises:
        ConfigError: Neither encoder is given.
        Mismatch: `out` holds another model's vectors.
        InputError: No study could be embedded.
    """
    start = time.monotonic()
    parent = read_manifest(studies_folder, "curate")
    studies = read_studies(join(studies_folder, "studies.parquet"))
    check = from_dict(CheckConfig, parent.config.get("check", {}))
    sources = _sources(encoder, text_encoder)
    if not sources:
        raise ConfigError("An index needs an encoder of volumes, of reports, or both.")
    if engine is None:
        for source in sources.values():
            source.load()  # what it lacks is said before there is a folder
    index = create_index(
        out,
        {
            stream: Stream(
                source.info.where or source.info.name,
                source.info.model_id,
                source.info.dim,
                is_centred=stream == "volume" and "text" not in source.info.streams,
            )
            for stream, source in sources.items()
        },
        config,
    )
    regions = index.regions if keep_regions and "volume" in sources else None
    stored = index.study_hashes()
    changed = _changed(studies, stored, index, regions)
    todo = [_plan(study, study.study_id in stored, index, regions) for study in changed]
    gone = sorted(stored.keys() - {study.study_id for study in studies})
    parents = {"studies": manifest_hash(parent)}
    settings = {"check": to_dict(check)}
    if keep_others and gone:
        gone = []
        parents, settings = _of_others(index, parents, settings)
    is_whole = index.is_finished and not index.is_changing
    if is_whole and not todo and not gone and open_index(index.place).streams == index.streams:
        return Built(shown(out), index.count(), 0, 0, 0, "", round(time.monotonic() - start, 3))
    # An index that is being searched stays open to it: its manifest stands until the new one.
    index.begin_changes()
    index.delete(gone)
    for study_id in gone:
        index.regions.delete(_region_file(study_id))
    rejections: list[Rejection] = []
    n_done, n_embedded = len(studies) - len(todo), 0
    batch: list[tuple[Study, Vectors]] = []
    due = 0.0  # when committing is worth its time again
    steps = _steps(sources, check, cache, regions is not None)
    for study, vectors, is_new in _embedded(todo, engine or Here(), steps, regions, rejections):
        batch.append((study, vectors))
        n_done += 1
        n_embedded += is_new
        if len(batch) >= MOST or (len(batch) >= BATCH and time.monotonic() >= due):
            begun = time.monotonic()
            _commit(index, batch, sources)
            batch, now = [], time.monotonic()
            due = now + (now - begun) * (1 - SHARE) / SHARE
        if progress:
            progress(n_done, len(studies))
    _commit(index, batch, sources)
    told = index.write_rejections(rejections)
    if index.count() == 0:
        raise InputError(
            f"No study could be embedded: see {told!r} for the reasons.",
            rule="nothing-usable",
        )
    duration_s = round(time.monotonic() - start, 3)
    index.finish(
        parents,
        duration_s,
        medfinder.__version__,
        settings,
    )
    index.end_changes()
    return Built(
        shown(out), index.count(), n_embedded, len(gone), len(rejections), told, duration_s
    )


def _of_others(
    index: AnyIndex, parents: dict[str, str], settings: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what an index that is added to was made of: its own, and the latest that was added."""
    try:
        before = index.manifest()
    except ArtifactError:  # it was never finished: nothing is known of the others
        return parents, settings
    if "studies" not in before.parents:
        return parents, settings
    return (
        {"studies": before.parents["studies"], "added": parents["studies"]},
        {"check": before.config.get("check", settings["check"])},
    )


@dataclasses.dataclass(eq=False)
class _Source:
    """An encoder, or where to load it: by its name it travels, and is loaded once where it is used.

    Attributes:
        info: What it declares.
        given: A name, or an embedder.
    """

    info: EncoderInfo
    given: str | Embedder
    _loaded: Embedder | None = None

    @classmethod
    def of(cls, given: str | Embedder) -> "_Source":
        return cls(find_encoder(given).info if isinstance(given, str) else given.info, given)

    @property
    def batch_size(self) -> int:
        """Volumes that it encodes at once."""
        return 1 if isinstance(self.given, str) else self.given.batch_size

    def load(self) -> Embedder:
        """Return the embedder.

        Raises:
            MissingExtra: Its weights or packages are not installed.
            Mismatch: What is installed here is another model than was declared.
        """
        if self._loaded is None:
            made = Embedder(self.given) if isinstance(self.given, str) else self.given
            if made.model_id != self.info.model_id:
                raise Mismatch(
                    f"A worker loads another model than this run began with: expected "
                    f"{self.info.model_id}, got {made.model_id}. Install the same on all machines."
                )
            self._loaded = made
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}


def _sources(
    encoder: str | Embedder | None, text_encoder: str | Embedder | None
) -> dict[str, _Source]:
    """Return stream -> its encoder; one that serves several streams is one."""
    made: dict[str, _Source] = {}
    if encoder is not None:
        made["volume"] = _Source.of(encoder)
    if text_encoder is not None:
        same = made["volume"] if text_encoder == encoder else None
        made["report"] = same or _Source.of(text_encoder)
    if "volume" in made and "text" in made["volume"].info.streams:
        made["joint"] = made["volume"]
    return made


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """A study to write.

    Attributes:
        study: What is written.
        kept: Those of its vectors that need not be made again.
        wanted: Streams whose vectors are made.
    """

    study: Study
    kept: Vectors
    wanted: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class _Made:
    """What a worker made of a plan.

    Attributes:
        vectors: Stream -> vector.
        regions: (n_regions, F) float16; None unless asked for.
        problem: Why there is no vector of the volume, where one was wanted.
    """

    vectors: Vectors
    regions: npt.NDArray[np.float16] | None = None
    problem: InputError | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """A plan whose volume was read and preprocessed, or why it cannot be."""

    plan: _Plan
    array: npt.NDArray[np.generic] | None = None
    problem: InputError | None = None


@dataclasses.dataclass(frozen=True)
class _Reading:
    """The step that reads and preprocesses: it holds no model.

    Attributes:
        preprocess: As the volumes' encoder declares; None without one.
        check: Limits that the volumes were curated with.
        cache: Keeps preprocessed volumes.
    """

    preprocess: PreprocessConfig | None
    check: CheckConfig
    cache: PreprocessCache | None

    def __call__(self) -> Callable[[_Plan], _Read]:
        return self._read

    def _read(self, plan: _Plan) -> _Read:
        if self.preprocess is None or "volume" not in plan.wanted:
            return _Read(plan)
        study = plan.study
        source = partial(read_study, study, self.check)
        try:
            array = prepare(
                study.study_id, source, self.preprocess, self.cache, n_threads=threads()
            )
        except InputError as error:  # its report can be found all the same
            return _Read(plan, problem=error)
        return _Read(plan, array)


@dataclasses.dataclass(frozen=True)
class _Embedding:
    """The step that holds the models: volumes and texts -> vectors.

    Attributes:
        sources: Stream -> its encoder.
        regions: Whether region features are kept.
    """

    sources: Mapping[str, _Source]
    regions: bool

    def __call__(self) -> Callable[[list[_Read]], list[_Made | InputError]]:
        if (n := threads()) is not None:
            import torch

            torch.set_num_threads(n)
        for source in self.sources.values():
            source.load()
        return self._embed

    def _embed(self, batch: list[_Read]) -> list[_Made | InputError]:
        problems = {r.plan.study.study_id: r.problem for r in batch if r.problem is not None}
        arrays = [(r.plan.study.study_id, r.array) for r in batch if r.array is not None]
        volumes: dict[str, Embedded] = {}
        if arrays:
            embedded = (
                self.sources["volume"]
                .load()
                .encode_prepared(arrays, regions=self.regions, on_error=problems.__setitem__)
            )
            volumes = {done.study_id: done for done in embedded}
        return [self._whole(r.plan, volumes, problems) for r in batch]

    def _whole(
        self, plan: _Plan, volumes: Mapping[str, Embedded], problems: Mapping[str, InputError]
    ) -> _Made | InputError:
        vectors: Vectors = {}
        done = volumes.get(plan.study.study_id)
        if done is not None:
            vectors["volume"] = done.vector
        try:
            for stream in sorted(plan.wanted - {"volume"}):
                embedder = self.sources[stream].load()
                vectors[stream] = embedder.embed_texts([plan.study.text]).vectors[0]
        except InputError as error:
            return error
        return _Made(vectors, done and done.regions, problems.get(plan.study.study_id))


def _changed(
    studies: Sequence[Study], stored: Mapping[str, Stored], index: AnyIndex, regions: Place | None
) -> list[Study]:
    """Return the studies that the index lacks, holds in another form, or holds in part."""
    changed = []
    for study in studies:
        streams = {s for s in index.streams if s == "volume" or study.report is not None}
        have = stored.get(study.study_id)
        whole = have is not None and have.digest == digest(study) and have.streams == streams
        if not whole or (
            regions is not None and regions.mark(_region_file(study.study_id)) is None
        ):
            changed.append(study)
    return changed


def _plan(study: Study, stored: bool, index: AnyIndex, regions: Place | None) -> _Plan:
    """Keep the vectors whose input is the same: a study that moved is not embedded again."""
    streams = [s for s in index.streams if s == "volume" or study.report is not None]
    kept: Vectors = {}
    if stored:
        (old,) = index.studies([study.study_id])
        same_volume = old.volume_hash == study.volume_hash and (
            regions is None or regions.mark(_region_file(study.study_id)) is not None
        )
        same_report = old.report is not None and study.report is not None and old.text == study.text
        for stream in streams:
            if same_volume if stream == "volume" else same_report:
                (vector,) = index.vectors(stream, [study.study_id])
                if vector is not None:
                    kept[stream] = vector
    return _Plan(study, kept, frozenset(streams) - kept.keys())


def _embedded(
    plans: Sequence[_Plan],
    engine: Engine,
    steps: Sequence[Step],
    regions: Place | None,
    rejections: list[Rejection],
) -> Iterator[tuple[Study, Vectors, bool]]:
    """Yield each study with all its vectors, and whether one of them is new.

    They come in order, but for those that a worker fell over. A study whose volume cannot be read
    any more keeps its report's place in the index.
    """
    fallen: list[_Plan] = []
    stream = engine.map((plan for plan in plans if plan.wanted), steps)
    with contextlib.closing(stream):
        for plan in plans:
            made = next(stream)[1] if plan.wanted else _Made({})
            if isinstance(made, Failure):
                rejections.append(Rejection(plan.study.study_id, made.rule, made.reason))
                fallen.append(plan)
            else:
                yield _written(plan, made, regions, rejections)
    # The report of a volume that takes its worker down is still a report.
    texts = [
        dataclasses.replace(plan, wanted=left if plan.wanted - left else frozenset())
        for plan in fallen
        for left in (plan.wanted - {"volume"},)
    ]
    stream = engine.map((plan for plan in texts if plan.wanted), steps)
    with contextlib.closing(stream):
        for plan in texts:
            made = next(stream)[1] if plan.wanted else _Made({})
            yield _written(plan, _Made({}) if isinstance(made, Failure) else made, None, rejections)


def _written(
    plan: _Plan, made: _Made, regions: Place | None, rejections: list[Rejection]
) -> tuple[Study, Vectors, bool]:
    """Write what is no column of the table, and return what is."""
    study_id = plan.study.study_id
    if made.problem is not None:
        rejections.append(Rejection(study_id, made.problem.rule, str(made.problem)))
    if regions is not None and made.regions is not None:
        with regions.write(_region_file(study_id)) as file:
            np.save(file, made.regions)
    return plan.study, {**plan.kept, **made.vectors}, bool(made.vectors)


def _steps(
    sources: Mapping[str, _Source], check: CheckConfig, cache: str | Path | None, regions: bool
) -> list[Step]:
    kept = PreprocessCache(Path(cache)) if cache is not None else None
    volumes = sources.get("volume")
    if volumes is not None and isinstance(volumes.given, Embedder):
        kept = volumes.given.cache or kept
    reading = _Reading(None if volumes is None else volumes.info.preprocess, check, kept)
    n = 1 if volumes is None else volumes.batch_size
    return [Step(reading), Step(_Embedding(sources, regions), batch=n, gpu=True)]


def _commit(
    index: AnyIndex, batch: Sequence[tuple[Study, Vectors]], sources: Mapping[str, _Source]
) -> None:
    if not batch:
        return
    columns = {}
    for stream, source in sources.items():
        rows = [(s.study_id, v[stream]) for s, v in batch if stream in v]
        if rows:
            columns[stream] = Embeddings(
                tuple(i for i, _ in rows), np.stack([v for _, v in rows]), source.info.model_id
            )
    index.add([study for study, _ in batch], columns)


def _region_file(study_id: str) -> str:
    return f"{safe_id(study_id)}.npy"
