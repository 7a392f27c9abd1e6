"""The raw BIMCV tree: small trees written by hand, in its layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.curate.sources.bimcv import BimcvSource
from medfinder.curate.sources.mids import Name, Sidecar, age_at
from medfinder.curate.sources.source import Facts
from medfinder.errors import InputError
from medfinder.records import Rejection
from medfinder.volume.read import VolumeRef

HEADER = "PatientID\tReportID\tReport\tLabels\tlabelCUIS\n"
Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a maker of a collection: file names (made empty) and rows of the labels table."""

    def make(*names: str, rows: str = "", table: str = "labels_covid19_posi.tsv") -> Path:
        root = tmp_path / "posi"
        for name in names:
            said = Name.parse(name)
            path = root / said.patient / said.session / "mod-rx" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        labels = root / "derivatives" / "labels" / table
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(HEADER + (rows or "sub-S0\tses-E0\tnada\t[]\t[]\n"))
        return root

    return make


def read(source: BimcvSource) -> tuple[dict[str, Facts], dict[str, str]]:
    """Return the facts of each volume by item, and the rule of each rejection."""
    items = list(source.items())
    facts = {ref.item: source.facts(ref, {}) for ref in items if isinstance(ref, VolumeRef)}
    lost = [r for r in items if isinstance(r, Rejection)] + list(source.leftovers())
    return facts, {r.item: r.rule for r in lost}


CT = "sub-S1_ses-E1_run-1_bp-chest_ct.nii.gz"
ITEM = f"sub-S1/ses-E1/mod-rx/{CT}"
ROW = "sub-S1\tses-E1\tderrame pleural . \t['', 'laminar atelectasis', ' pleural effusion']\t[]\n"


def test_a_ct_gets_its_session_s_report_and_labels(tree: Tree) -> None:
    facts, lost = read(BimcvSource(tree(CT, rows=ROW)))
    assert lost == {}
    found = facts[ITEM]
    assert (found.patient_id, found.study_id) == ("sub-S1", "ses-E1")
    assert (found.text, found.language) == ("derrame pleural .", "es")
    assert found.labels == ("laminar atelectasis", "pleural effusion")
    assert (found.body_part, found.doubts) == ("chest", ())


def test_x_rays_and_other_body_parts_are_named_and_only_cts_are_candidates(tree: Tree) -> None:
    root = tree(
        CT,
        "sub-S1_ses-E1_run-1_bp-chest_vp-ap_cr.png",
        "sub-S1_ses-E1_run-1_bp-chest_vp-ap_cr.json",
        "sub-S1_ses-E1_run-2_bp-chest_dx.nii.gz",
        "sub-S1_ses-E1_run-3_bp-abdomen_ct.nii.gz",
        "sub-S1_ses-E1_run-4_bp-chest_ct.png",
        "sub-S1_ses-E1_mask.nii.gz",
        rows=ROW,
    )
    facts, lost = read(BimcvSource(root))
    assert list(facts) == [ITEM]
    folder = "sub-S1/ses-E1/mod-rx/sub-S1_ses-E1_"
    assert lost == {
        f"{folder}run-1_bp-chest_vp-ap_cr.png": "other-modality",
        f"{folder}run-2_bp-chest_dx.nii.gz": "other-modality",
        f"{folder}run-3_bp-abdomen_ct.nii.gz": "other-body-part",
        f"{folder}run-4_bp-chest_ct.png": "other-modality",
        f"{folder}mask.nii.gz": "unexpected-file",
    }


def test_the_runs_of_a_session_are_series_of_one_study(tree: Tree) -> None:
    other = "sub-S1_ses-E1_acq-2_run-1_bp-chest_ct.nii.gz"
    facts, _ = read(BimcvSource(tree(CT, other, rows=ROW)))
    assert {f.study_id for f in facts.values()} == {"ses-E1"}
    assert {f.text for f in facts.values()} == {"derrame pleural ."}


