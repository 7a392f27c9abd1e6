"""A curated folder and its review → a new curated folder with the settled decisions in it.

The folder under review stays as it is. Studies that are not settled keep their doubts, so the new
folder can be reviewed on.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medfinder
from medfinder.artifact import (
    Manifest,
    atomic_write,
    manifest_hash,
    read_manifest,
    write_manifest,
)
from medfinder.curate.review import (
    CANDIDATES,
    LOG,
    ReviewQueue,
    Settled,
    outcome_of,
)
from medfinder.errors import InputError, MedFinderError, Mismatch
from medfinder.records import Rejection
from medfinder.studies import read_doubts, read_rejections, write_doubts, write_rejections

RULE = "rejected-by-review"
_OURS = frozenset({"studies.parquet", "rejections.parquet", "doubts.parquet", CANDIDATES})


@dataclass(frozen=True, slots=True)
class Applied:
    """What a review changed.

    Attributes:
        folder: The new artifact.
        n_studies: Studies in it.
        n_rejected: Studies that readers rejected.
        n_translated: Studies whose English they wrote or took.
        n_relabelled: Studies whose labels they changed.
        n_cleared: Studies that are kept and no longer in doubt.
        n_open: Studies still in doubt.
    """

    folder: Path
    n_studies: int
    n_rejected: int
    n_translated: int
    n_relabelled: int
    n_cleared: int
    n_open: int


def apply_review(
    queue: ReviewQueue, out: Path, progress: Callable[[int, int], None] | None = None
) -> Applied:
    """Write the dataset to `out` as the settled decisions make it.

    A kept study loses its doubts and has the English and the labels that were settled on; a
    rejected one moves to ``rejections.parquet`` with the readers' reason. Rows keep their order;
    memory does not grow with their number. A run that was killed is repeated.

    Args:
        progress: Called with (done, total) studies.

    Raises:
        InputError: `out` is the folder under review, holds a finished dataset or files of
            something else (rule ``folder-in-use``), or nothing is settled (``nothing-settled``).
        Mismatch: The log was tampered with, or the folder was curated again meanwhile.
    """
    start = time.monotonic()
    before = queue.manifest
    number, head = queue.log.verify()
    settled = queue.settled()
    if not settled:
        raise InputError(
            "No study of this review is settled: there is nothing to apply. Review first.",
            rule="nothing-settled",
        )
    source = queue.folder
    _check_free(source, out)
    out.mkdir(parents=True, exist_ok=True)
    changes = {i: _change(queue, i, came) for i, came in settled.items()}
    removed = {i for i, came in settled.items() if came.decision.verdict == "reject"}
    n_studies = _write_studies(source, out, changes, removed, progress)
    rejections = read_rejections(source / "rejections.parquet")
    rejections += [Rejection(i, RULE, settled[i].decision.reason) for i in removed]
    doubts = [d for d in read_doubts(source / "doubts.parquet") if d.study_id not in settled]
    write_rejections(out / "rejections.parquet", rejections)
    write_doubts(out / "doubts.parquet", doubts)
    if (source / CANDIDATES).is_file():
        with (source / CANDIDATES).open("rb") as old, atomic_write(out / CANDIDATES) as new:
            shutil.copyfileobj(old, new)
    if manifest_hash(read_manifest(source, "curate")) != manifest_hash(before):
        raise Mismatch(
            "The folder under review was curated again while the review was applied to it. Apply "
            "it once more."
        )
    counts = {**before.counts, "studies": n_studies, "rejections": len(rejections)}
    counts |= {"doubts": len(doubts), "reviewed": len(settled)}
    write_manifest(
        out,
        Manifest(
            stage="curate",
            config={**before.config, "review": {"readers": queue.readers, "events": number}},
            parents={"studies": manifest_hash(before), "review": head[:16]},
            counts=counts,
            seed=before.seed,
            duration_s=round(time.monotonic() - start, 3),
            package_version=medfinder.__version__,
        ),
    )
    return Applied(
        folder=out,
        n_studies=n_studies,
        n_rejected=len(removed),
        n_translated=sum("translation_text" in change for change in changes.values()),
        n_relabelled=sum("labels" in change for change in changes.values()),
        n_cleared=len(settled) - len(removed),
        n_open=len({d.study_id for d in doubts}),
    )


def _check_free(source: Path, out: Path) -> None:
    if out.resolve() == source.resolve():
        raise InputError(
            "The reviewed dataset cannot be written over the one under review, which stays as it "
            "is. Give another folder.",
            rule="folder-in-use",
        )
    if out.exists() and not out.is_dir():
        raise InputError(
            f"{str(out)!r} is a file; a dataset needs a folder. Give another path.",
            rule="folder-in-use",
        )
    try:
        read_manifest(out, "curate")
    except MedFinderError:
        others = [p.name for p in out.iterdir() if p.name not in _OURS] if out.exists() else []
        if not [name for name in others if not name.endswith(".tmp")]:
            return
    raise InputError(
        f"The folder {str(out)!r} is in use: expected a new one, or what an earlier run of this "
        f"command left unfinished. Give another path; a review's {LOG} is never written over.",
        rule="folder-in-use",
    )


def _change(queue: ReviewQueue, study_id: str, came: Settled) -> dict[str, Any]:
    """Return the columns of a kept study's row that the review changed."""
    if came.decision.verdict == "reject":
        return {}
    shown = queue.shown(study_id)
    english, labels = outcome_of(came.decision, shown)
    change: dict[str, Any] = {}
    report = shown.study.report
    if report is not None and report.language != "en" and english != shown.study.translation:
        change["translation_text"] = english
    if came.decision.labels is not None:
        change["labels"] = list(labels)
    return change


def _write_studies(
    source: Path,
    out: Path,
    changes: Mapping[str, Mapping[str, Any]],
    removed: set[str],
    progress: Callable[[int, int], None] | None,
) -> int:
    """Copy the rows batch by batch, changed or left out, and return how many were written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_read = n_written = 0
    with (
        pq.ParquetFile(source / "studies.parquet") as file,
        atomic_write(out / "studies.parquet") as new,
        pq.ParquetWriter(new, file.schema_arrow, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(batch_size=1024):
            ids = batch.column("study_id").to_pylist()
            n_read += len(ids)
            if changes.keys().isdisjoint(ids):
                table = pa.Table.from_batches([batch])
            else:
                rows = [
                    {**row, **changes.get(row["study_id"], {})}
                    for row in batch.to_pylist()
                    if row["study_id"] not in removed
                ]
                table = pa.Table.from_pylist(rows, schema=file.schema_arrow)
            writer.write_table(table)
            n_written += table.num_rows
            if progress:
                progress(n_read, file.metadata.num_rows)
    return n_written
