"""Studies and encoders → an index: the stage behind ``medfinder index``.

A run that is killed goes on where it stopped, and a run over changed studies embeds only what
changed: what is already in the index is compared by content, never by time.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import medfinder
from medfinder.artifact import atomic_write, manifest_hash, read_manifest
from medfinder.config import from_dict, to_dict
from medfinder.curate.pseudonym import safe_id
from medfinder.embed import Embedded, Embedder, Embeddings
from medfinder.errors import ArtifactError, ConfigError, InputError
from medfinder.index.store import Index, IndexConfig, Stored, Stream
from medfinder.records import Rejection, Study
from medfinder.studies import digest, read_studies, write_rejections
from medfinder.volume.cache import PreprocessCache
from medfinder.volume.checks import CheckConfig
from medfinder.volume.read import read_study

Vectors = dict[str, npt.NDArray[np.float32]]

UNFINISHED = "unfinished"  # marks an index whose rows have changed since its last `finish`
BATCH = 16  # studies a commit: at most this many are embedded again after a kill


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """What a run of `build_index` did.

    Attributes:
        folder: The artifact.
        n_studies: Studies in the index.
        n_embedded: Studies embedded by this run.
        n_deleted: Studies dropped because the dataset no longer holds them.
        n_rejections: Studies whose volume can no longer be read; ``rejections.parquet``.
        duration_s: Wall time.
    """

    folder: Path
    n_studies: int
    n_embedded: int
    n_deleted: int
    n_rejections: int
    duration_s: float


def build_index(
    studies_folder: str | Path,
    out: str | Path,
    encoder: str | Embedder | None = "astra",
    text_encoder: str | Embedder | None = "minilm",
    *,
    keep_regions: bool = False,
    keep_others: bool = False,
    cache: str | Path | None = None,
    config: IndexConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Bring the index at `out` up to the studies that ``medfinder curate`` wrote.

    Args:
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
        progress: Called with (done, total) after each study.

    Raises:
        ConfigError: Neither encoder is given.
        Mismatch: `out` holds another model's vectors.
        InputError: No study could be embedded.
    """
    start = time.monotonic()
    studies_folder, out = Path(studies_folder), Path(out)
    parent = read_manifest(studies_folder, "curate")
    studies = read_studies(studies_folder / "studies.parquet")
    check = from_dict(CheckConfig, parent.config.get("check", {}))
    embedders = _embedders(encoder, text_encoder, cache)
    if not embedders:
        raise ConfigError("An index needs an encoder of volumes, of reports, or both.")
    index = Index.create(
        out,
        {
            stream: Stream(
                embedder.info.where or embedder.info.name,
                embedder.model_id,
                embedder.info.dim,
                is_centred=stream == "volume" and "text" not in embedder.info.streams,
            )
            for stream, embedder in embedders.items()
        },
        config,
    )
    regions = out / "regions" if keep_regions and "volume" in embedders else None
    stored = index.study_hashes()
    changed = _changed(studies, stored, index, regions)
    todo = [
        _plan(study, index, regions) if study.study_id in stored else _Plan(study, {})
        for study in changed
    ]
    gone = sorted(stored.keys() - {study.study_id for study in studies})
    parents = {"studies": manifest_hash(parent)}
    settings = {"check": to_dict(check)}
    if keep_others and gone:
        gone = []
        parents, settings = _of_others(out, parents, settings)
    is_whole = index.is_finished and not (out / UNFINISHED).exists()
    if is_whole and not todo and not gone and Index.open(out).streams == index.streams:
        return Built(out, index.count(), 0, 0, 0, round(time.monotonic() - start, 3))
    # An index that is being searched stays open to it: its manifest stands until the new one.
    (out / UNFINISHED).touch()
    index.delete(gone)
    for study_id in gone:
        _region_file(out / "regions", study_id).unlink(missing_ok=True)
    rejections: list[Rejection] = []
    n_done, n_embedded = len(studies) - len(todo), 0
    batch: list[tuple[Study, Vectors]] = []
    for study, vectors, is_new in _embedded(todo, embedders, check, regions, rejections):
        batch.append((study, vectors))
        n_done += 1
        n_embedded += is_new
        if len(batch) == BATCH:
            _commit(index, batch, embedders)
            batch = []
        if progress:
            progress(n_done, len(studies))
    _commit(index, batch, embedders)
    write_rejections(out / "rejections.parquet", rejections)
    if index.count() == 0:
        raise InputError(
            f"No study could be embedded: see {str(out / 'rejections.parquet')!r} for the reasons.",
            rule="nothing-usable",
        )
    duration_s = round(time.monotonic() - start, 3)
    index.finish(
        parents,
        duration_s,
        medfinder.__version__,
        settings,
    )
    (out / UNFINISHED).unlink(missing_ok=True)  # another run may have ended meanwhile
    return Built(out, index.count(), n_embedded, len(gone), len(rejections), duration_s)


