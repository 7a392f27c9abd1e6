"""`Study` ↔ one flat row: the columns of ``studies.parquet`` and of the index, in one place.

Text, findings and facets each have a column of their own so that SQL can filter on them. A row
holds everything a `Study` holds, so ``from_row(to_row(study)) == study``. Knows no database.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medfinder.errors import Incomplete, InputError, Mismatch
from medfinder.place import FolderPlace, split
from medfinder.records import Doubt, Finding, Rejection, Report, Study

FACETS = (
    "study_id",
    "patient_id",
    "sex",
    "age",
    "study_date",
    "manufacturer",
    "body_part",
    "split",
    "source",
    "language",
    "spacing_mm_d",
    "spacing_mm_h",
    "spacing_mm_w",
    "n_slices",
    "findings_present",
    "findings_absent",
    "findings_uncertain",
    "findings_placed",
)
"""Columns a filter (``where``) may name, in the order messages list them."""

ANY_FINDING = "any finding"
"""Stands in ``findings_placed`` for every finding."""
_ROW_GROUP = 1_000
_FINDING = tuple(f.name for f in dataclasses.fields(Finding))


def schema() -> Any:
    """Return the ``pyarrow.Schema`` of a row.

    ``spacing_mm_*`` are millimetres; ``shape`` is (D, H, W) and ``n_slices`` its first; ``age`` is
    in years; ``study_date`` an ISO date as text, so that it compares as a date does; ``findings_*``
    are names, each once, in order of appearance; ``findings_placed`` says of each affirmed finding
    its side and its location, each by itself ("nodule, right", "nodule, upper lobe"), and of all
    together ("any finding, right"). ``report_text`` is null for a study without report.
    """
    import pyarrow as pa

    text, names = pa.string(), pa.list_(pa.string())
    finding = pa.struct(
        [pa.field(n, pa.int32() if n in ("start", "end") else text) for n in _FINDING]
    )
    return pa.schema(
        [
            pa.field("study_id", text, nullable=False),
            pa.field("patient_id", text, nullable=False),
            pa.field("series_id", text, nullable=False),
            pa.field("volume_path", text, nullable=False),
            pa.field("volume_hash", text, nullable=False),
            pa.field("shape", pa.list_(pa.int32()), nullable=False),
            pa.field("n_slices", pa.int32(), nullable=False),
            pa.field("spacing_mm_d", pa.float64(), nullable=False),
            pa.field("spacing_mm_h", pa.float64(), nullable=False),
            pa.field("spacing_mm_w", pa.float64(), nullable=False),
            pa.field("report_text", text),
            pa.field("language", text),
            pa.field("findings_text", text),
            pa.field("impression_text", text),
            pa.field("translation_text", text),
            pa.field("labels", names),
            pa.field("findings", pa.list_(finding)),
            pa.field("findings_present", names),
            pa.field("findings_absent", names),
            pa.field("findings_uncertain", names),
            pa.field("findings_placed", names),
            pa.field("sex", text),
            pa.field("age", pa.int32()),
            pa.field("study_date", text),
            pa.field("manufacturer", text),
            pa.field("body_part", text),
            pa.field("split", text),
            pa.field("source", text, nullable=False),
        ]
    )


def to_row(study: Study) -> dict[str, Any]:
    """Return `study` as a row of `schema`, in plain Python values."""
    report = study.report
    return {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "series_id": study.series_id,
        "volume_path": study.volume_path,
        "volume_hash": study.volume_hash,
        "shape": list(study.shape),
        "n_slices": study.shape[0],
        "spacing_mm_d": study.spacing_mm[0],
        "spacing_mm_h": study.spacing_mm[1],
        "spacing_mm_w": study.spacing_mm[2],
        "report_text": report.text if report else None,
        "language": report.language if report else None,
        "findings_text": report.findings_text if report else None,
        "impression_text": report.impression_text if report else None,
        "translation_text": study.translation,
        "labels": list(study.labels),
        "findings": [{name: getattr(f, name) for name in _FINDING} for f in study.findings],
        "findings_present": _names(study, "present"),
        "findings_absent": _names(study, "absent"),
        "findings_uncertain": _names(study, "uncertain"),
        "findings_placed": _placed(study),
        "sex": study.sex,
        "age": study.age,
        "study_date": study.study_date,
        "manufacturer": study.manufacturer,
        "body_part": study.body_part,
        "split": study.split,
        "source": study.source,
    }


def from_row(row: Mapping[str, Any]) -> Study:
    """Return the `Study` that `to_row` made `row` from; columns it does not know are ignored."""
    report = None
    if row["report_text"] is not None:
        report = Report(
            text=row["report_text"],
            language=row["language"],
            findings_text=row["findings_text"],
            impression_text=row["impression_text"],
        )
    d, h, w = row["shape"]
    return Study(
        study_id=row["study_id"],
        patient_id=row["patient_id"],
        series_id=row["series_id"],
        volume_path=row["volume_path"],
        volume_hash=row["volume_hash"],
        shape=(d, h, w),
        spacing_mm=(row["spacing_mm_d"], row["spacing_mm_h"], row["spacing_mm_w"]),
        report=report,
        findings=tuple(Finding(**f) for f in row["findings"] or ()),
        translation=row["translation_text"],
        labels=tuple(row["labels"] or ()),
        sex=row["sex"],
        age=row["age"],
        study_date=row["study_date"],
        manufacturer=row["manufacturer"],
        body_part=row["body_part"],
        split=row["split"],
        source=row["source"],
    )


def digest(study: Study) -> str:
    """Return 16 hex digits that change whenever anything the study holds changes."""
    text = json.dumps(to_row(study), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_table(studies: Iterable[Study]) -> Any:
    """Return the studies as a ``pyarrow.Table`` of `schema`, in the order given."""
    import pyarrow as pa

    return pa.Table.from_pylist([to_row(study) for study in studies], schema=schema())


def write_studies(path: str | Path, studies: Sequence[Study]) -> None:
    """Write ``studies.parquet`` atomically, sorted by study_id.

    Raises:
        InputError: Two studies have one study_id.
    """
    stream_studies(path, sorted(studies, key=lambda study: study.study_id))


def stream_studies(path: str | Path, studies: Iterable[Study]) -> None:
    """Write ``studies.parquet`` atomically from studies in the order of their ids, few at a time.

    Raises:
        InputError: Two studies have one study_id.
    """

    def rows() -> Iterator[dict[str, Any]]:
        before = None
        for study in studies:
            if study.study_id == before:
                raise InputError(
                    f"Two studies have the study_id {before!r}. Give each study an id of its own.",
                    rule="duplicate-study",
                )
            before = study.study_id
            yield to_row(study)

    _stream(path, schema(), rows())


def _stream(path: str | Path, schema: Any, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as Parquet, atomically, holding one row group of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place, name = split(path)
    with (
        place.write(name) as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        while group := list(itertools.islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def open_table(path: str | Path, **options: Any) -> Any:
    """Open a table of a curated folder as ``pyarrow.parquet.ParquetFile``.

    Args:
        options: Of ``ParquetFile``.

    Its pages are held against their checksums when they are read; read them `whole`.

    Raises:
        Incomplete: There is no such file.
        Mismatch: It is no Parquet file, or a damaged one.
    """
    import pyarrow.parquet as pq

    place, name = split(path)
    try:
        # What lies in a store is held in memory: a table of studies is small beside its volumes.
        file = path if isinstance(place, FolderPlace) else place.open(name)
        with whole(name):
            return pq.ParquetFile(file, page_checksum_verification=True, **options)
    except FileNotFoundError:
        raise Incomplete(
            f"There is no {name} in this folder. Run 'medfinder curate' again; it resumes."
        ) from None


@contextlib.contextmanager
def whole(name: str) -> Iterator[None]:
    """Raise Mismatch where a table that is read inside turns out to be damaged.

    Args:
        name: Of its file.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system, not of the content
        raise Mismatch(
            f"{name} is not a Parquet file, or is damaged. Run 'medfinder curate' again."
        ) from None


