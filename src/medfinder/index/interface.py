"""What every index can do, wherever it keeps its rows: a folder, an object store or a database.

`medfinder.index.store.Index` says what each method means; `medfinder.index.open` returns one of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import Manifest
from medfinder.index.query import Ranking
from medfinder.index.schema import IndexConfig, Stream, VectorBatch
from medfinder.place import Place
from medfinder.records import Finding, Rejection, Study

UNFINISHED = "unfinished"
"""File of a place whose rows have changed since `finish`, in a run that has not ended."""


class Stored(NamedTuple):
    """What the index holds of a study, for a run that resumes.

    Attributes:
        digest: `medfinder.studies.digest` of the study as it was added.
        volume_hash: Of the volume its vector was made from.
        streams: Those it has a vector in.
    """

    digest: str
    volume_hash: str
    streams: frozenset[str]


class AnyIndex(Protocol):
    """The methods of `Index` that searching, building and serving use."""

    @property
    def place(self) -> Place:
        """Where its manifest and its other files lie."""
        ...

    @property
    def location(self) -> str:
        """Where it lies, as it may be shown: a path, or a URL without its password."""
        ...

    @property
    def folder(self) -> Path:
        """As `Index.folder`: raises where it lies in none."""
        ...

    def manifest(self) -> Manifest:
        """As `Index.manifest`."""
        ...

    def mark(self) -> str | None:
        """As `Index.mark`."""
        ...

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Vector column → the encoder behind it."""
        ...

    @property
    def config(self) -> IndexConfig:
        """How it is built."""
        ...

    @property
    def model_ids(self) -> dict[str, str]:
        """As `Index.model_ids`."""
        ...

    @property
    def encoder_names(self) -> dict[str, str]:
        """As `Index.encoder_names`."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """As `Index.columns`."""
        ...

    @property
    def is_finished(self) -> bool:
        """As `Index.is_finished`."""
        ...

    def check_model(self, stream: str, model_id: str) -> None:
        """As `Index.check_model`."""
        ...

    def add(
        self, studies: Sequence[Study], vectors: Mapping[str, VectorBatch] | None = None
    ) -> int:
        """As `Index.add`."""
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """As `Index.delete`."""
        ...

    def finish(
        self,
        parents: Mapping[str, str] | None = None,
        duration_s: float = 0.0,
        package_version: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """As `Index.finish`."""
        ...

    @property
    def is_changing(self) -> bool:
        """As `Index.is_changing`."""
        ...

    def begin_changes(self) -> None:
        """As `Index.begin_changes`."""
        ...

    def end_changes(self) -> None:
        """As `Index.end_changes`."""
        ...

    def write_rejections(self, rejections: Sequence[Rejection]) -> str:
        """As `Index.write_rejections`."""
        ...

    def read_rejections(self) -> list[Rejection]:
        """As `Index.read_rejections`."""
        ...

    @property
    def regions(self) -> Place:
        """As `Index.regions`."""
        ...

    def count(self, where: str | None = None) -> int:
        """As `Index.count`."""
        ...

    def ids(self, where: str | None = None) -> list[str]:
        """As `Index.ids`."""
        ...

    def digests(self) -> dict[str, str]:
        """As `Index.digests`."""
        ...

    def study_hashes(self) -> dict[str, Stored]:
        """As `Index.study_hashes`."""
        ...

    def studies(self, ids: Sequence[str]) -> list[Study]:
        """As `Index.studies`."""
        ...

    def findings(self, ids: Sequence[str]) -> dict[str, tuple[Finding, ...]]:
        """As `Index.findings`."""
        ...

    def vectors(self, column: str, ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """As `Index.vectors`."""
        ...

    def centre(self, column: str) -> NDArray[np.float32]:
        """As `Index.centre`."""
        ...

    def facets(self, column: str, where: str | None = None) -> dict[Any, int]:
        """As `Index.facets`."""
        ...

    def search_vector(
        self,
        column: str,
        vector: NDArray[np.float32],
        k: int = 10,
        where: str | None = None,
        model_id: str | None = None,
    ) -> Ranking:
        """As `Index.search_vector`."""
        ...

    def search_text(self, query: str, k: int = 10, where: str | None = None) -> Ranking:
        """As `Index.search_text`."""
        ...

    def search_findings(
        self,
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        k: int = 10,
        where: str | None = None,
        match_all: bool = False,
    ) -> Ranking:
        """As `Index.search_findings`."""
        ...
