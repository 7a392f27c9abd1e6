"""WebDataset shards: tar files of samples, one sample a study, in the dataset's order.

A sample is ``KEY.nii.gz`` (with a volume), ``KEY.json`` (all but the texts), ``KEY.txt`` (English,
where there is any) and ``KEY.es.txt`` (the Spanish original, where there is one). The same studies
and volumes give the same bytes: no times, no owners. Each finished shard leaves a mark, by which
a run that was stopped goes on with the next.
"""

import dataclasses
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

from medfinder.artifact import atomic_write
from medfinder.curate.exports.layout import file_key, shared_row
from medfinder.curate.statistics import NO_SPLIT
from medfinder.records import Rejection, Study

DONE = ".done"
_BLOCK = 512
_TEXTS = ("text", "report_text", "findings_text", "impression_text", "translation_text")


class WebDatasetLayout:
    """Tar shards, named ``train-000000.tar``.

    Args:
        folder: To write into.
        shard_bytes: A shard is ended before it would be larger; one sample may be.
        has_splits: Whether any study has a split; where none has, all are ``train``.
    """

    suffix = ".nii.gz"

    def __init__(self, folder: Path, shard_bytes: int, has_splits: bool) -> None:
        self.earlier: list[Rejection] = []
        self._folder, self._shard_bytes, self._has_splits = folder, shard_bytes, has_splits
        self._n_to_skip: Counter[str] = Counter()
        self._n_shards: Counter[str] = Counter()
        self._shards: dict[str, _Shard] = {}
        (folder / DONE).mkdir(exist_ok=True)
        for mark in sorted((folder / DONE).iterdir()):
            told = json.loads(mark.read_bytes())
            split = mark.name.rpartition("-")[0]
            self._n_to_skip[split] += told["studies"]
            self._n_shards[split] += 1
            self.earlier += [Rejection(**fields) for fields in told["left_out"]]

    def is_done(self, study: Study) -> bool:
        """Tell whether a finished shard of its split holds it."""
        split = self._split(study)
        self._n_to_skip[split] -= 1
        return self._n_to_skip[split] >= 0

    def place(self, study: Study) -> Path:
        """Return a place to wait in, until the volume is in its shard."""
        return self._folder / ".volumes" / f"{file_key(study.study_id)}{self.suffix}"

    def add(self, study: Study, volume: Path | None, rejection: Rejection | None) -> None:
        """Put the sample into its split's shard, and the file away."""
        key, split = file_key(study.study_id), self._split(study)
        row = shared_row(study, f"{key}{self.suffix}" if volume else None)
        facts = {name: value for name, value in row.items() if name not in _TEXTS}
        members: list[tuple[str, bytes | Path]] = []
        if volume:
            members.append((f"{key}{self.suffix}", volume))
        text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
        members.append((f"{key}.json", text.encode()))
        english = study.translation
        if study.report and study.report.language == "en":
            english = study.report.text
        elif study.report:
            members.append((f"{key}.{study.report.language}.txt", study.report.text.encode()))
        if english:
            members.append((f"{key}.txt", english.encode()))
        size = sum(_size(content) for _, content in members)
        shard = self._shards.get(split)
        if shard and shard.n_bytes + size > self._shard_bytes:
            self._end(split)
            shard = None
        if shard is None:
            name = f"{split}-{self._n_shards[split]:06d}"
            shard = self._shards[split] = _Shard(self._folder, name)
        shard.add(members, size, rejection)
        if volume:
            volume.unlink()

    def finish(self) -> None:
        """End every split's last shard."""
        for split in list(self._shards):
            self._end(split)

    def abandon(self) -> None:
        """Close the files; what they hold is written again by the next run."""
        for shard in self._shards.values():
            shard.file.close()

    def _end(self, split: str) -> None:
        self._shards.pop(split).finish()
        self._n_shards[split] += 1

    def _split(self, study: Study) -> str:
        return study.split or NO_SPLIT if self._has_splits else "train"


class _Shard:
    def __init__(self, folder: Path, name: str) -> None:
        self.n_bytes = 2 * _BLOCK  # the end of a tar file
        self._folder, self._name = folder, name
        self._path = folder / f".{name}.tar"
        self._n_studies = 0
        self._left_out: list[Rejection] = []
        self.file: IO[bytes] = self._path.open("wb")
        self._tar = tarfile.TarFile(fileobj=self.file, mode="w", format=tarfile.USTAR_FORMAT)

    def add(
        self, members: list[tuple[str, bytes | Path]], size: int, rejection: Rejection | None
    ) -> None:
        for name, content in members:
            told = tarfile.TarInfo(name)  # mtime 0, no owner
            told.mode = 0o644
            if isinstance(content, Path):
                told.size = content.stat().st_size
                with content.open("rb") as file:
                    self._tar.addfile(told, file)
            else:
                told.size = len(content)
                self._tar.addfile(told, io.BytesIO(content))
        self.n_bytes += size
        self._n_studies += 1
        if rejection:
            self._left_out.append(rejection)

    def finish(self) -> None:
        """Complete the file, name it, and only then mark it as done."""
        self._tar.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._path, self._folder / f"{self._name}.tar")
        mark: dict[str, Any] = {
            "studies": self._n_studies,
            "left_out": [dataclasses.asdict(rejection) for rejection in self._left_out],
        }
        with atomic_write(self._folder / DONE / f"{self._name}.json") as file:
            file.write(json.dumps(mark).encode())


def _size(content: bytes | Path) -> int:
    n = content.stat().st_size if isinstance(content, Path) else len(content)
    return _BLOCK + -(-n // _BLOCK) * _BLOCK
