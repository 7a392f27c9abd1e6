"""``medfinder curate`` on the layouts of public archives, from the command to the studies."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medfinder.cli.app import app
from medfinder.errors import InputError
from medfinder.studies import read_studies
from medfinder.volume.nifti import write_nifti
from stubs.cases import block

SPANISH = "se observa derrame pleural derecho de moderada cuantia con atelectasia pasiva . "
ENGLISH = "There is a moderate right pleural effusion with passive atelectasis of the lower lobe."


def put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(block(number), root / name)


def bimcv(root: Path) -> list[str]:
    put(root, "sub-S1/ses-E1/mod-rx/sub-S1_ses-E1_run-1_bp-chest_ct.nii.gz")
    table = root / "derivatives" / "labels" / "labels_covid19_posi.tsv"
    table.parent.mkdir(parents=True)
    table.write_text(f"PatientID\tReportID\tReport\tLabels\nsub-S1\tses-E1\t{SPANISH}\t['a']\n")
    return ["bimcv", str(root)]


def bimcv_r(root: Path) -> list[str]:
    name = "sub-S1_ses-E1_run-1_bp-chest_ct.nii.gz"
    put(root, f"CT8/ct/{name}")
    table = root / "meta" / "BIMCV-R.csv"
    table.parent.mkdir()
    row = f"sub-S1,ses-E1,{SPANISH},{ENGLISH},\"['a']\",{name}"
    table.write_text(f"PatientID,ReportID,Report,Report_en,Labels,path\n{row}\n")
    return ["bimcv-r", str(table), "--volumes", str(root), "--split", "published"]


def ct_rate(root: Path) -> list[str]:
    put(root, *(f"valid/valid_5/valid_5_a/valid_5_a_{n}.nii.gz" for n in (1, 2)))
    table = root / "radiology_text_reports" / "validation_reports.csv"
    table.parent.mkdir()
    rows = "".join(f"valid_5_a_{n}.nii.gz,{ENGLISH},\n" for n in (1, 2))
    table.write_text(f"VolumeName,Findings_EN,Impressions_EN\n{rows}")
    return ["ct-rate", str(root)]


def merlin(root: Path) -> list[str]:
    put(root, "merlin_data/AC1.nii.gz")
    table = root / "mine.csv"
    table.write_text(f"study id,Findings,Split\nAC1,{ENGLISH},test\n")
    return ["merlin", str(root), "--reports", str(table)]


@pytest.mark.parametrize(
    ("make", "study", "patient", "split"),
    [
        (bimcv, "ses-E1", "sub-S1", None),
        (bimcv_r, "ses-E1", "sub-S1", "val"),
        (ct_rate, "valid_5_a", "valid_5", "val"),
        (merlin, "AC1", "AC1", "test"),
    ],
)
def test_a_layout_becomes_studies(
    tmp_path: Path,
    make: Callable[[Path], list[str]],
    study: str,
    patient: str,
    split: str | None,
) -> None:
    arguments = make(tmp_path / "raw")
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["curate", arguments[0], arguments[1], str(out), *arguments[2:], "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["studies"] == 1
    (found,) = read_studies(out / "studies.parquet")
    assert (found.study_id, found.patient_id) == (study, patient)
    # Without a published split it is left open or made by the curation, as it is set.
    assert split is None or found.split == split
    assert found.report is not None
    assert "pleural" in found.report.text


@pytest.mark.parametrize(
    ("options", "got"), [((), "neither"), (("--table-only", "--volumes"), "both")]
)
def test_bimcv_r_asks_where_the_volumes_are(
    tmp_path: Path, options: tuple[str, ...], got: str
) -> None:
    given = [*options, str(tmp_path)] if options else []
    arguments = ["curate", "bimcv-r", "t.csv", str(tmp_path / "out"), *given]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, InputError)
    assert f"expected one of --volumes DIR and --table-only, got {got}" in str(done.exception)


def test_what_crosses_a_published_split_is_printed(tmp_path: Path) -> None:
    table = tmp_path / "BIMCV-R.csv"
    rows = [f"sub-S1,ses-E{k},{SPANISH},{ENGLISH},\"['a']\",CT{k}/ct/x{k}.nii.gz" for k in (1, 9)]
    table.write_text("PatientID,ReportID,Report,Report_en,Labels,path\n" + "\n".join(rows) + "\n")
    command = ["curate", "bimcv-r", str(table), str(tmp_path / "out"), "--table-only", "--no-card"]
    done = CliRunner().invoke(app, [*command, "--split", "published"])
    assert done.exit_code == 0
    assert "Across splits: patients 1, texts 1" in done.stderr
