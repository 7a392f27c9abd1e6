"""What leaves a collection: readable by our own reader, and nobody's identity in it."""

import asyncio
import csv
import io
import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from medfinder.records import Report
from medfinder.serve.collections import Kept
from medfinder.serve.export import to_cases, to_csv, to_json, to_pdf, to_zip
from medfinder.serve.lanes import Lane
from medfinder.serve.slices import to_pixels
from medfinder.volume.read import read_volume
from medfinder.volume.volume import Volume
from stubs.members import CHEAP, Members, error_of

NAMED = (
    "Paciente: María García López, NHC 1234567. Examen del 12/03/2020. Nódulo en lóbulo superior "
    "derecho. Dr. Juan Pérez, Hospital Clínico de Valencia. <img src='file:///etc/passwd'>"
)
SECRETS = ("garcía", "garcia", "1234567", "12/03/2020", "pérez")
IDS = re.compile(
    r"study-\d|patient-0\b|patient-1\b|patient-2\b|2020-\d\d|1\.2\.3\.|secret-path|folder"
)


@pytest.fixture
def kept(studies):
    notes = ("see María García, NHC 1234567", "=HYPERLINK(1)", "")
    named = replace(
        studies[0], report=Report(NAMED, "es"), study_date="2020-03-12", age=97, sex="F"
    )
    chosen = (named, studies[1], studies[5])
    return [
        (Kept(s.study_id, note, "2026-01-01"), s) for s, note in zip(chosen, notes, strict=True)
    ]


@pytest.fixture
def lane():
    lane = Lane("exports")
    yield lane
    lane.close()


async def load(study):
    return to_pixels(read_volume(study.volume_path))


def zipped(form, kept, lane, load=load):
    async def collect():
        parts = [p async for p in to_zip(form, "María García López", "d", kept, load, lane)]
        return b"".join(parts)

    return zipfile.ZipFile(io.BytesIO(asyncio.run(collect())))


def assert_nobody(text):
    for secret in SECRETS:
        assert secret not in text.lower(), secret
    assert not IDS.search(text), IDS.search(text)


# ---- tables ---------------------------------------------------------------------------------


def test_cases_and_patients_are_numbered_and_the_same_patient_stays_one(studies):
    kept = [(Kept(s.study_id, "", ""), s) for s in studies[:4]]
    cases = to_cases(kept)
    assert [c.case for c in cases] == ["case-001", "case-002", "case-003", "case-004"]
    assert [c.patient for c in cases] == [
        "patient-001",
        "patient-001",
        "patient-002",
        "patient-002",
    ]


def test_a_date_is_its_year_and_an_old_age_is_ninety(kept):
    case = to_cases(kept)[0]
    assert (case.year, case.age, case.sex) == ("2020", 90, "F")


def test_no_table_names_anybody(kept):
    cases = to_cases(kept)
    for body in (to_csv(cases), to_json("María García López", "NHC 1234567", cases)):
        assert_nobody(body.decode())
    assert "lóbulo superior derecho" in to_csv(cases).decode()


def test_a_cell_that_a_spreadsheet_would_run_is_made_text(studies):
    for start in ("=", "+", "-", "@", "\t=", "\r=", " ="):
        study = replace(studies[0], manufacturer=f"{start}1+1", body_part="chest")
        note = Kept("x", f"{start}HYPERLINK(1)", "")
        rows = list(
            csv.DictReader(io.StringIO(to_csv(to_cases([(note, study)])).decode("utf-8-sig")))
        )
        assert rows[0]["manufacturer"].startswith("'")
        assert rows[0]["note"][:1] not in set("=+-@\t\r"), rows[0]["note"]


def test_a_table_reads_back_with_quotes_lines_and_any_letters(studies):
    text = 'Nódulo "grande", 5 mm;\nsegunda línea \U0001fac1'
    study = replace(studies[0], report=Report(text, "es"))
    body = to_csv(to_cases([(Kept("x", "", ""), study)]))
    assert body.startswith(b"\xef\xbb\xbf")
    (row,) = csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""))
    assert row["report"] == text
    assert row["findings"].startswith("nodule")


