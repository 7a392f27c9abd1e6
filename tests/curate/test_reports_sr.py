import re
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.curate.sources.reports import Reported, ReportRow, Reports
from medfinder.curate.sources.reports_sr import read_sr
from medfinder.errors import InputError
from medfinder.phantom.phantom import write_phantoms
from medfinder.records import Rejection
from medfinder.report.parse import parse_report
from medfinder.studies import read_rejections, read_studies
from medfinder.volume.dicom_writer import derive_uid
from stubs.sr import DOSE, item, language, section, text, write_sr

STUDY = derive_uid("study", "1")
FINDINGS = section("Findings", text("Finding", "Left pleural effusion."))
IMPRESSION = section("Impressions", text("Impression", "Effusion.\r\nNo pneumothorax."))


def rows(path: Path) -> list[ReportRow]:
    found = list(read_sr(path))
    assert all(isinstance(row, ReportRow) for row in found), found
    return found  # type: ignore[return-value]


def rejection(path: Path) -> Rejection:
    (found,) = read_sr(path)
    assert isinstance(found, Rejection)
    return found


def test_the_words_of_the_tree_come_in_order_under_their_headings(tmp_path: Path) -> None:
    (row,) = rows(write_sr(tmp_path / "a.dcm", [FINDINGS, IMPRESSION], study_id=STUDY))
    assert row.text == (
        "Findings:\nLeft pleural effusion.\nImpressions:\nEffusion.\nNo pneumothorax."
    )
    report = parse_report(row.text)
    assert report.findings_text == "Left pleural effusion."
    assert report.impression_text == "Effusion.\nNo pneumothorax."


def test_text_right_below_the_title_keeps_its_own_heading(tmp_path: Path) -> None:
    content = [text("History", "Cough."), text("Conclusion", "Normal."), section("Addendum")]
    (row,) = rows(write_sr(tmp_path / "a.dcm", content, study_id=STUDY))
    assert row.text == "History:\nCough.\nConclusion:\nNormal."  # no heading without words


def test_text_below_text_follows_it(tmp_path: Path) -> None:
    nested = text("Finding", "Nodule of 8 mm.")
    nested.ContentSequence = [text("Comment", "New.", "HAS PROPERTIES")]
    (row,) = rows(write_sr(tmp_path / "a.dcm", [section("Findings", nested)], study_id=STUDY))
    assert row.text == "Findings:\nNodule of 8 mm.\nComment:\nNew."


def test_who_observed_is_not_part_of_the_text(tmp_path: Path) -> None:
    content = [
        text("Person Observer's Organization Name", "Canary Hospital", "HAS OBS CONTEXT"),
        item("PNAME", "Person Observer Name", "HAS OBS CONTEXT", PersonName="Canary^Doctor"),
        FINDINGS,
    ]
    (row,) = rows(write_sr(tmp_path / "a.dcm", content, study_id=STUDY))
    assert "Canary" not in row.text


def test_the_people_of_a_report_are_known_to_who_removes_their_names(tmp_path: Path) -> None:
    content = [
        item("PNAME", "Person Observer Name", "HAS OBS CONTEXT", PersonName="Wren^Ana"),
        FINDINGS,
    ]
    path = write_sr(
        tmp_path / "a.dcm",
        content,
        study_id=STUDY,
        PatientName="Canary^Sol",
        AccessionNumber="A1",
        OtherPatientIDs=["X1", "X2"],
    )
    (row,) = rows(path)
    assert set(row.known) == {"Canary^Sol", "Wren^Ana", "A1", "ph", "X1", "X2"}


def test_accents_and_the_language_are_read(tmp_path: Path) -> None:
    content = [language("es-ES"), section("Hallazgos", text("Hallazgo", "Opacidad en el lóbulo."))]
    (row,) = rows(write_sr(tmp_path / "a.dcm", content, study_id=STUDY))
    assert (row.language, row.text) == ("es", "Hallazgos:\nOpacidad en el lóbulo.")
    (other,) = rows(write_sr(tmp_path / "b.dcm", [language("fr"), FINDINGS], study_id=STUDY))
    assert other.language is None


def test_a_row_bears_study_accession_and_patient(tmp_path: Path) -> None:
    path = write_sr(
        tmp_path / "a.dcm", [FINDINGS], study_id=STUDY, AccessionNumber="A 7", PatientID="P7"
    )
    (row,) = rows(path)
    assert (row.study_id, row.accession, row.patient, row.status) == (STUDY, "A 7", "P7", "final")
    assert row.issued == "20200102120000"


