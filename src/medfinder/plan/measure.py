"""What a study costs on this machine: some studies of a curated folder, taken through every step."""

import dataclasses
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from medfinder.artifact import Manifest, read_manifest
from medfinder.config import from_dict
from medfinder.curate.inspect import inspect
from medfinder.embed import Embedder, Embeddings
from medfinder.errors import ConfigError, InputError
from medfinder.index.schema import STREAMS
from medfinder.index.store import Index, Stream
from medfinder.plan.costs import StudyCosts
from medfinder.records import Study
from medfinder.search.build import BATCH, SHARE
from medfinder.studies import read_studies
from medfinder.volume.checks import CheckConfig
from medfinder.volume.preprocess import preprocess
from medfinder.volume.read import VolumeRef, read_study

T = TypeVar("T")
N_ROWS = 256  # rows that the cost of a commit is measured on


def measure_study(
    studies_folder: str | Path,
    encoder: str | None = "medfinder",
    text_encoder: str | None = "minilm",
    n: int = 24,
    seed: int = 0,
) -> StudyCosts:
    """Measure what a study costs, on one core of this machine, in a process just started.

    What curation took beyond the volume comes from the folder's manifest: its seconds of the clock
    times its workers. A folder whose curation was stopped and went on tells too little there.

    Args:
        studies_folder: That ``medfinder curate`` wrote, its volumes where they were.
        n: Studies drawn, at least 4.
        seed: Of the draw.

    Raises:
        InputError: The folder has fewer than 4 studies with volumes that can be read.
        ConfigError: `n` is below 4, or there is no encoder.
    """
    if n < 4:
        raise ConfigError(f"Measure at least 4 studies, got {n}.")
    if encoder is None and text_encoder is None:
        raise ConfigError("An index needs an encoder of volumes, of reports, or both.")
    import torch

    folder = Path(studies_folder)
    manifest = read_manifest(folder, "curate")
    every = read_studies(folder / "studies.parquet")
    found = [study for study in every if study.volume_path]
    if len(found) < 4:
        raise InputError(
            f"The folder holds {len(found)} studies with a volume; at least 4 are needed to measure.",
            rule="too-few",
        )
    drawn = np.random.default_rng(seed).choice(len(found), min(n, len(found)), replace=False)
    some = [found[i] for i in sorted(drawn.tolist())]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(folder, some, every, encoder, text_encoder, manifest)
    finally:
        torch.set_num_threads(n_threads)


def _measured(
    folder: Path,
    some: Sequence[Study],
    every: Sequence[Study],
    encoder: str | None,
    text_encoder: str | None,
    manifest: Manifest,
) -> StudyCosts:
    check = from_dict(CheckConfig, manifest.config.get("check", {}))
    volumes = None if encoder is None else Embedder(encoder)
    joint = volumes if volumes is not None and "text" in volumes.info.streams else None
    reports = None if text_encoder is None else Embedder(text_encoder)
    texts = [embedder for embedder in (reports, joint) if embedder is not None]
    start_s = time.process_time()  # of this process since it began: importing and loading
    took: dict[str, list[float]] = {name: [] for name in ("inspect", "read", "prepare", "embed")}
    text_s: list[float] = []
    mvoxels = []
    for number, study in enumerate(some):
        _timed(took["inspect"], partial(inspect, _ref(study), check))
        volume = _timed(took["read"], partial(read_study, study, check))
        mvoxels.append(float(np.prod(volume.shape)) / 1e6)
        if volumes is not None:
            config = volumes.info.preprocess
            assert config is not None
            prepared = _timed(took["prepare"], partial(preprocess, volume, config))
            embed = partial(volumes.embed_prepared, [study.study_id], prepared[None])
            _timed(took["embed"], embed)
        if study.report is not None and texts:
            _timed(text_s, partial(_embed_texts, texts, study.text))
        if number == 0:  # compiled, and its files read, at the first
            for times in (*took.values(), text_s):
                times.clear()
    share = sum(1 for study in every if study.report is not None) / len(every)
    dims = [e.info.dim for e in (volumes, reports, joint) if e is not None]
    commit_s, row_bytes = _commits(some, dims)
    # Commits become rarer as they become dearer.
    embedded_s = sum(_mean(took[name]) for name in ("read", "prepare", "embed"))
    rest_s = embedded_s + share * _mean(text_s)
    commit_s = min(commit_s, rest_s * SHARE / (1 - SHARE))
    workers = int(manifest.config.get("workers", 0)) or os.cpu_count() or 1
    curate_s = manifest.duration_s * workers / max(1, len(every))
    inspect_s = float(np.mean(took["inspect"]))
    return StudyCosts(
        encoder=f"{encoder or 'none'} + {text_encoder or 'none'}",
        n=len(some),
        mvoxels=float(np.mean(mvoxels)),
        inspect_s=inspect_s,
        words_s=max(0.0, curate_s - inspect_s),
        read_s=float(np.mean(took["read"])),
        preprocess_s=_mean(took["prepare"]),
        embed_s=_mean(took["embed"]),
        text_s=share * _mean(text_s),
        commit_s=commit_s,
        index_start_s=start_s,
        dims=tuple(dims),
        curated_bytes=_bytes(folder) / len(every),
        row_bytes=row_bytes,
        worker_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _timed(into: list[float], action: Callable[[], T]) -> T:
    start = time.process_time()
    found = action()
    into.append(time.process_time() - start)
    return found


def _embed_texts(embedders: Sequence[Embedder], text: str) -> None:
    for embedder in embedders:
        embedder.embed_texts([text])


def _mean(times: Sequence[float]) -> float:
    return float(np.mean(times)) if times else 0.0


def _ref(study: Study) -> VolumeRef:
    """Return the study's volume as curation found it."""
    path = Path(study.volume_path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return VolumeRef(path, "nifti", None, path.name)
    return VolumeRef(path, "dicom", (study.series_id or None) if path.is_dir() else None, path.name)


def _bytes(folder: Path) -> int:
    """Return what curation keeps of its studies, without copies of volumes."""
    return sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and "volumes" not in file.relative_to(folder).parts
    )


def _commits(some: Sequence[Study], dims: Sequence[int]) -> tuple[float, float]:
    """Return CPU-seconds and bytes of a row, its vectors' bytes apart, in an index made for it."""
    random = np.random.default_rng(0)
    names = STREAMS[: len(dims)]
    streams = {
        name: Stream("measured", "measured", dim) for name, dim in zip(names, dims, strict=True)
    }
    rows = [dataclasses.replace(some[i % len(some)], study_id=f"row-{i}") for i in range(N_ROWS)]
    with tempfile.TemporaryDirectory() as temporary:
        index = Index.create(Path(temporary) / "index", streams)
        start = time.process_time()
        for first in range(0, N_ROWS, BATCH):
            batch = rows[first : first + BATCH]
            ids = tuple(study.study_id for study in batch)
            index.add(
                batch,
                {
                    name: Embeddings(
                        ids,
                        random.standard_normal((len(ids), stream.dim)).astype(np.float32),
                        stream.model_id,
                    )
                    for name, stream in streams.items()
                },
            )
        took = (time.process_time() - start) / N_ROWS
        index.finish()
        size = sum(f.stat().st_size for f in Path(temporary).rglob("*") if f.is_file())
    return took, max(0.0, size / N_ROWS - 4 * sum(dims))
