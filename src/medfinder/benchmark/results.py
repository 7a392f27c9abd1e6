"""What a benchmark found: ``results.json``, a table of per-query scores, and both read again.

``results.json`` (schema 1) is the same bytes for the same vectors, studies and settings. Every
number stands beside the most that its protocol allows (`ceiling`) and what knowing nothing gives
(`chance`). Knows no vectors.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfinder.artifact import atomic_write, read_manifest
from medfinder.benchmark.space import Space
from medfinder.config import from_dict
from medfinder.errors import ConfigError, Mismatch

SCHEMA = 1
RESULTS, SCORES = "results.json", "scores.parquet"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        value: Mean of the queries' values; their median for ``MdR``.
        low: Lower end of the 95 % interval over patients; None with one patient.
        high: Upper end.
        ceiling: Value of a model that knows all answers but cannot tell equal inputs apart.
        chance: Value of a model that knows nothing.
    """

    value: float = 0.0
    low: float | None = None
    high: float | None = None
    ceiling: float = 0.0
    chance: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One direction of one protocol.

    Attributes:
        n_queries: Queries measured.
        n_gallery: Items of the pool; of the largest, where queries have pools of their own.
        n_patients: Patients the interval is drawn over.
        left_out: Reason → queries that were not measured.
        figures: Measure → its number.
        primary: The measure that speaks for it.
        run: File of the ranked lists, below the folder; "" where none is written.
        qrels: File of what answers what; "" where none is written.
    """

    n_queries: int = 0
    n_gallery: int = 0
    n_patients: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    primary: str = ""
    run: str = ""
    qrels: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One protocol.

    Attributes:
        version: `Protocol.version`.
        asks: `Protocol.asks`.
        relevance: `Protocol.relevance`.
        ties: `Protocol.tie_rule`.
        known: `Protocol.known`.
        assumed: `Protocol.assumed`.
        ways: What finds what → its numbers.
    """

    version: int = 1
    asks: str = ""
    relevance: str = ""
    ties: str = ""
    known: str = ""
    assumed: str = ""
    ways: dict[str, Asked] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotAsked:
    """A protocol that the data do not allow.

    Attributes:
        rule: Of the error.
        reason: Its text.
    """

    rule: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same queries, by the primary measure.

    Attributes:
        protocol: Name.
        way: What finds what.
        measure: Name.
        other: The other model.
        difference: Mean of this model's values less the other's.
        low: Lower end of its 95 % interval over patients; None with one patient.
        high: Upper end.
        p: Two-sided, of flipping a patient's values.
        p_holm: Corrected for all comparisons of the run.
    """

    protocol: str = ""
    way: str = ""
    measure: str = ""
    other: str = ""
    difference: float = 0.0
    low: float | None = None
    high: float | None = None
    p: float = 1.0
    p_holm: float = 1.0


@dataclass(frozen=True, slots=True)
class Results:
    """Everything but the per-query scores.

    Attributes:
        model: Name of the entrant.
        model_id: What made the vectors.
        dim: Of the vectors; 0 where they are no vectors of fixed length.
        reference: Hash of the studies.
        n_studies: Studies of the reference.
        n_patients: Their patients.
        n_texts: Those with a text.
        n_distinct_texts: Different ones among them.
        left_out: Reason → studies without a vector.
        n_draws: Of every interval.
        protocols: Name → its numbers.
        not_asked: Name → why not.
        comparisons: With other models.
        notes: What a reader should know of these vectors, such as equal texts with unequal ones.
        space: The shape of their space; None where they are no plain vectors, or too few.
        schema: Of this file.
    """

    model: str = ""
    model_id: str = ""
    dim: int = 0
    reference: str = ""
    n_studies: int = 0
    n_patients: int = 0
    n_texts: int = 0
    n_distinct_texts: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    n_draws: int = 0
    protocols: dict[str, Judged] = field(default_factory=dict)
    not_asked: dict[str, NotAsked] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    space: Space | None = None
    schema: int = SCHEMA

    def figures(self) -> Iterator[tuple[str, str, str, Figure]]:
        """Yield (protocol, way, measure, number)."""
        for name, judged in self.protocols.items():
            for way, asked in judged.ways.items():
                for measure, figure in asked.figures.items():
                    yield name, way, measure, figure


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One query's value by one measure.

    Attributes:
        protocol: Name.
        way: What finds what.
        measure: Name.
        query: study_id; a finding's name; or both with a bar between.
        patient: patient_id; "" where a finding asks.
        value: Before the mean.
    """

    protocol: str
    way: str
    measure: str
    query: str
    patient: str
    value: float


