"""What an index stores: its table's columns, its settings, and which encoder made its vectors."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medfinder import studies
from medfinder.errors import ConfigError, InputError, Mismatch, UnknownName
from medfinder.records import Study
from medfinder.registry import unknown

STREAMS = ("volume", "report", "joint")
"""Vector columns: volumes, from the volume encoder; reports, from the sentence encoder; and reports
again, from a volume encoder that reads text too, in the volumes' own space."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """The encoder behind a vector column.

    Attributes:
        encoder: What loads it: its name in the registry, such as ``"astra"``, a checkpoint's folder
            or a repository of the Hub. Not part of what is compared: a checkpoint may move.
        model_id: Identifies weights and preprocessing; vectors of another are refused.
        dim: Length of its vectors.
        is_centred: Whether scores are cosines after the gallery's mean is taken off. Right for an
            encoder that was never trained to compare, whose vectors share a large common part;
            wrong for a space that two streams share, since a text has another mean than a volume.
    """

    encoder: str
    model_id: str
    dim: int
    is_centred: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class IndexConfig:
    """How an index is built.

    Attributes:
        exact_below: With fewer vectors than this a column is searched exactly, in memory.
        rows_per_list: Mean size of a partition above that.
        recall: Recall at 10 that the number of probed rows is chosen for, on sampled rows.
        centre_from: With fewer vectors than this the plain cosine is used: the mean of a handful
            of vectors says more of each of them than of what they share.
        seed: Of the sample that partitions are trained on.
    """

    exact_below: int = 50_000
    rows_per_list: int = 256
    recall: float = 0.995
    centre_from: int = 8
    seed: int = 0


class VectorBatch(Protocol):
    """Vectors with the ids of their studies and the model that made them (`Embeddings`)."""

    @property
    def ids(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def vectors(self) -> NDArray[np.float32]: ...  # noqa: D102

    @property
    def model_id(self) -> str: ...  # noqa: D102


_UNIT = 1.2e-7  # two rounding errors of float32

_ENGLISH = (
    "a an and are as at be but by for from has have in into is it its of on or that the their then "
    "there these they this to was were which will with"
)
_SPANISH = (
    "al como con cual de del desde e el ella en entre es esta este esto ha han la las le lo los "
    "mas o para pero por que se ser si su sus un una uno unos unas y ya"
)
STOP_WORDS = sorted({*_ENGLISH.split(), *_SPANISH.split()})
"""Function words of both languages. Words that deny ("no", "sin") stay: they are searched for."""


def table_schema(streams: Mapping[str, Stream]) -> Any:
    """Return the table's ``pyarrow.Schema``: a study's row, its vectors, and bookkeeping.

    ``words`` is what BM25 searches (`Study.words`), null for a study without report;
    ``row_digest`` covers the study, ``key_STREAM`` a stream's vector together with the study_id;
    a null key means that the study has no such vector.
    """
    import pyarrow as pa

    fields = [
        *studies.schema(),
        pa.field("words", pa.string()),
        pa.field("row_digest", pa.string(), nullable=False),
    ]
    for name in STREAMS:
        if name in streams:
            fields.append(pa.field(f"key_{name}", pa.int64()))
            fields.append(pa.field(name, pa.list_(pa.float32(), streams[name].dim)))
    return pa.schema(fields)


def check_streams(streams: Mapping[str, Stream]) -> dict[str, Stream]:
    """Return the streams in `STREAMS` order.

    Raises:
        UnknownName: A stream is none of `STREAMS`.
        ConfigError: There is none, or a dimension is not positive.
    """
    for name, stream in streams.items():
        if name not in STREAMS:
            raise UnknownName(unknown("stream", name, list(STREAMS)))
        if stream.dim < 1:
            raise ConfigError(f"Stream {name!r} has dimension {stream.dim}; expected at least 1.")
    if not streams:
        raise ConfigError(
            f"An index needs an encoder for at least one stream of {', '.join(STREAMS)}."
        )
    return {name: streams[name] for name in STREAMS if name in streams}


def check_vectors(vectors: NDArray[np.float32], dim: int, what: str) -> NDArray[np.float32]:
    """Return the vectors as unit float32 rows, (N, dim).

    Raises:
        Mismatch: Their dimension is not `dim`.
        InputError: A row is NaN, infinite or zero.
    """
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise Mismatch(
            f"The shape of the {what} is {tuple(rows.shape)}, but this index holds vectors of {dim} "
            "numbers. Use the index's own encoder."
        )
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise InputError(
            f"Row {bad} of the {what} holds NaN or infinity. Embed that item again, or leave it out.",
            rule="bad-vector",
        )
    wide = rows.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1))
    if not lengths.all():
        bad = int(np.flatnonzero(lengths == 0)[0])
        raise InputError(
            f"Row {bad} of the {what} is all zeros: it has no direction to compare. "
            "Embed that item again, or leave it out.",
            rule="bad-vector",
        )
    # A row that is a unit vector to float32's precision stays as it is, bit by bit.
    lengths[np.abs(lengths - 1) < _UNIT] = 1
    unit: NDArray[np.float32] = (wide / lengths[:, None]).astype(np.float32)
    return unit


def make_table(
    batch: Sequence[Study], streams: Mapping[str, Stream], vectors: Mapping[str, VectorBatch]
) -> Any:
    """Return the batch as a ``pyarrow.Table`` of `table_schema`; vectors are matched by study_id.

    Raises:
        InputError: A study_id is empty or occurs twice, or a vector has no study or no value.
        Mismatch: A stream the index lacks, another model's vectors, or another dimension.
    """
    import pyarrow as pa

    ids = [study.study_id for study in batch]
    _check_ids(ids)
    table = studies.to_table(batch)
    words = pa.array([study.words or None for study in batch], pa.string())
    table = table.append_column("words", words).append_column(
        "row_digest", pa.array([studies.digest(study) for study in batch], pa.string())
    )
    for name in vectors:
        if name not in streams:
            raise Mismatch(
                f"The batch brings {name} vectors, but this index holds only: "
                f"{', '.join(streams)}. Index again with an encoder for {name}."
            )
    for name, stream in streams.items():
        keys, column = _vector_columns(ids, vectors.get(name), name, stream)
        table = table.append_column(f"key_{name}", keys).append_column(name, column)
    return table.cast(table_schema(streams))


def check_model(model_id: str, name: str, stream: Stream) -> None:
    """Raise Mismatch unless `model_id` made the stream's vectors."""
    if model_id != stream.model_id:
        raise Mismatch(
            f"The {name} vectors come from model {model_id!r}, but this index holds those of "
            f"{stream.model_id!r} (encoder {stream.encoder!r}). Vectors of two models cannot be "
            "compared: use the index's encoder, or build another index."
        )


