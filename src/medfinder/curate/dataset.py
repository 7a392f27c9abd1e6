"""A curated folder, read a piece at a time: what the card, the comparison and the export share.

Nothing here holds more than one batch of rows, so a dataset of any length takes the same memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.artifact import Manifest, manifest_hash, read_manifest
from medfinder.errors import Mismatch
from medfinder.records import Study
from medfinder.studies import from_row, open_table, schema, whole

_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Dataset:
    """A finished folder of ``medfinder curate``.

    Attributes:
        folder: Where it lies.
        manifest: What its run said of it.
        n_studies: Rows of ``studies.parquet``.
    """

    folder: Path
    manifest: Manifest
    n_studies: int

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open a folder and look at no row yet.

        Raises:
            InputError: There is no such folder.
            Incomplete: It has no manifest or no studies: the run that writes it has not finished.
            Mismatch: It is another stage's, or another version of MedFinder wrote it.
        """
        manifest = read_manifest(folder, "curate")
        file = _open(folder / "studies.parquet")
        missing = sorted(set(schema().names) - set(file.schema_arrow.names))
        if missing:
            raise Mismatch(
                f"studies.parquet lacks the columns {', '.join(missing)}: another version of "
                "MedFinder wrote it. Run 'medfinder curate' again."
            )
        return cls(folder, manifest, file.metadata.num_rows)

    @property
    def hash(self) -> str:
        """The hash of its manifest: equal for equal content and settings."""
        return manifest_hash(self.manifest)

    @property
    def source(self) -> str:
        """The kind of source it came from, such as ``"bimcv"``; "" where the run did not say."""
        return str(self.manifest.config.get("source", ""))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``studies.parquet`` in its order, with all or some of its columns."""
        yield from _rows(self.folder / "studies.parquet", columns)

    def studies(self) -> Iterator[Study]:
        """Yield every study, in the file's order: by study_id."""
        for row in self.rows():
            with whole("studies.parquet"):
                study = from_row(row)
            yield study

    def rejections(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``rejections.parquet``; none where nothing was rejected."""
        yield from _rows(self.folder / "rejections.parquet", columns, optional=True)

    def doubts(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``doubts.parquet``; none where nothing was doubted."""
        yield from _rows(self.folder / "doubts.parquet", columns, optional=True)


def _rows(
    path: Path, columns: Sequence[str] | None, optional: bool = False
) -> Iterator[dict[str, Any]]:
    if optional and not path.exists():
        return
    file = _open(path)
    batches = file.iter_batches(_BATCH_ROWS, columns=list(columns) if columns else None)
    while True:
        with whole(path.name):
            batch = next(batches, None)
        if batch is None:
            return
        yield from batch.to_pylist()


def _open(path: Path) -> Any:
    # Without a buffer a whole row group's columns are read at once, however small the batch.
    return open_table(path, buffer_size=1 << 20, pre_buffer=False)
