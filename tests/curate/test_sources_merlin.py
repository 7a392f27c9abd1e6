"""Merlin: a release of empty files and a real spreadsheet."""

from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from medfinder.curate.sources.merlin import MerlinSource
from medfinder.curate.sources.source import Facts
from medfinder.errors import InputError
from medfinder.records import Rejection
from medfinder.volume.read import VolumeRef

Release = Callable[..., Path]
HEADER = ("study id", "Findings", "Impressions", "Split")


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Return a maker of a release: names of volumes (made empty) and the spreadsheet's rows."""

    def make(names: list[str], *rows: tuple[object, ...], header: tuple[str, ...] = HEADER) -> Path:
        root = tmp_path / "merlinabdominalctdataset"
        (root / "merlin_data").mkdir(parents=True)
        for name in names:
            (root / "merlin_data" / f"{name}.nii.gz").touch()
        book = openpyxl.Workbook()
        sheet = book.active
        assert sheet is not None
        for row in (header, *rows):
            sheet.append(row)
        book.save(root / "reports_final.xlsx")
        return root

    return make


def read(source: MerlinSource) -> tuple[dict[str, Facts], dict[str, str]]:
    items = list(source.items())
    facts = {ref.item: source.facts(ref, {}) for ref in items if isinstance(ref, VolumeRef)}
    lost = [r for r in items if isinstance(r, Rejection)] + list(source.leftovers())
    return facts, {r.item: r.rule for r in lost}


def test_a_study_gets_its_report_split_and_body_part(release: Release) -> None:
    root = release(["AC1e"], ("AC1e", "Liver is normal.", "No stone.", "validation"))
    facts, lost = read(MerlinSource(root))
    found = facts["merlin_data/AC1e.nii.gz"]
    assert found.text == "Findings: Liver is normal.\nImpression: No stone."
    assert (found.study_id, found.patient_id, found.split) == ("AC1e", None, "val")
    assert (found.body_part, found.language, found.labels) == ("abdomen", "en", None)
    assert (found.doubts, lost) == ((), {})


@pytest.mark.parametrize(
    "header",
    [
        ("Study ID", "findings", "impression"),
        ("anon_accession", "Findings", "Impressions"),
        ("study_id", "FINDINGS", "Impressions"),
    ],
)
def test_columns_are_found_by_their_meaning(release: Release, header: tuple[str, ...]) -> None:
    facts, _ = read(MerlinSource(release(["AC1"], ("AC1", "F.", "I."), header=header)))
    assert [f.text for f in facts.values()] == ["Findings: F.\nImpression: I."]


def test_a_text_with_headings_of_its_own_is_left_as_it_is(release: Release) -> None:
    header = ("study id", "report", "anon_mrn")
    root = release(["AC1"], ("AC1", "FINDINGS: clear. IMPRESSION: normal.", 77.0), header=header)
    (found,) = read(MerlinSource(root))[0].values()
    assert found.text == "FINDINGS: clear. IMPRESSION: normal."
    assert found.patient_id == "77"


def test_absent_unlisted_duplicate_and_unsafe_are_named(release: Release) -> None:
    row = ("AC1", "F.", "I.", "train")
    root = release(["AC1", "AC2"], row, row, ("AC3", "F.", "", ""), ("../AC4", "F.", "", ""))
    facts, lost = read(MerlinSource(root))
    assert [[rule for rule, _ in f.doubts] for f in facts.values()] == [[], ["not-listed"]]
    assert lost == {
        "row 3: AC1": "duplicate-row",
        "row 4: AC3": "volume-missing",
        "row 5: ../AC4": "unsafe-id",
    }


def test_a_formula_is_a_doubt(release: Release) -> None:
    root = release(["AC1"], ("AC1", '=HYPERLINK("http://x","y")', "I.", ""))
    (found,) = read(MerlinSource(root))[0].values()
    assert found.text.startswith("Findings: HYPERLINK(")
    assert [rule for rule, _ in found.doubts] == ["formula-cell"]


def test_the_spreadsheet_may_lie_elsewhere(release: Release, tmp_path: Path) -> None:
    root = release(["AC1"], ("AC1", "F.", "I.", ""))
    moved = (root / "reports_final.xlsx").rename(tmp_path / "mine.xlsx")
    with pytest.raises(InputError, match=r"has 0 tables of reports, expected one.*--reports"):
        MerlinSource(root)
    assert len(read(MerlinSource(root, moved))[0]) == 1


def test_what_is_missing_is_told(release: Release, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        MerlinSource(tmp_path / "none")
    root = release(["AC1"], ("AC1",), header=("study id",))
    with pytest.raises(InputError, match="lacks a column: expected Findings or Impressions"):
        MerlinSource(root)
    (root / "reports_final.xlsx").write_bytes(b"PK\x03\x04 not a workbook")
    with pytest.raises(InputError, match=r"not a readable \.xlsx workbook"):
        MerlinSource(root)
