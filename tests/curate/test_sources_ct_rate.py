"""CT-RATE: a release of empty files and small tables, written by hand in its layout."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.curate.sources.ct_rate import CtRateSource
from medfinder.curate.sources.source import Facts
from medfinder.errors import InputError
from medfinder.records import Rejection
from medfinder.report.parse import parse_report
from medfinder.report.vocabulary import LABELS
from medfinder.volume.read import VolumeRef

Release = Callable[..., Path]
HEADER = "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN\n"
REPORT = '{},Cough.,"Axial, without contrast.",A nodule.,Nodule.\n'


def place(root: Path, name: str, folder: str = "") -> Path:
    split, patient, scan, _ = name.split("_")
    path = root / (folder or split) / f"{split}_{patient}" / f"{split}_{patient}_{scan}" / name
    return path.with_name(f"{name}.nii.gz")


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Return a maker of a release: names of volumes (made empty) and of those with a report."""

    def make(*names: str, listed: tuple[str, ...] | None = None, rows: str = "") -> Path:
        root = tmp_path / "dataset"
        for name in names:
            path = place(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        reports = root / "radiology_text_reports"
        reports.mkdir(parents=True, exist_ok=True)
        rows += "".join(REPORT.format(f"{n}.nii.gz") for n in (names if listed is None else listed))
        (reports / "validation_reports.csv").write_text(HEADER + rows)
        return root

    return make


def read(source: CtRateSource) -> tuple[dict[str, Facts], dict[str, str]]:
    items = list(source.items())
    facts = {
        ref.series_id or ref.path.name: source.facts(ref, {})
        for ref in items
        if isinstance(ref, VolumeRef)
    }
    lost = [r for r in items if isinstance(r, Rejection)] + list(source.leftovers())
    return facts, {r.item: r.rule for r in lost}


def test_a_reconstruction_is_a_series_of_its_scan(release: Release) -> None:
    facts, lost = read(CtRateSource(release("valid_53_a_1", "valid_53_a_2", "train_7_b_1")))
    assert lost == {}
    assert [(f.patient_id, f.study_id, f.split) for f in facts.values()] == [
        ("train_7", "train_7_b", "train"),
        ("valid_53", "valid_53_a", "val"),
        ("valid_53", "valid_53_a", "val"),
    ]


def test_the_four_parts_make_one_report_with_its_sections(release: Release) -> None:
    (found,) = read(CtRateSource(release("valid_53_a_1")))[0].values()
    assert found.text == (
        "Clinical information: Cough.\nTechnique: Axial, without contrast.\n"
        "Findings: A nodule.\nImpression: Nodule."
    )
    report = parse_report(found.text)
    assert (report.findings_text, report.impression_text) == ("A nodule.", "Nodule.")


def test_what_is_not_given_is_left_out(release: Release) -> None:
    rows = "valid_1_a_1.nii.gz,Not given.,,Clear lungs.,nan\n"
    (found,) = read(CtRateSource(release("valid_1_a_1", listed=(), rows=rows)))[0].values()
    assert found.text == "Findings: Clear lungs."


def test_a_technique_without_findings_is_no_report(release: Release) -> None:
    rows = "valid_1_a_1.nii.gz,Cough.,Axial.,nan,Not given.\n"
    (found,) = read(CtRateSource(release("valid_1_a_1", listed=(), rows=rows)))[0].values()
    assert found.text == ""


def test_the_eighteen_labels_are_read_by_their_names(release: Release) -> None:
    root = release("valid_1_a_1", "valid_2_a_1")
    folder = root / "multi_abnormality_labels"
    folder.mkdir()
    names = [name.capitalize() for name in LABELS]
    values = ["1" if name in ("Emphysema", "Lung nodule") else "0" for name in names]
    (folder / "valid_predicted_labels.csv").write_text(
        f"VolumeName,{','.join(names)}\nvalid_1_a_1.nii.gz,{','.join(values)}\n"
    )
    facts, _ = read(CtRateSource(root))
    assert [f.labels for f in facts.values()] == [("emphysema", "lung nodule"), None]


def test_metadata_give_sex_age_date_scanner_and_kernel_and_no_rescale(release: Release) -> None:
    root = release("valid_1_a_1")
    (root / "metadata").mkdir()
    (root / "metadata" / "validation_metadata.csv").write_text(
        "VolumeName,Manufacturer,PatientSex,PatientAge,ConvolutionKernel,RescaleSlope,"
        "RescaleIntercept,StudyDate\n"
        "valid_1_a_1.nii.gz,SIEMENS,M,058Y,\"['Br60f', '3']\",1.0,-8192.0,20190102.0\n"
    )
    (found,) = read(CtRateSource(root))[0].values()
    assert (found.sex, found.age, found.study_date) == ("M", 58, "2019-01-02")
    assert (found.manufacturer, found.kernel) == ("SIEMENS", "Br60f")


def test_volumes_that_ct_rate_itself_calls_no_chest_are_named(release: Release) -> None:
    root = release("train_1_a_1", "train_2_a_1")
    (root / "metadata").mkdir()
    (root / "metadata" / "no_chest_train.txt").write_text("train_2_a_1.nii.gz\r\n")
    facts, lost = read(CtRateSource(root))
    assert list(facts) == ["train_1_a_1.nii.gz"]
    assert lost == {"train/train_2/train_2_a/train_2_a_1.nii.gz": "other-body-part"}


def test_the_corrected_copy_is_used_where_both_releases_are_there(release: Release) -> None:
    root = release("train_1_a_1", "train_2_a_1")
    fixed = place(root, "train_1_a_1", "train_fixed")
    fixed.parent.mkdir(parents=True)
    fixed.touch()
    items = [i.item for i in CtRateSource(root).items() if isinstance(i, VolumeRef)]
    assert items == [
        "train/train_2/train_2_a/train_2_a_1.nii.gz",
        "train_fixed/train_1/train_1_a/train_1_a_1.nii.gz",
    ]
    assert read(CtRateSource(root))[1] == {
        "train/train_1/train_1_a/train_1_a_1.nii.gz": "duplicate-volume"
    }


def test_segmentations_and_other_names_are_no_volumes(release: Release) -> None:
    root = release("valid_1_a_1")
    (root / "ts_seg").mkdir()
    (root / "ts_seg" / "valid_1_a_1.nii.gz").touch()
    (root / "extra.nii.gz").touch()
    assert read(CtRateSource(root))[1] == {
        "ts_seg/valid_1_a_1.nii.gz": "unexpected-file",
        "extra.nii.gz": "unexpected-file",
    }


def test_listed_but_absent_present_but_not_listed_and_listed_twice_are_named(
    release: Release,
) -> None:
    listed = ("valid_1_a_1", "valid_1_a_1", "valid_3_a_1")
    facts, lost = read(CtRateSource(release("valid_1_a_1", "valid_2_a_1", listed=listed)))
    assert [[rule for rule, _ in f.doubts] for f in facts.values()] == [[], ["not-listed"]]
    assert lost == {
        "row 3 of validation_reports.csv: valid_1_a_1": "duplicate-row",
        "row 4 of validation_reports.csv: valid_3_a_1": "volume-missing",
    }


def test_a_reconstruction_without_a_row_takes_its_scan_s_report(release: Release) -> None:
    root = release("valid_1_a_1", "valid_1_a_2", listed=("valid_1_a_1",))
    facts, lost = read(CtRateSource(root))
    assert len({f.text for f in facts.values()}) == 1
    assert [[rule for rule, _ in f.doubts] for f in facts.values()] == [[], ["not-listed"]]
    assert lost == {}


def test_a_volume_name_that_climbs_is_refused(release: Release) -> None:
    rows = "../../valid_9_a_1.nii.gz,,,x,y\n"
    _, lost = read(CtRateSource(release("valid_1_a_1", rows=rows)))
    assert lost == {"row 2 of validation_reports.csv: ../../valid_9_a_1.nii.gz": "unsafe-id"}


def test_a_release_without_reports_or_their_columns_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        CtRateSource(tmp_path / "none")
    with pytest.raises(InputError, match="no table of reports: expected radiology_text_reports"):
        CtRateSource(tmp_path)
    (tmp_path / "train_reports.csv").write_text("VolumeName,words\na,b\n")
    with pytest.raises(InputError, match="lacks a column: expected Findings_EN or Impressions_EN"):
        CtRateSource(tmp_path)