def test_json_holds_what_the_table_does(kept):
    told = json.loads(to_json("x", "y", to_cases(kept)))
    assert [c["case"] for c in told["cases"]] == ["case-001", "case-002", "case-003"]
    assert told["cases"][1]["findings"][0].startswith("pleural effusion: present")
    assert told["cases"][2]["report"] == ""


# ---- pages ----------------------------------------------------------------------------------


def test_a_pdf_has_pages_for_studies_with_a_slice_and_names_nobody(kept):
    from medfinder.serve.export import picture_of

    pictures = [picture_of(asyncio.run(load(s))) for _, s in kept[:2]]
    body = to_pdf("María García López", "<b>x</b> & y", to_cases(kept), [*pictures, None])
    assert body.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", body)) == 4
    assert len(re.findall(rb"/Subtype /Image", body)) == 2
    assert_nobody(body.decode("latin-1").lower())
    assert to_pdf("x", "y", to_cases(kept), [None] * 3) == to_pdf(
        "x", "y", to_cases(kept), [None] * 3
    )


def test_a_report_is_text_in_a_pdf_whatever_it_holds(studies):
    evil = (
        "<img src='http://127.0.0.1:1/x.png'/> </para> &nbsp; <a href='x'> \x00\u202e\ud800 "
        + "x" * 20_000
    )
    study = replace(studies[0], report=Report(evil, "en"))
    body = to_pdf("x", "", to_cases([(Kept("x", evil[:4000], ""), study)]), [None])
    assert body.startswith(b"%PDF-")
    assert b"/URI" not in body
    assert b"/Subtype /Image" not in body


# ---- volumes --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["nifti", "dicom"])
def test_volumes_read_back_with_equal_hounsfield_units_and_geometry(form, kept, lane, tmp_path):
    archive = zipped(form, kept, lane)
    assert archive.testzip() is None
    archive.extractall(tmp_path)
    for i, (_, study) in enumerate(kept, 1):
        path = tmp_path / (f"case-{i:03d}.nii.gz" if form == "nifti" else f"case-{i:03d}")
        back, first = read_volume(path), read_volume(study.volume_path)
        assert np.array_equal(back.hu, first.hu)
        np.testing.assert_allclose(back.affine, first.affine, atol=1e-3)


def test_an_oblique_ct_keeps_its_place_in_space(lane, tmp_path, studies):
    angle = 0.3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    first = read_volume(studies[0].volume_path)
    turned = turn @ first.affine
    turned[:3, 3] = (-31.5, 12.25, -420)
    oblique = Volume(first.stored, turned)

    async def give(_):
        return to_pixels(oblique)

    archive = zipped("dicom", [(Kept("x", "", ""), studies[0])], lane, give)
    archive.extractall(tmp_path)
    back = read_volume(tmp_path / "case-001")
    np.testing.assert_allclose(back.affine, turned, atol=1e-3)
    assert np.array_equal(back.hu, first.hu)


def test_a_dicom_export_names_nobody_and_no_two_exports_can_be_joined(kept, lane):
    uids = []
    for _ in range(2):
        archive = zipped("dicom", kept[:1], lane)
        names = [n for n in archive.namelist() if n.endswith(".dcm")]
        assert len(names) == kept[0][1].shape[0]
        ds = pydicom.dcmread(io.BytesIO(archive.read(names[0])))
        assert (ds.PatientID, str(ds.PatientName)) == ("patient-001", "patient-001")
        assert (ds.StudyDate, ds.PatientBirthDate, ds.PatientAge) == ("", "", "090Y")
        assert_nobody(str(ds))
        uids += [ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID]
        uids += [ds.FrameOfReferenceUID]
    assert len(set(uids)) == 8
    assert all(uid.startswith("2.25.") for uid in uids)