def _of_others(
    out: Path, parents: dict[str, str], settings: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what an index that is added to was made of: its own, and the latest that was added."""
    try:
        before = read_manifest(out, "index")
    except ArtifactError:  # it was never finished: nothing is known of the others
        return parents, settings
    if "studies" not in before.parents:
        return parents, settings
    return (
        {"studies": before.parents["studies"], "added": parents["studies"]},
        {"check": before.config.get("check", settings["check"])},
    )


def _embedders(
    encoder: str | Embedder | None, text_encoder: str | Embedder | None, cache: str | Path | None
) -> dict[str, Embedder]:
    """Return stream -> its embedder; one that serves several streams is loaded once."""
    kept = PreprocessCache(Path(cache)) if cache is not None else None
    made: dict[str, Embedder] = {}
    loaded: dict[str, Embedder] = {}
    for stream, chosen in (("volume", encoder), ("report", text_encoder)):
        if isinstance(chosen, str):
            if chosen not in loaded:
                loaded[chosen] = Embedder(chosen, kept)
            chosen = loaded[chosen]
        if chosen is not None:
            made[stream] = chosen
    if "volume" in made and "text" in made["volume"].info.streams:
        made["joint"] = made["volume"]
    return made


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """A study to write, with those of its vectors that need not be made again."""

    study: Study
    kept: Vectors


def _changed(
    studies: Sequence[Study], stored: Mapping[str, Stored], index: Index, regions: Path | None
) -> list[Study]:
    """Return the studies that the index lacks, holds in another form, or holds in part."""
    changed = []
    for study in studies:
        streams = {s for s in index.streams if s == "volume" or study.report is not None}
        have = stored.get(study.study_id)
        whole = have is not None and have.digest == digest(study) and have.streams == streams
        if not whole or (
            regions is not None and not _region_file(regions, study.study_id).exists()
        ):
            changed.append(study)
    return changed


def _plan(study: Study, index: Index, regions: Path | None) -> _Plan:
    """Keep the vectors whose input is the same: a study that moved is not embedded again."""
    kept: Vectors = {}
    (old,) = index.studies([study.study_id])
    same_volume = old.volume_hash == study.volume_hash and (
        regions is None or _region_file(regions, study.study_id).exists()
    )
    same_report = old.report is not None and study.report is not None and old.text == study.text
    for stream in index.streams:
        if same_volume if stream == "volume" else same_report:
            (vector,) = index.vectors(stream, [study.study_id])
            if vector is not None:
                kept[stream] = vector
    return _Plan(study, kept)


def _embedded(
    plans: Sequence[_Plan],
    embedders: dict[str, Embedder],
    check: CheckConfig,
    regions: Path | None,
    rejections: list[Rejection],
) -> Iterator[tuple[Study, Vectors, bool]]:
    """Yield each study with all its vectors, in order, and whether one of them is new.

    A study whose volume cannot be read any more keeps its report's place in the index.
    """
    failed: dict[str, InputError] = {}
    made: dict[str, Embedded] = {}
    stream: Iterator[Embedded] = iter(())
    if "volume" in embedders:
        sources = (
            (plan.study.study_id, partial(read_study, plan.study, check))
            for plan in plans
            if "volume" not in plan.kept
        )
        stream = embedders["volume"].iter_volumes(
            sources, regions=regions is not None, on_error=failed.__setitem__
        )
    for plan in plans:
        study, vectors = plan.study, dict(plan.kept)
        if "volume" in embedders and "volume" not in vectors:
            while study.study_id not in made and study.study_id not in failed:
                done = next(stream, None)
                if done is None:
                    break
                made[done.study_id] = done
            if study.study_id in made:
                done = made.pop(study.study_id)
                vectors["volume"] = done.vector
                if regions is not None and done.regions is not None:
                    with atomic_write(_region_file(regions, study.study_id)) as file:
                        np.save(file, done.regions)
            else:
                error = failed[study.study_id]
                rejections.append(Rejection(study.study_id, error.rule, str(error)))
        for name in ("report", "joint"):
            if name in embedders and study.report is not None and name not in vectors:
                vectors[name] = embedders[name].embed_texts([study.text]).vectors[0]
        yield study, vectors, vectors.keys() != plan.kept.keys()


def _commit(
    index: Index, batch: Sequence[tuple[Study, Vectors]], embedders: dict[str, Embedder]
) -> None:
    if not batch:
        return
    columns = {}
    for stream, embedder in embedders.items():
        rows = [(s.study_id, v[stream]) for s, v in batch if stream in v]
        if rows:
            columns[stream] = Embeddings(
                tuple(i for i, _ in rows), np.stack([v for _, v in rows]), embedder.model_id
            )
    index.add([study for study, _ in batch], columns)


def _region_file(folder: Path, study_id: str) -> Path:
    return folder / f"{safe_id(study_id)}.npy"