def read_studies(path: str | Path) -> list[Study]:
    """Read ``studies.parquet``, in its order.

    Raises:
        Incomplete: There is no such file.
        Mismatch: It is no Parquet file, a damaged one, or lacks a column of `schema`.
    """
    file = open_table(path)
    with whole(split(path)[1]):
        table = file.read()
    derived = {"findings_placed"}  # made from ``findings``; older tables lack it
    missing = sorted(set(schema().names) - derived - set(table.column_names))
    if missing:
        raise Mismatch(
            f"{split(path)[1]} lacks the columns {', '.join(missing)}: another version of MedFinder "
            "wrote it. Run 'medfinder curate' again."
        )
    with whole(split(path)[1]):  # its footer has no checksum, and says what the columns are
        return [from_row(row) for row in table.to_pylist()]


def write_rejections(path: str | Path, rejections: Iterable[Rejection]) -> None:
    """Write ``rejections.parquet`` atomically: columns item, rule, reason; sorted."""
    stream_rejections(path, sorted(rejections, key=lambda r: (r.item, r.rule, r.reason)))


def stream_rejections(path: str | Path, rejections: Iterable[Rejection]) -> None:
    """Write ``rejections.parquet`` atomically, in the order given, few at a time."""
    import pyarrow as pa

    text = pa.string()
    columns = pa.schema([("item", text), ("rule", text), ("reason", text)])
    _stream(path, columns, (dataclasses.asdict(rejection) for rejection in rejections))


