"""Studies and encoders → an index: the stage behind ``medfinder index``.

A run that is killed goes on where it stopped, and a run over changed studies embeds only what
changed: what is already in the index is compared by content, never by time.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

import medfinder
from medfinder.artifact import MANIFEST, atomic_write, manifest_hash, read_manifest
from medfinder.embed import Embedded, Embedder, Embeddings
from medfinder.errors import ConfigError, InputError, Mismatch
from medfinder.index.store import Index, IndexConfig, Stream
from medfinder.records import Rejection, Study
from medfinder.studies import read_studies, write_rejections
from medfinder.volume.read import read_volume
from medfinder.volume.volume import Volume

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
    config: IndexConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Bring the index at `out` up to the studies that ``medfinder curate`` wrote.

    Args:
        encoder: Of the volumes; None for an index over reports alone.
        text_encoder: Of the reports; None for BM25 and findings alone.
        keep_regions: Also write each volume's region features to ``OUT/regions/STUDY.npy``,
            (n_regions, F) float16.
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
    embedders = {
        stream: Embedder(chosen) if isinstance(chosen, str) else chosen
        for stream, chosen in (("volume", encoder), ("report", text_encoder))
        if chosen is not None
    }
    if not embedders:
        raise ConfigError("An index needs an encoder of volumes, of reports, or both.")
    index = _open(out, embedders, config)
    todo = _todo(studies, index)
    gone = sorted(set(index.digests()) - {study.study_id for study in studies})
    if not todo and not gone and (out / MANIFEST).is_file():
        if progress:
            progress(len(studies), len(studies))
        return Built(out, index.count(), 0, 0, 0, round(time.monotonic() - start, 3))
    (out / MANIFEST).unlink(missing_ok=True)
    if gone:
        index.delete(gone)
    rejections: list[Rejection] = []
    n_done = len(studies) - len(todo)
    n_embedded = 0
    for first in range(0, len(todo), BATCH):
        batch = todo[first : first + BATCH]
        n_embedded += _add(index, batch, embedders, out, keep_regions, rejections)
        n_done += len(batch)
        if progress:
            progress(n_done, len(studies))
    write_rejections(out / "rejections.parquet", rejections)
    if index.count() == 0:
        raise InputError(
            f"No study could be embedded: see {str(out / 'rejections.parquet')!r} for the reasons.",
            rule="nothing-usable",
        )
    duration_s = round(time.monotonic() - start, 3)
    index.finish(
        parents={"studies": manifest_hash(parent)},
        duration_s=duration_s,
        package_version=medfinder.__version__,
    )
    return Built(out, index.count(), n_embedded, len(gone), len(rejections), duration_s)