def test_sidecar_tags_give_sex_age_date_scanner_and_kernel_and_who_must_leave_the_text(
    tree: Tree,
) -> None:
    root = tree(CT, rows=ROW)
    sidecar = root / ITEM.replace(".nii.gz", ".json")
    tags = {
        "PatientSex": "F", "PatientBirthDate": "19600615", "StudyDate": "20200401",
        "Manufacturer": "SIEMENS", "ConvolutionKernel": ["B70f", "2"], "Modality": "CT",
        "PatientName": "GARCIA^ANA", "PatientID": "sub-S1",
    }  # fmt: skip
    sidecar.write_text(json.dumps(tags))
    found = read(BimcvSource(root))[0][ITEM]
    assert (found.sex, found.age, found.study_date) == ("F", 59, "2020-04-01")
    assert (found.manufacturer, found.kernel) == ("SIEMENS", "B70f")
    assert found.known == ("GARCIA ANA",)


def test_a_sidecar_in_dicom_s_json_model_is_read(tmp_path: Path) -> None:
    volume = tmp_path / CT
    model = {
        "00100040": {"vr": "CS", "Value": ["M"]},
        "00101010": {"vr": "AS", "Value": ["061Y"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "RUIZ^EVA"}]},
        "00080020": {"vr": "DA"},
    }
    volume.with_name(CT.replace(".nii.gz", ".json")).write_text(json.dumps(model))
    sidecar = Sidecar.read(volume)
    assert sidecar.tags == {"PatientSex": "M", "PatientAge": "061Y"}
    assert sidecar.known == ("RUIZ EVA",)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_broken_sidecar_is_a_doubt_and_does_not_lose_the_ct(tree: Tree, content: bytes) -> None:
    root = tree(CT, rows=ROW)
    (root / ITEM.replace(".nii.gz", ".json")).write_bytes(content)
    facts, lost = read(BimcvSource(root))
    assert [rule for rule, _ in facts[ITEM].doubts] == ["broken-sidecar"]
    assert (facts[ITEM].text, lost) == ("derrame pleural .", {})


def test_a_sidecar_that_says_it_is_no_ct_rejects_the_volume(tree: Tree) -> None:
    root = tree(CT, rows=ROW)
    (root / ITEM.replace(".nii.gz", ".json")).write_text('{"Modality": "DX"}')
    with pytest.raises(InputError, match="says that the volume is 'DX', expected CT") as error:
        read(BimcvSource(root))
    assert error.value.rule == "other-modality"


def test_participants_fill_in_sex_and_age(tree: Tree) -> None:
    root = tree(CT, rows=ROW)
    (root / "participants.tsv").write_text(
        "participant\tmodality_dicom\tage\tgender\nsub-S1\t['CT', 'CR']\t[56, 57]\tM\n"
    )
    found = read(BimcvSource(root))[0][ITEM]
    assert (found.sex, found.age) == ("M", 56)


def test_a_listed_session_without_a_ct_is_missing_and_says_when_x_rays_are_there(
    tree: Tree,
) -> None:
    root = tree(
        CT,
        "sub-S2_ses-E2_bp-chest_cr.png",
        rows=ROW + "sub-S2\tses-E2\ta\t[]\t[]\nsub-S3\tses-E3\tb\t[]\t[]\n",
    )
    source = BimcvSource(root)
    list(source.items())
    lost = {r.item: r for r in source.leftovers()}
    assert {r.rule for r in lost.values()} == {"volume-missing"}
    assert lost["row 3: ses-E2"].reason.endswith("only X-rays of it are in the tree.")
    assert lost["row 4: ses-E3"].reason.endswith("no CT of it is in the tree.")


def test_a_ct_that_no_table_lists_is_kept_with_a_doubt(tree: Tree) -> None:
    facts, _ = read(BimcvSource(tree(CT)))
    assert facts[ITEM].text == ""
    assert [rule for rule, _ in facts[ITEM].doubts] == ["not-listed"]


def test_the_same_session_twice_is_a_duplicate_and_a_contradiction_is_a_doubt(tree: Tree) -> None:
    other = ROW.replace("derrame pleural", "sin derrame")
    facts, lost = read(BimcvSource(tree(CT, rows=ROW + ROW + other)))
    assert lost == {"row 3: ses-E1": "duplicate-row", "row 4: ses-E1": "duplicate-row"}
    assert facts[ITEM].text == "derrame pleural ."
    assert [rule for rule, _ in facts[ITEM].doubts] == ["ambiguous-report"]


def test_a_report_of_another_patient_is_doubted(tree: Tree) -> None:
    facts, _ = read(BimcvSource(tree(CT, rows=ROW.replace("sub-S1", "sub-S9"))))
    assert facts[ITEM].patient_id == "sub-S1"
    assert [rule for rule, _ in facts[ITEM].doubts] == ["ids-disagree"]


