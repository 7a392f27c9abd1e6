"""Phantom archives: their layouts, their defects, and that the same arguments give the same bytes."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.errors import ConfigError, InputError, Mismatch
from medfinder.phantom.archive import write_archive
from medfinder.phantom.case import case_from_dict, sample_case
from medfinder.phantom.chest import PhantomConfig, make_phantom
from medfinder.phantom.defects import DEFECTS, PLACEHOLDER, Beside, Rates
from medfinder.phantom.layouts import BIMCV_R_COLUMNS, LABEL_COLUMNS
from medfinder.phantom.pairs import DENIALS, FILLERS, MIN_WORDS, NORMAL, english, spanish, word_pair
from medfinder.phantom.treatments import TREATMENTS
from medfinder.phantom.wording import plain
from medfinder.report.findings import extract_findings
from medfinder.report.language import detect_language
from medfinder.report.vocabulary import vocabulary
from medfinder.volume.read import read_volume

SIZE = (24, 24, 24)
NONE = Rates(scale=0, beside=Beside(0, 0, 0))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(path: Path, separator: str = ",", encoding: str = "utf-8") -> list[dict[str, str]]:
    with path.open(newline="", encoding=encoding) as file:
        return list(csv.DictReader(file, delimiter=separator))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def only(*names: str, share: float = 0.4) -> Rates:
    shares = dict.fromkeys(DEFECTS, 0.0) | dict.fromkeys(names, share)
    return Rates(shares, beside=Beside(0, 0, 0))


@pytest.fixture(scope="module")
def bimcv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw archive with every defect of its layout."""
    return write_archive(
        tmp_path_factory.mktemp("a"), 75, seed=3, layout="bimcv", size=SIZE, workers=1
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published table of some 470 rows."""
    return write_archive(tmp_path_factory.mktemp("b"), 300, seed=3, layout="bimcv_r", volumes=False)


def test_a_tree_of_bimcv_holds_volumes_sidecars_scans_and_tables(tmp_path: Path) -> None:
    root = write_archive(tmp_path, 4, layout="bimcv", size=SIZE, rates=NONE, workers=1)
    truth = lines(tmp_path / "truth.jsonl")
    rows = table(root / "derivatives/labels/labels_covid19_posi.tsv", "\t")
    rows += table(root / "derivatives/labels/labels_covid19_nega.tsv", "\t", "cp1252")
    assert tuple(rows[0]) == LABEL_COLUMNS
    assert {row["ReportID"]: row["Report"] for row in rows} == {
        told["study_id"]: told["text"] for told in truth
    }
    for told in truth:
        (file,) = told["files"]
        patient, study, folder, name = file.split("/")
        assert (patient, study, folder) == (told["patient_id"], told["study_id"], "mod-rx")
        assert name.startswith(f"{patient}_{study}")
        assert name.endswith("_bp-chest_ct.nii.gz")
        assert read_volume(root / file).shape == SIZE
        assert json.loads((root / file.replace(".nii.gz", ".json")).read_text())
        assert (root / patient / study / f"{patient}_{study}_scans.tsv").is_file()
    people = table(root / "participants.tsv", "\t")
    assert {p["participant"]: p["gender"] for p in people} == {
        told["patient_id"]: told["sex"] for told in truth
    }


def test_the_published_table_has_its_columns_and_lists_as_published(published: Path) -> None:
    rows = table(published / "meta" / "BIMCV-R.csv")
    assert tuple(rows[0]) == BIMCV_R_COLUMNS
    assert any(row["Labels"].startswith("['', '") for row in rows)
    assert any("', ' " in row["Labels"] for row in rows)
    assert any(row["labelCUIS"].startswith("[,C") for row in rows)
    sound = {t["study_id"] for t in lines(published.parent / "truth.jsonl") if not t["defect"]}
    reports = [row["Report"] for row in rows if row["ReportID"] in sound]
    assert all(text.endswith(" .") and text.isascii() and text.islower() for text in reports)
    assert not list(published.rglob("*.nii.gz"))


def test_half_of_the_volumes_are_of_patients_with_several(published: Path) -> None:
    truth = lines(published.parent / "truth.jsonl")
    n = Counter(told["patient_id"] for told in truth)
    several = sum(k for k in n.values() if k > 1)
    assert 0.45 < several / len(truth) < 0.60


def test_published_defects_have_their_published_rates(published: Path) -> None:
    rows = {row["ReportID"]: row for row in table(published / "meta" / "BIMCV-R.csv")}
    n = len(rows)
    english_of = Counter(row["Report_en"] for row in rows.values() if row["Report_en"])
    placeholders = english_of.pop(PLACEHOLDER) / n
    shared = placeholders + sum(k for k in english_of.values() if k > 1) / n
    assert placeholders == pytest.approx(0.079, abs=0.02)
    assert shared == pytest.approx(0.145, abs=0.03)
    found = Counter(line["defect"] for line in lines(published.parent / "planted.jsonl"))
    assert found["same-source-other-translation"] / n == pytest.approx(62 / 1628, abs=0.015)
    assert found["translation-residue"] / n == pytest.approx(0.055, abs=0.01)


def test_every_defect_of_a_layout_is_planted(bimcv: Path, published: Path) -> None:
    for root, layout in ((bimcv, "bimcv"), (published, "bimcv_r")):
        wanted = {
            d.name
            for d in DEFECTS.values()
            if layout in d.layouts and (layout == "bimcv" or not d.needs_volume)
        }
        assert wanted <= {line["defect"] for line in lines(root.parent / "planted.jsonl")}


def test_a_session_has_one_defect_at_most(bimcv: Path) -> None:
    found = Counter()
    for line in lines(bimcv.parent / "planted.jsonl"):
        beside = line["defect"].startswith(("second-series", "other-"))
        if line["expect"] != "split" and not beside:
            found[line["study_id"]] += 1
    assert set(found.values()) == {1}


@pytest.mark.parametrize(
    "defect",
    [
        "truncated",
        "not-a-volume",
        "too-few-slices",
        "blank-header",
        "wrong-unit",
        "not-hu-offset",
        "not-hu-windowed",
    ],
)
def test_a_damaged_volume_is_refused_by_the_rule_that_was_written_down(
    bimcv: Path, defect: str
) -> None:
    planted = [line for line in lines(bimcv.parent / "planted.jsonl") if line["defect"] == defect]
    assert planted
    for line in planted:
        with pytest.raises(InputError) as caught:
            read_volume(bimcv / line["item"])
        assert caught.value.rule == line["rule"]


def test_all_other_volumes_are_sound(bimcv: Path) -> None:
    bad = {
        line["item"]
        for line in lines(bimcv.parent / "planted.jsonl")
        if line["rule"] in ("truncated", "not-nifti", "too-few-slices", "blank-header")
        or line["rule"].startswith(("not-hu", "implausible"))
    }
    files = [f for told in lines(bimcv.parent / "truth.jsonl") for f in told["files"]]
    for file in files:
        if file.endswith(".nii.gz") and file not in bad:
            assert read_volume(bimcv / file).shape[0] >= 12


def test_a_duplicate_has_the_voxels_of_its_donor_and_a_near_duplicate_nearly(
    tmp_path: Path,
) -> None:
    rates = only("duplicate-volume", "near-duplicate-noise", "near-duplicate-offset", share=0.15)
    root = write_archive(tmp_path, 16, layout="bimcv_r", size=SIZE, rates=rates, workers=1)
    planted = [p for p in lines(tmp_path / "planted.jsonl") if p["expect"] == "rejection"]
    assert {p["defect"] for p in planted} == {
        "duplicate-volume",
        "near-duplicate-noise",
        "near-duplicate-offset",
    }
    for line in planted:
        one, other = (read_volume(root / line[key]) for key in ("item", "or_item"))
        if line["defect"] == "duplicate-volume":
            assert one.content_hash == other.content_hash
        else:
            assert one.content_hash != other.content_hash
            assert abs(one.hu.astype(float) - other.hu).max() < 30


@pytest.mark.parametrize(("depth", "n_slices"), [(24, 23), (48, 24)])
def test_a_thick_series_is_of_the_same_scan_with_fewer_slices(depth: int, n_slices: int) -> None:
    volume = make_phantom(1, PhantomConfig(size=(depth, 24, 24))).volume
    thick = TREATMENTS["thick"](volume)
    assert thick.shape == (n_slices, 24, 24)
    assert thick.spacing_mm[0] <= 15
    first = thick.affine @ (0, 0, 0, 1)
    assert np.allclose(first, volume.affine @ (0.5, 0, 0, 1))
    assert abs(float(thick.hu.mean()) - float(volume.hu.mean())) < 10


def test_a_missing_volume_is_listed_and_an_unlisted_one_is_there(bimcv: Path) -> None:
    tables = bimcv / "derivatives" / "labels"
    text = (tables / "labels_covid19_posi.tsv").read_bytes()
    text += (tables / "labels_covid19_nega.tsv").read_bytes()
    truth = {t["study_id"]: t for t in lines(bimcv.parent / "truth.jsonl")}
    for line in lines(bimcv.parent / "planted.jsonl"):
        study = line["study_id"]
        if line["defect"] == "volume-missing":
            assert study.encode() in text
            assert not truth[study]["files"]
        if line["defect"] == "not-listed":
            assert study.encode() not in text
            assert (bimcv / truth[study]["files"][0]).is_file()
        if line["defect"] == "duplicate-row":
            assert text.count(f"\t{study}\t".encode()) == 2
        if line["defect"] == "broken-sidecar":
            sidecar = bimcv / truth[study]["files"][0].replace(".nii.gz", ".json")
            with pytest.raises(json.JSONDecodeError):
                json.loads(sidecar.read_text())


def test_every_canary_is_in_the_archive_and_none_in_its_file_names(bimcv: Path) -> None:
    canaries = (bimcv.parent / "canaries.txt").read_text(encoding="utf-8").splitlines()
    held = b""
    for path in bimcv.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if path.name.endswith(".nii.gz") and data[:2] == b"\x1f\x8b":
                data = gzip.GzipFile(path).read(400)
            held += data
    text = plain(held.decode("utf-8", "replace") + held.decode("cp1252", "replace"))
    assert len(canaries) > 10
    for canary in canaries:
        # A report's points stand free; a sidecar's JSON escapes what is not ASCII.
        assert plain(canary) in text or json.dumps(canary)[1:-1].encode() in held, canary
        assert not [p for p in bimcv.rglob("*") if canary.lower() in p.name.lower()]


def test_the_second_table_is_as_a_spreadsheet_saves_it(bimcv: Path) -> None:
    data = (bimcv / "derivatives" / "labels" / "labels_covid19_nega.tsv").read_bytes()
    assert b"\r\n" in data
    assert "ó".encode("cp1252") in data
    with pytest.raises(UnicodeDecodeError):
        data.decode()


def test_planted_translations_differ_from_the_right_one_as_written_down(published: Path) -> None:
    planted = {p["study_id"]: p["defect"] for p in lines(published.parent / "planted.jsonl")}
    seen = set()
    for told in lines(published.parent / "truth.jsonl"):
        study, text = told["study_id"], told["translation"]
        if planted.get(study) == "translation-number":
            assert extract_findings(told["text"], "es")
        if planted.get(study) == "translation-placeholder":
            assert text == PLACEHOLDER
        if planted.get(study) == "label-negated":
            *_, name = told["labels"]
            stated = {(f.name, f.status) for f in extract_findings(told["text"], "es")}
            assert (name, "absent") in stated
            assert (name, "present") not in stated
        if planted.get(study) == "label-unmentioned":
            *_, name = told["labels"]
            assert name not in {f.name for f in extract_findings(told["text"], "es")}
        seen.add(planted.get(study))
    assert {"translation-number", "translation-placeholder", "label-negated"} <= seen


def test_the_truth_holds_each_case_as_it_was_drawn(published: Path) -> None:
    for told in lines(published.parent / "truth.jsonl")[:40]:
        case = case_from_dict(told["case"])
        assert json.loads(json.dumps(case.to_dict())) == told["case"]
        assert case.sex == told["sex"]


def test_texts_of_sound_sessions_are_all_different(published: Path) -> None:
    truth = lines(published.parent / "truth.jsonl")
    texts = [told["text"] for told in truth if told["defect"] is None]
    assert len(set(texts)) == len(texts)
    assert min(len(text.split()) for text in texts) >= MIN_WORDS


def test_ct_rate_has_three_tables_a_split_and_a_volume_a_row(tmp_path: Path) -> None:
    rates = Rates(scale=0, beside=Beside(second_series=0.5))
    root = write_archive(tmp_path, 12, layout="ct_rate", size=SIZE, rates=rates, workers=1)
    n_rows = 0
    for split, long in (("train", "train"), ("valid", "validation")):
        reports = table(root / "radiology_text_reports" / f"{long}_reports.csv")
        labels = table(root / "multi_abnormality_labels" / f"{split}_predicted_labels.csv")
        metadata = table(root / "metadata" / f"{long}_metadata.csv")
        names = [row["VolumeName"] for row in reports]
        assert names == [r["VolumeName"] for r in labels] == [r["VolumeName"] for r in metadata]
        assert len(labels[0]) == 19
        assert metadata[0]["PatientAge"].endswith("Y")
        assert metadata[0]["StudyDate"].endswith(".0")
        for name in names:
            study = name.rpartition("_")[0]
            patient = study.rpartition("_")[0]
            assert (root / split / patient / study / name).is_file()
        n_rows += len(names)
    assert n_rows == len(list(root.rglob("*.nii.gz")))
    assert list(root.rglob("*_2.nii.gz"))


def test_merlin_has_a_workbook_without_formulas(tmp_path: Path) -> None:
    import openpyxl

    root = write_archive(tmp_path, 30, layout="merlin", volumes=False, rates=only("formula-cell"))
    book = openpyxl.load_workbook(root / "reports_final.xlsx")
    rows = list(book.active.iter_rows())
    assert [cell.value for cell in rows[0]] == ["study id", "Findings", "Split", "Few Shot"]
    texts = [row[1] for row in rows[1:]]
    assert {cell.data_type for cell in texts} == {"s"}
    assert any(str(cell.value).startswith(("=", "+", "@")) for cell in texts)


@pytest.mark.parametrize("layout", ["bimcv", "bimcv_r", "ct_rate", "merlin"])
def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, layout: Any) -> None:
    for name in "ab":
        write_archive(tmp_path / name, 6, seed=5, layout=layout, size=(16, 16, 16), workers=1)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 2)):
        write_archive(tmp_path / name, 3, layout="bimcv", size=(16, 16, 16), workers=workers)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_an_interrupted_archive_is_finished_by_the_next_run(tmp_path: Path) -> None:
    root = write_archive(tmp_path, 5, layout="bimcv", size=(16, 16, 16), workers=1)
    whole = bytes_of(tmp_path)
    kept, lost, *_ = sorted(root.rglob("*.nii.gz"))
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "planted.jsonl").unlink()
    write_archive(tmp_path, 5, layout="bimcv", size=(16, 16, 16), workers=1)
    assert bytes_of(tmp_path) == whole
    assert kept.stat().st_mtime_ns == stamp


def test_tables_alone_are_those_of_the_archive_without_what_needs_volumes(tmp_path: Path) -> None:
    for name, volumes in (("a", True), ("b", False)):
        write_archive(
            *(tmp_path / name, 4),
            layout="bimcv_r",
            size=(16, 16, 16),
            volumes=volumes,
            rates=NONE,
            workers=1,
        )
    tables = [tmp_path / name / "bimcv_r" / "meta" / "BIMCV-R.csv" for name in "ab"]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_an_archive_can_be_of_english_reports(tmp_path: Path) -> None:
    root = write_archive(tmp_path, 70, layout="bimcv_r", volumes=False, language="en")
    texts = [t["text"] for t in lines(tmp_path / "truth.jsonl") if not t["defect"]]
    assert all(detect_language(text) == "en" for text in texts)
    planted = {line["defect"] for line in lines(tmp_path / "planted.jsonl")}
    assert "language-mismatch" not in planted
    assert table(root / "meta" / "BIMCV-R.csv", encoding="utf-8")


def test_tables_can_be_as_a_spreadsheet_saves_them(tmp_path: Path) -> None:
    for name, windows in (("a", False), ("b", True)):
        write_archive(tmp_path / name, 20, layout="ct_rate", volumes=False, windows=windows)
    for path in (tmp_path / "a" / "ct_rate").rglob("*.csv"):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert b"\r\n" in other.read_bytes()
        assert table(other, encoding="cp1252") == table(path)


def test_an_archive_of_other_settings_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path, 2, layout="bimcv_r", volumes=False)
    with pytest.raises(Mismatch, match=r"other settings.*Choose another folder"):
        write_archive(tmp_path, 3, layout="bimcv_r", volumes=False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layout": "bimcvr"}, r"Unknown layout 'bimcvr'\. Did you mean"),
        ({"n_patients": 0}, r"needs 1 to 300000 patients.*got 0, 1 and 0"),
        ({"size": (8, 32, 32)}, r"at least 16 voxels"),
        ({"rates": Rates({"trunkated": 0.1})}, r"Unknown defect 'trunkated'"),
        ({"rates": Rates(scale=3)}, r"got a sum of 1\.\d+\. Lower the scale"),
        ({"rates": Rates({"truncated": -0.1})}, r"at least 0"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    arguments: dict[str, Any] = {"n_patients": 2} | options
    with pytest.raises(ConfigError, match=text):
        write_archive(tmp_path / "x", **arguments)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        write_archive(tmp_path / "x", 2, volumes=False)


def test_a_pair_states_the_same_in_both_languages() -> None:
    known = vocabulary()
    for seed in range(60):
        case = sample_case(seed)
        sentences = word_pair(case, seed)
        for text, language in ((plain(spanish(sentences)), "es"), (english(sentences), "en")):
            stated = {f.name for f in extract_findings(text, language) if f.status == "present"}
            for finding in case.findings:
                assert stated & {finding.name, *known.descendants(finding.name)}, (text, finding)
            assert len(text.split()) >= MIN_WORDS
        digits = [
            sorted("".join(ch if ch.isdigit() else " " for ch in text).split())
            for text in (spanish(sentences), english(sentences))
        ]
        ordinals = [f.level for f in case.findings if f.name == "rib fracture"]
        assert len(digits[1]) - len(digits[0]) == len(ordinals)  # "3rd", "tercer"


def test_fillers_state_no_finding_and_denials_deny_theirs() -> None:
    for sentence in (*FILLERS, *NORMAL):
        assert not extract_findings(plain(sentence.es), "es"), sentence.es
        assert not extract_findings(sentence.en, "en"), sentence.en
    for sentence in DENIALS:
        for text, language in ((plain(sentence.es), "es"), (sentence.en, "en")):
            found = {(f.name, f.status) for f in extract_findings(text, language)}
            assert {(name, "absent") for name in sentence.about[:1]} <= found, text