@pytest.mark.parametrize("form", ["nifti", "dicom"])
def test_no_part_of_a_zip_names_anybody_or_when_it_was_made(form, kept, lane):
    archive = zipped(form, kept, lane)
    for info in archive.infolist():
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        assert_nobody(info.filename)
    assert_nobody(archive.read("cases.json").decode())


def test_a_ct_that_is_gone_leaves_its_case_told(kept, lane):
    from medfinder.serve.faults import Refusal

    async def half(study):
        if study.study_id == "study-1":
            raise Refusal(410, "UnreadableVolume", "gone", "x")
        return await load(study)

    archive = zipped("nifti", kept, lane, half)
    assert archive.namelist() == ["case-001.nii.gz", "case-003.nii.gz", "cases.json"]
    assert len(json.loads(archive.read("cases.json"))["cases"]) == 3


def test_a_zip_comes_volume_by_volume(kept, lane):
    loaded = []

    async def watched(study):
        loaded.append(study.study_id)
        return await load(study)

    async def first():
        parts = to_zip("nifti", "x", "", kept, watched, lane)
        await anext(parts)
        await parts.aclose()

    asyncio.run(first())
    assert loaded == ["study-0"]


# ---- over HTTP ------------------------------------------------------------------------------


@pytest.fixture
def at(finder, tmp_path):
    members = Members(finder, tmp_path / "x.sqlite")
    client = members.signed_in("ana")
    made = client.post("/v1/collections", json={"name": "../../etc/passwd\r\nx: y"}).json()
    own = f"/v1/collections/{made['collection_id']}"
    for i in (0, 1):
        client.put(f"{own}/studies/study-{i}", json={"note": "a note"})
    yield client, own
    members.close()


@pytest.mark.parametrize(
    ("form", "kind", "start"),
    [("csv", "text/csv; charset=utf-8", b"\xef\xbb\xbfcase,"), ("json", "application/json", b"{"),
     ("pdf", "application/pdf", b"%PDF-"), ("nifti", "application/zip", b"PK"), ("dicom", "application/zip", b"PK")],
)  # fmt: skip
def test_every_format_is_a_file_of_its_kind(at, form, kind, start):
    client, own = at
    response = client.get(f"{own}/export?format={form}")
    assert response.status_code == 200
    assert response.headers["content-type"] == kind
    assert response.content.startswith(start)
    assert re.fullmatch(
        r'attachment; filename="collection\.\w+"', response.headers["content-disposition"]
    )
    assert response.headers["cache-control"] == "no-store"


def test_an_unknown_format_is_refused(at):
    client, own = at
    error_of(client.get(f"{own}/export?format=exe"), 422)


def test_an_export_of_too_many_voxels_is_refused_before_one_is_read(finder, tmp_path):
    small = replace(CHEAP, max_export_bytes=200_000)  # a study has 147,456
    members = Members(finder, tmp_path / "x.sqlite", small)
    client = members.signed_in("ana")
    own = (
        "/v1/collections/"
        + client.post("/v1/collections", json={"name": "x"}).json()["collection_id"]
    )
    client.put(f"{own}/studies/study-0", json={})
    assert client.get(f"{own}/export?format=nifti").status_code == 200
    client.put(f"{own}/studies/study-1", json={})
    for form in ("nifti", "dicom"):
        assert error_of(client.get(f"{own}/export?format={form}"), 413)["type"] == "TooLarge"
    assert client.get(f"{own}/export?format=csv").status_code == 200
    members.close()


def test_an_empty_collection_is_exported_too(finder, tmp_path):
    members = Members(finder, tmp_path / "x.sqlite")
    client = members.signed_in("ana")
    own = (
        "/v1/collections/"
        + client.post("/v1/collections", json={"name": "x"}).json()["collection_id"]
    )
    for form in ("csv", "json", "pdf", "nifti", "dicom"):
        assert client.get(f"{own}/export?format={form}").status_code == 200
    members.close()