@pytest.mark.parametrize("bad", ["../ses-E1", "..", "a/b", "a\\b", "%2e%2e%2fses", "/etc/passwd"])
def test_an_id_that_climbs_is_refused(tree: Tree, bad: str) -> None:
    source = BimcvSource(tree(CT, rows=ROW + f"sub-S2\t{bad}\tx\t[]\t[]\n"))
    (lost,) = (r for r in source.items() if isinstance(r, Rejection))
    assert (lost.item, lost.rule) == (f"row 3: {bad}", "unsafe-id")


def test_a_formula_in_the_report_is_a_doubt_and_plain_text(tree: Tree) -> None:
    row = 'sub-S1\tses-E1\t"=HYPERLINK(""http://x"",""nodulo"")"\t[]\t[]\n'
    found = read(BimcvSource(tree(CT, rows=row)))[0][ITEM]
    assert found.text == 'HYPERLINK("http://x","nodulo")'
    assert [rule for rule, _ in found.doubts] == ["formula-cell"]


def test_several_collections_are_read_as_one(tree: Tree, tmp_path: Path) -> None:
    tree(CT, rows=ROW)
    (tmp_path / "posi").rename(tmp_path / "first")
    tree("sub-S2_ses-E2_bp-chest_ct.nii.gz", rows=ROW.replace("1", "2"), table="labels_nega.tsv")
    facts, lost = read(BimcvSource(tmp_path))
    assert [f.text for f in facts.values()] == ["derrame pleural ."] * 2
    assert lost == {}


def test_rows_of_several_tables_say_which_one_they_are_of(tree: Tree) -> None:
    tree(CT, rows=ROW)
    source = BimcvSource(tree(rows=ROW + "sub-S3\tses-E3\tb\t[]\t[]\n", table="labels_nega.tsv"))
    lost = [r for r in source.items() if isinstance(r, Rejection)] + list(source.leftovers())
    assert [(r.item, r.rule) for r in lost] == [
        ("row 2 of labels_nega.tsv: ses-E1", "duplicate-row"),
        ("row 3 of labels_nega.tsv: ses-E3", "volume-missing"),
    ]


def test_a_collection_behind_a_link_is_read_and_a_loop_ends(tree: Tree, tmp_path: Path) -> None:
    tree(CT, "sub-S1_ses-E1_bp-chest_cr.png", rows=ROW)
    root = tmp_path / "linked"
    root.mkdir()
    (root / "posi").symlink_to(tmp_path / "posi")
    (tmp_path / "posi" / "again").symlink_to(root)
    facts, lost = read(BimcvSource(root))
    assert [f.text for f in facts.values()] == ["derrame pleural ."]
    assert list(lost.values()) == ["other-modality"]


def test_items_can_be_read_again(tree: Tree) -> None:
    source = BimcvSource(tree(CT, rows=ROW + ROW))
    assert read(source) == read(source)


def test_a_tree_without_tables_or_without_their_columns_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        BimcvSource(tmp_path / "none")
    with pytest.raises(InputError, match=r"no table of reports: expected derivatives/labels"):
        BimcvSource(tmp_path)
    labels = tmp_path / "derivatives" / "labels"
    labels.mkdir(parents=True)
    (labels / "labels_x.tsv").write_text("PatientID\tsomething\n1\t2\n")
    with pytest.raises(InputError, match=r"expected ReportID, Report; found: PatientID, something"):
        BimcvSource(tmp_path)


@pytest.mark.parametrize(
    ("birth", "study", "age"),
    [
        ("19600615", "20200614", "59"),
        ("19600615", "20200615", "60"),
        ("1960", "20200101", "60"),
        ("1960-06-15", "2020-06-15", "60"),
        ("", "20200101", ""),
        ("2021", "20200101", ""),
    ],
)
def test_an_age_is_whole_years_at_the_study(birth: str, study: str, age: str) -> None:
    assert age_at(birth, study) == age


def test_a_name_is_read_in_its_parts() -> None:
    name = Name.parse(
        "x/sub-S321116/ses-E76384/mod-rx/sub-S321116_ses-E76384_acq-1_run-4_bp-chest_ct.nii.gz"
    )
    assert (name.patient, name.session, name.run) == ("sub-S321116", "ses-E76384", "acq-1_run-4")
    assert (name.body_part, name.modality) == ("chest", "ct")
