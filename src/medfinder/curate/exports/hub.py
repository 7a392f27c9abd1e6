"""The Hub's datasets layout: Parquet by split, volumes beside, a README that declares them.

``datasets.load_dataset(FOLDER)`` reads it, on a disk or from the Hub. The tables take seconds to
write, the volumes hours: a run that was stopped writes the tables again and keeps the volumes.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from medfinder.curate.exports.layout import file_key, shared_row, shared_schema
from medfinder.curate.statistics import NO_SPLIT
from medfinder.records import Rejection, Study

SPLITS = {"train": "train", "val": "validation", "test": "test", NO_SPLIT: NO_SPLIT}
"""Our name of a split → the Hub's."""
_GROUP_ROWS = 256


class HubLayout:
    """Files as the Hub's ``datasets`` library expects them.

    Args:
        folder: To write into.
        shard_bytes: A Parquet file is ended when it is larger.
        has_splits: Whether any study has a split; where none has, all are ``train``.
    """

    suffix = ".nii.gz"

    def __init__(self, folder: Path, shard_bytes: int, has_splits: bool) -> None:
        self.earlier: list[Rejection] = []
        self._folder = folder
        self._has_splits = has_splits
        self._shard_bytes = shard_bytes
        self._tables: dict[str, _Table] = {}
        shutil.rmtree(folder / "data", ignore_errors=True)
        (folder / "data").mkdir()

    def is_done(self, study: Study) -> bool:
        """Tell no: the tables are written anew."""
        return False

    def place(self, study: Study) -> Path:
        """Return ``volumes/ab/KEY.nii.gz``: a folder of the Hub holds 10,000 files at most."""
        bucket = hashlib.sha256(study.patient_id.encode()).hexdigest()[:2]
        return self._folder / "volumes" / bucket / f"{file_key(study.study_id)}{self.suffix}"

    def add(self, study: Study, volume: Path | None, rejection: Rejection | None) -> None:
        """Append the study's row to its split's table."""
        split = SPLITS[study.split or NO_SPLIT] if self._has_splits else "train"
        if split not in self._tables:
            self._tables[split] = _Table(self._folder / "data", split, self._shard_bytes)
        name = volume.relative_to(self._folder).as_posix() if volume else None
        self._tables[split].add(shared_row(study, name))

    def finish(self) -> None:
        """End the tables and give them their names, which tell how many there are."""
        for table in self._tables.values():
            table.finish()

    def abandon(self) -> None:
        """Close the files."""
        for table in self._tables.values():
            table.abandon()

    def front_matter(self) -> str:
        """Return the part of the README's YAML that declares files, features and splits."""
        order = [name for name in SPLITS.values() if name in self._tables]
        lines = ["configs:", "- config_name: default", "  data_files:"]
        for split in order:
            lines += [f"  - split: {split}", f"    path: data/{split}-*"]
        lines += ["dataset_info:", "  features:", *_features(shared_schema(), "  ")]
        lines.append("  splits:")
        for split in order:
            table = self._tables[split]
            lines += [
                f"  - name: {split}",
                f"    num_bytes: {table.n_bytes}",
                f"    num_examples: {table.n_rows}",
            ]
        return "\n".join(lines) + "\n"


class _Table:
    """The Parquet files of one split; at most 256 rows are held."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self.n_rows = self.n_bytes = 0
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes
        self._schema = shared_schema()
        self._held: list[dict[str, Any]] = []
        self._shards: list[Path] = []
        self._file: Any = None
        self._writer: Any = None

    def add(self, row: dict[str, Any]) -> None:
        self._held.append(row)
        self.n_rows += 1
        if len(self._held) >= _GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._end()
        for k, path in enumerate(self._shards):
            path.rename(self._folder / f"{self._split}-{k:05d}-of-{len(self._shards):05d}.parquet")

    def abandon(self) -> None:
        if self._file:
            self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._held:
            return
        if self._writer is None:
            path = self._folder / f".{self._split}-{len(self._shards):05d}"
            # A file of Python's: its errors say what is wrong with the disk.
            self._file = path.open("wb")
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
            self._shards.append(path)
        self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema))
        self._held.clear()
        if self._file.tell() >= self._shard_bytes:
            self._end()

    def _end(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self.n_bytes += self._file.tell()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._writer = self._file = None


def _features(schema: Any, indent: str) -> list[str]:
    """Return fields as the Hub's YAML spells them."""
    lines = []
    for field in schema:
        lines.append(f"{indent}- name: {field.name}")
        lines += _feature(field.type, indent + "  ")
    return lines


def _feature(kind: Any, indent: str) -> list[str]:
    import pyarrow as pa

    names = {"double": "float64"}
    if not pa.types.is_list(kind):
        return [f"{indent}dtype: {names.get(str(kind), str(kind))}"]
    if pa.types.is_struct(kind.value_type):
        return [f"{indent}list:", *_features(list(kind.value_type), indent)]
    return [f"{indent}list: {names.get(str(kind.value_type), str(kind.value_type))}"]