def test_the_evidence_names_the_studies_of_a_report_that_is_filed_apart(tmp_path: Path) -> None:
    evidence = []
    for name in ("2", "3"):
        ds = Dataset()
        ds.StudyInstanceUID = derive_uid("study", name)
        evidence.append(ds)
    path = write_sr(
        tmp_path / "a.dcm",
        [FINDINGS],
        study_id=STUDY,
        CurrentRequestedProcedureEvidenceSequence=evidence,
    )
    assert [row.study_id for row in rows(path)] == [derive_uid("study", n) for n in ("2", "3")]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"PreliminaryFlag": "PRELIMINARY"}, "preliminary"),
        ({"CompletionFlag": "PARTIAL"}, "preliminary"),
        ({"PredecessorDocumentsSequence": [Dataset()]}, "amended"),
        ({"VerificationFlag": "VERIFIED"}, "final"),
    ],
)
def test_flags_give_the_status(tmp_path: Path, values: dict[str, object], status: str) -> None:
    (row,) = rows(write_sr(tmp_path / "a.dcm", [FINDINGS], study_id=STUDY, **values))
    assert row.status == status


def test_a_dose_report_is_named(tmp_path: Path) -> None:
    found = rejection(write_sr(tmp_path / "a.dcm", [FINDINGS], study_id=STUDY, sop_class=DOSE))
    assert (found.item, found.rule) == ("a.dcm", "not-a-report")
    assert "no radiologist's text: a dose report, measurements" in found.reason


def test_measurements_in_a_common_class_are_named_by_their_title(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    title = item("CONTAINER", "Imaging Measurement Report", value="126000", scheme="DCM")
    write_sr(
        path,
        [FINDINGS],
        study_id=STUDY,
        ConceptNameCodeSequence=title.ConceptNameCodeSequence,
    )
    assert rejection(path).rule == "not-a-report"


def test_a_report_that_is_a_pdf_is_named(tmp_path: Path) -> None:
    pdf = "1.2.840.10008.5.1.4.1.1.104.1"
    found = rejection(write_sr(tmp_path / "a.dcm", [], study_id=STUDY, sop_class=pdf))
    assert found.rule == "report-not-text"
    assert "an encapsulated PDF, which is not read" in found.reason


def test_a_report_without_words_is_named(tmp_path: Path) -> None:
    found = rejection(write_sr(tmp_path / "a.dcm", [section("Findings")], study_id=STUDY))
    assert found.rule == "empty-report"
    assert "expected TEXT items in its tree, got none" in found.reason


def test_a_tree_that_nests_without_end_is_named(tmp_path: Path) -> None:
    content = FINDINGS
    for _ in range(100):
        content = section("Findings", content)
    found = rejection(write_sr(tmp_path / "a.dcm", [content], study_id=STUDY))
    assert (found.rule, "nests deeper than 64 levels" in found.reason) == ("unreadable", True)


@pytest.mark.parametrize("delimited", [False, True])
def test_a_report_that_breaks_off_is_named(tmp_path: Path, delimited: bool) -> None:
    content = [section("Findings", text("Finding", "Effusion.")) for _ in range(50)]
    path = write_sr(tmp_path / "a.dcm", content, study_id=STUDY)
    if delimited:  # sequences that end in a mark, rather than after a length
        ds = dcmread(path)
        ds["ContentSequence"].is_undefined_length = True
        ds.save_as(path)
    path.write_bytes(path.read_bytes()[:-700])
    assert rejection(path).rule == ("unreadable" if delimited else "truncated")


def test_a_file_that_is_no_dicom_is_named_alone_and_passed_over_in_a_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "notes").write_bytes(b"hello" * 100)
    assert rejection(tmp_path / "notes").rule == "corrupt"
    assert list(read_sr(tmp_path)) == []


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no SR file or folder at '.*none'"):
        list(read_sr(tmp_path / "none"))


# -- which report a study gets ---------------------------------------------------------


def row(text: str, **values: str) -> ReportRow:
    return ReportRow(**({"item": text, "text": text, "study_id": "1"} | values))  # type: ignore[arg-type]


def left(reports: Reports) -> dict[str, str]:
    return {r.item: r.rule for r in reports.leftovers()}


