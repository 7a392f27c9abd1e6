"""Small studies with known vectors, and an index of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medfinder.index.store import Index, IndexConfig, Stream
from medfinder.records import Finding, Report, Study

STREAMS = {"volume": Stream("astra", "astra@1", 16), "report": Stream("minilm", "minilm@1", 8)}
NAMES = ("nodule", "pleural effusion", "emphysema")


@dataclass(frozen=True)
class Batch:
    ids: tuple[str, ...]
    vectors: np.ndarray
    model_id: str


class Gallery:
    """Study number i is always the same; every third has no report."""

    streams = STREAMS

    def study(self, i: int, **changes: object) -> Study:
        status = ("present", "absent", "uncertain")
        fields: dict[str, object] = {
            "study_id": f"s{i:04d}",
            "patient_id": f"p{i // 2:04d}",
            "series_id": f"1.2.{i}",
            "volume_path": f"/data/{i}.nii.gz",
            "volume_hash": f"{i:064x}",
            "shape": (100 + i, 512, 512),
            "spacing_mm": (1.25, 0.7, 0.7),
            "report": Report(f"Report {i}: {NAMES[i % 3]}.", "es" if i % 2 else "en")
            if i % 3
            else None,
            "findings": tuple(
                Finding(name, f"C{n}", status[(i + n) % 3], start=n, end=n + 5)  # type: ignore[arg-type]
                for n, name in enumerate(NAMES)
            ),
            "sex": (None, "F", "M")[i % 3],
            "age": 20 + i % 60,
            "study_date": f"20{10 + i % 10}-05-17",
            "manufacturer": f"maker {i % 4}",
            "split": ("train", "val", "test")[i % 3],
        }
        return Study(**{**fields, **changes})  # type: ignore[arg-type]

    def vectors(self, numbers: Sequence[int], stream: str, model_id: str | None = None) -> Batch:
        dim = STREAMS[stream].dim
        rows = [np.random.default_rng([i, dim]).standard_normal(dim) + 1 for i in numbers]
        ids = tuple(f"s{i:04d}" for i in numbers)
        vectors = np.array(rows, np.float32).reshape(len(rows), dim)
        return Batch(ids, vectors, model_id or STREAMS[stream].model_id)

    def add(self, index: Index, numbers: Sequence[int]) -> None:
        with_report = [i for i in numbers if i % 3]
        index.add(
            [self.study(i) for i in numbers],
            {
                "volume": self.vectors(numbers, "volume"),
                "report": self.vectors(with_report, "report"),
            },
        )

    def unit(self, numbers: Sequence[int], stream: str = "volume") -> dict[str, list[float]]:
        batch = self.vectors(numbers, stream)
        wide = batch.vectors.astype(np.float64)
        rows = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
        return {i: [float(v) for v in row] for i, row in zip(batch.ids, rows, strict=True)}


@pytest.fixture(scope="session")
def gallery() -> Gallery:
    return Gallery()


@pytest.fixture
def empty(tmp_path: Path) -> Index:
    """An index that was begun, without rows."""
    return Index.create(tmp_path / "idx", STREAMS)


@pytest.fixture(scope="session")
def filled(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A finished index of 60 studies, for tests that only read."""
    index = Index.create(tmp_path_factory.mktemp("filled") / "idx", STREAMS)
    gallery.add(index, range(60))
    index.finish()
    return index


@pytest.fixture(scope="session")
def partitioned(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A finished index of 5,000 studies whose volume column is searched in partitions."""
    config = IndexConfig(exact_below=1000, rows_per_list=50)
    streams = {"volume": STREAMS["volume"]}
    index = Index.create(tmp_path_factory.mktemp("partitioned") / "idx", streams, config)
    numbers = range(5000)
    index.add([gallery.study(i) for i in numbers], {"volume": gallery.vectors(numbers, "volume")})
    index.finish()
    return index
