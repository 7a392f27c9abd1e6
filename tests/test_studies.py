"""A study survives being a row, in memory and in a Parquet file."""

import contextlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from medfinder.errors import Incomplete, InputError, Mismatch
from medfinder.records import Finding, Rejection, Report, Study
from medfinder.studies import (
    FACETS,
    digest,
    from_row,
    read_rejections,
    read_studies,
    schema,
    to_row,
    to_table,
    write_rejections,
    write_studies,
)

PLAIN = Study("s1", "p1", "1.2.3", "/x", "ab", (10, 20, 30), (1.25, 0.7, 0.7000001))
FULL = Study(
    study_id="s2",
    patient_id="p1",
    series_id="1.2.4",
    volume_path="/año/x.nii.gz",
    volume_hash="cd",
    shape=(300, 512, 512),
    spacing_mm=(1.0, 0.5, 0.5),
    report=Report("Nódulo. No derrame.", "es", "Nódulo.", ""),
    findings=(
        Finding("nodule", "C1", "present", "left", "upper lobe", 0, 6),
        Finding("pleural effusion", None, "absent", None, None, 11, 18),
        Finding("nodule", "C1", "present", "right", None, 0, 6),
        Finding("mass", "C2", "uncertain"),
    ),
    sex="F",
    age=61,
    study_date="2020-03-04",
    manufacturer="maker",
    body_part="CHEST",
    split="test",
    source="bimcv",
)


@pytest.mark.parametrize("study", [PLAIN, FULL])
def test_a_study_survives_being_a_row(study: Study) -> None:
    assert from_row(to_row(study)) == study
    assert [from_row(row) for row in to_table([study]).to_pylist()] == [study]


def test_a_report_without_text_differs_from_no_report() -> None:
    import dataclasses

    blank = dataclasses.replace(PLAIN, report=Report(""))
    assert from_row(to_row(blank)) == blank
    assert digest(blank) != digest(PLAIN)


def test_findings_become_one_column_a_status_each_name_once() -> None:
    row = to_row(FULL)
    assert row["findings_present"] == ["nodule"]
    assert row["findings_absent"] == ["pleural effusion"]
    assert row["findings_uncertain"] == ["mass"]


def test_every_facet_is_a_column() -> None:
    assert set(FACETS) <= set(schema().names)
    assert list(to_row(FULL)) == schema().names


def test_the_digest_sees_every_field() -> None:
    import dataclasses

    changes = {"age": 62, "split": "val", "findings": (), "volume_path": "/y", "report": None}
    changed = [digest(dataclasses.replace(FULL, **{k: v})) for k, v in changes.items()]
    assert len({digest(FULL), *changed}) == len(changes) + 1


def test_a_parquet_file_holds_the_studies_sorted_by_id(tmp_path: Path) -> None:
    path = tmp_path / "studies.parquet"
    write_studies(path, [FULL, PLAIN])
    assert read_studies(path) == [PLAIN, FULL]
    assert read_studies(_written(tmp_path / "none.parquet", [])) == []


def test_two_studies_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Two studies have the study_id 's1'"):
        write_studies(tmp_path / "studies.parquet", [PLAIN, PLAIN])


def test_a_missing_file_is_unfinished_work(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"no studies\.parquet in this folder"):
        read_studies(tmp_path / "studies.parquet")


def test_a_file_that_is_no_parquet_is_a_mismatch(tmp_path: Path) -> None:
    (tmp_path / "studies.parquet").write_text("study_id,sex\n")
    with pytest.raises(Mismatch, match="is not a Parquet file"):
        read_studies(tmp_path / "studies.parquet")


def test_a_flipped_bit_anywhere_is_a_mismatch_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "studies.parquet"
    write_studies(path, [PLAIN])
    sound = path.read_bytes()
    for at in range(0, len(sound), 61):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        with contextlib.suppress(Mismatch):
            assert read_studies(path) == [PLAIN]


def test_a_missing_column_is_a_mismatch_that_names_it(tmp_path: Path) -> None:
    path = _written(tmp_path / "studies.parquet", [PLAIN])
    pq.write_table(pq.read_table(path).drop_columns(["sex"]), path)
    with pytest.raises(Mismatch, match="lacks the columns sex"):
        read_studies(path)


def test_rejections_come_back_sorted(tmp_path: Path) -> None:
    path = tmp_path / "rejections.parquet"
    assert read_rejections(path) == []
    rows = [Rejection("b", "too-few-slices", "why"), Rejection("a", "not-ct", "why")]
    write_rejections(path, rows)
    assert read_rejections(path) == rows[::-1]


def _written(path: Path, studies: list[Study]) -> Path:
    write_studies(path, studies)
    return path