def test_an_amended_report_wins_over_a_later_final_one() -> None:
    reports = Reports(
        [row("a", issued="3"), row("b", status="amended", issued="1"), row("c", issued="2")]
    )
    assert reports.find(["1"]) == row("b", status="amended", issued="1")
    assert left(reports) == {"a": "report-superseded", "c": "report-superseded"}


def test_of_equals_the_one_issued_last_counts() -> None:
    reports = Reports([row("a", issued="2"), row("b", issued="1")])
    found = reports.find(["1"])
    assert found is not None
    assert found.text == "a"


@pytest.mark.parametrize("status", ["preliminary", "cancelled", "entered-in-error"])
def test_a_report_that_is_not_final_is_left_out_and_named(status: str) -> None:
    reports = Reports([row("a", status=status)])
    assert left(reports) == {"a": "report-status"}  # whether its volume is there or not
    assert reports.find(["1"]) is None
    assert left(reports) == {"a": "report-status"}


def test_a_final_report_that_was_withdrawn_later_is_none() -> None:
    reports = Reports(
        [
            row("a", document="d", version="1"),
            row("b", document="d", version="2", status="entered-in-error"),
        ]
    )
    assert reports.find(["1"]) is None
    assert left(reports) == {"a": "report-superseded", "b": "report-status"}


def test_the_same_report_twice_is_named_once() -> None:
    reports = Reports([row("a", item="x"), row("a", item="y")])
    assert reports.find(["1"]) == row("a", item="y")
    assert left(reports) == {"x": "duplicate-row"}


def test_a_report_without_a_volume_is_named() -> None:
    reports = Reports([row("a"), row("b", study_id="2")])
    reports.find(["2"])
    assert left(reports) == {"a": "volume-missing"}


def test_an_accession_number_finds_a_report_that_names_no_study() -> None:
    reports = Reports([row("a", study_id="", accession="A1"), row("b", accession="A1")])
    found = reports.find(["7"], "A1")
    assert found is not None
    assert found.text == "a"
    assert reports.find(["7"], "A2") is None
    assert reports.bear_accessions


def test_an_accession_number_of_two_patients_is_not_guessed_at() -> None:
    reports = Reports(
        [row(n, study_id="", accession="A1", patient=n) for n in ("a", "b")],
    )
    with pytest.raises(InputError, match="Reports of 2 patients bear this study's accession"):
        reports.find([], "A1")


def test_a_folder_of_structured_reports_goes_with_a_folder_of_volumes(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    write_phantoms(root, 2, size=(24, 32, 32), dicom=True)
    study = derive_uid("study", "ph1-s000000")
    write_sr(root / "dicom" / "ph1-s000000" / "sr.dcm", [FINDINGS], study_id=study)
    write_sr(tmp_path / "sr" / "a.dcm", [FINDINGS], study_id=study)
    write_sr(tmp_path / "sr" / "b.dcm", [FINDINGS], study_id=STUDY)
    reported = Reported(FolderSource(root / "dicom"), Reports(read_sr(tmp_path / "sr")))
    curate(reported, tmp_path / "out", CurateConfig(workers=1))
    texts = [s.report.text for s in read_studies(tmp_path / "out" / "studies.parquet") if s.report]
    assert texts == ["Findings:\nLeft pleural effusion."]
    rules = {r.item: r.rule for r in read_rejections(tmp_path / "out" / "rejections.parquet")}
    assert rules["b.dcm"] == "volume-missing"


def test_an_accession_number_is_read_from_a_volume_where_its_study_finds_nothing(
    tmp_path: Path,
) -> None:
    import pydicom

    write_phantoms(tmp_path, 1, size=(24, 32, 32), dicom=True)
    for file in (tmp_path / "dicom").rglob("*.dcm"):
        ds = pydicom.dcmread(file)
        ds.AccessionNumber = "A1"
        ds.save_as(file)
    source = Reported(
        FolderSource(tmp_path / "dicom"), Reports([row("a", study_id="", accession="A1")])
    )
    (ref,) = source.items()
    assert source.facts(ref, {"study_id": "9"}).text == "a"  # type: ignore[arg-type]


def test_no_message_names_a_patient(tmp_path: Path) -> None:
    write_sr(tmp_path / "a.dcm", [], study_id=STUDY, PatientID="CANARY")
    write_sr(tmp_path / "b.dcm", [FINDINGS], study_id=STUDY, PatientID="CANARY", name="b")
    reports = Reports(read_sr(tmp_path))
    assert not re.search("canary|effusion", repr(list(reports.leftovers())), re.I)