def write_doubts(path: str | Path, doubts: Iterable[Doubt]) -> None:
    """Write ``doubts.parquet`` atomically: columns study_id, rule, reason, weight; sorted."""
    stream_doubts(path, sorted(doubts, key=lambda d: (d.study_id, d.rule, d.reason)))


def stream_doubts(path: str | Path, doubts: Iterable[Doubt]) -> None:
    """Write ``doubts.parquet`` atomically, in the order given, few at a time."""
    import pyarrow as pa

    text = pa.string()
    columns = pa.schema(
        [("study_id", text), ("rule", text), ("reason", text), ("weight", pa.float64())]
    )
    _stream(path, columns, (dataclasses.asdict(doubt) for doubt in doubts))


def stream_refused(path: str | Path, refused: Iterable[tuple[str, str]]) -> None:
    """Write ``translations.parquet``: study_id and the English that its checks refused."""
    import pyarrow as pa

    columns = pa.schema([("study_id", pa.string()), ("text", pa.string())])
    _stream(path, columns, ({"study_id": name, "text": text} for name, text in refused))


def read_doubts(path: str | Path) -> list[Doubt]:
    """Read ``doubts.parquet``; nothing was doubted where there is none."""
    return [Doubt(**row) for row in _rows(path)]


def read_rejections(path: str | Path) -> list[Rejection]:
    """Read ``rejections.parquet``; nothing was rejected where there is none."""
    return [Rejection(**row) for row in _rows(path)]


def _rows(path: str | Path) -> list[dict[str, Any]]:
    place, name = split(path)
    if place.mark(name) is None:
        return []
    file = open_table(path)
    with whole(name):
        rows: list[dict[str, Any]] = file.read().to_pylist()
    return rows


def _names(study: Study, status: str) -> list[str]:
    return list(dict.fromkeys(f.name for f in study.findings if f.status == status))


def _placed(study: Study) -> list[str]:
    """Return what ``findings_placed`` holds; see `schema`."""
    places = [
        (finding.name, place)
        for finding in study.findings
        if finding.status == "present"
        for place in (finding.laterality, finding.location)
        if place
    ]
    each = [f"{name}, {place}" for name, place in places]
    return list(dict.fromkeys([*each, *(f"{ANY_FINDING}, {place}" for _, place in places)]))