def write_results(folder: Path, results: Results) -> Path:
    """Write ``results.json`` atomically; numbers are rounded to 12 digits."""
    path = folder / RESULTS
    with atomic_write(path) as file:
        text = json.dumps(_rounded(dataclasses.asdict(results)), indent=1, ensure_ascii=False)
        file.write(text.encode() + b"\n")
    return path


def read_results(folder: str | Path) -> Results:
    """Read a finished folder of ``medfinder benchmark``.

    Raises:
        InputError, Incomplete, Mismatch: As `read_manifest`; Mismatch where ``results.json`` is of
            another schema or not to be read.
    """
    folder = Path(folder)
    read_manifest(folder, "benchmark")
    try:
        fields = json.loads((folder / RESULTS).read_bytes())
        if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
            got = fields.get("schema") if isinstance(fields, dict) else type(fields).__name__
            raise Mismatch(
                f"{RESULTS} in {str(folder)!r} has schema {got}, this version reads {SCHEMA}. Run "
                "'medfinder benchmark' again."
            )
        protocols = {
            name: dataclasses.replace(
                from_dict(Judged, {k: v for k, v in judged.items() if k != "ways"}),
                ways={way: _asked(asked) for way, asked in judged["ways"].items()},
            )
            for name, judged in fields.pop("protocols").items()
        }
        not_asked = {k: from_dict(NotAsked, v) for k, v in fields.pop("not_asked").items()}
        comparisons = tuple(from_dict(Comparison, row) for row in fields.pop("comparisons"))
        bare = from_dict(Results, fields)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ConfigError) as error:
        raise Mismatch(
            f"{RESULTS} in {str(folder)!r} cannot be read ({type(error).__name__}). Run 'medfinder "
            "benchmark' again."
        ) from None
    return dataclasses.replace(
        bare, protocols=protocols, not_asked=not_asked, comparisons=comparisons
    )


def _asked(fields: Mapping[str, Any]) -> Asked:
    figures = {name: from_dict(Figure, one) for name, one in fields["figures"].items()}
    bare = from_dict(Asked, {k: v for k, v in fields.items() if k != "figures"})
    return dataclasses.replace(bare, figures=figures)


def write_scores(folder: Path, rows: Iterable[ScoreRow]) -> Path:
    """Write ``scores.parquet`` atomically: a `ScoreRow` a line, in the order given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {f.name: [] for f in dataclasses.fields(ScoreRow)}
    for row in rows:
        for name, values in columns.items():
            values.append(getattr(row, name))
    arrays = {
        name: pa.array(values, pa.float64())
        if name == "value"
        else pa.array(values, pa.string()).dictionary_encode()
        for name, values in columns.items()
    }
    path = folder / SCORES
    with atomic_write(path) as file:
        pq.write_table(pa.table(arrays), file, compression="zstd")
    return path


Scores = dict[tuple[str, str, str], tuple[list[str], list[str], list[float]]]
"""(protocol, way, measure) → queries, their patients and their values, in order."""


def read_scores(folder: str | Path) -> Scores:
    """Read ``scores.parquet`` of a finished folder.

    Raises:
        InputError, Incomplete, Mismatch: As `read_manifest`; Mismatch where the file is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    read_manifest(folder, "benchmark")
    try:
        table = pq.ParquetFile(folder / SCORES).read()
    except (OSError, pa.ArrowInvalid):
        raise Mismatch(
            f"{SCORES} in {str(folder)!r} cannot be read. Run 'medfinder benchmark' again."
        ) from None
    found: Scores = {}
    columns = [table.column(f.name).to_pylist() for f in dataclasses.fields(ScoreRow)]
    for protocol, way, measure, query, patient, value in zip(*columns, strict=True):
        queries, patients, values = found.setdefault((protocol, way, measure), ([], [], []))
        queries.append(query)
        patients.append(patient)
        values.append(value)
    return found


def _rounded(value: Any) -> Any:
    """Round every float to 12 digits, so that the last bits of a sum do not show."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return value