def _check_ids(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if not name:
            raise InputError("A study in the batch has an empty study_id.", rule="bad-study-id")
        if name in seen:
            raise InputError(
                f"The study_id {name!r} occurs twice in one batch; expected each study once. "
                "Remove one of them.",
                rule="duplicate-study",
            )
        seen.add(name)


def _vector_columns(
    ids: Sequence[str], batch: VectorBatch | None, name: str, stream: Stream
) -> tuple[Any, Any]:
    import pyarrow as pa

    rows = np.zeros((len(ids), stream.dim), np.float32)
    keys: list[int | None] = [None] * len(ids)
    if batch is not None:
        check_model(batch.model_id, name, stream)
        if len(batch.ids) != len(batch.vectors):
            raise InputError(
                f"The batch has {len(batch.ids)} ids for {len(batch.vectors)} {name} vectors.",
                rule="bad-vector",
            )
        _check_ids(batch.ids)
        unit = check_vectors(batch.vectors, stream.dim, f"{name} vectors") if batch.ids else rows
        place = {study_id: i for i, study_id in enumerate(ids)}
        for study_id, row in zip(batch.ids, unit, strict=bool(batch.ids)):
            if study_id not in place:
                raise InputError(
                    f"A {name} vector belongs to study {study_id!r}, which is not in the batch.",
                    rule="bad-vector",
                )
            rows[place[study_id]] = row
            keys[place[study_id]] = key_of(study_id, row)
    flat = pa.array(rows.ravel())
    missing = pa.array([key is None for key in keys], pa.bool_())
    column = pa.FixedSizeListArray.from_arrays(flat, stream.dim, mask=missing)
    return pa.array(keys, pa.int64()), column


def key_of(study_id: str, row: NDArray[np.float32]) -> int:
    """Return what tells a study's unit vector, (dim,), from every other: 64 bits of a hash."""
    text = hashlib.blake2b(study_id.encode("utf-8", "surrogatepass"), digest_size=8)
    text.update(row.tobytes())
    return int.from_bytes(text.digest(), "little", signed=True)
