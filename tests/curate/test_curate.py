import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.artifact import read_manifest
from medfinder.curate import curate as module
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.ledger import Ledger
from medfinder.curate.sources.folder import FolderSource
from medfinder.errors import ArtifactError, InputError
from medfinder.records import Rejection, Study
from medfinder.studies import read_rejections, read_studies
from medfinder.volume.checks import CheckConfig

Archive = Callable[..., Path]
ONE = CurateConfig(workers=1)


def run(root: Path, out: Path, table: str | None = None, config: CurateConfig = ONE) -> list[Study]:
    path = None
    if table is not None:
        path = out.parent / "table.csv"
        path.write_text(table)
    curate(FolderSource(root, path), out, config)
    return read_studies(out / "studies.parquet")


def n_inspected(out: Path) -> int:
    """How many volumes the ledger says were read; -1 where there is none yet."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{ledger_of(out)}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM inspected").fetchone()[0])
    except sqlite3.Error:
        return -1


def ledger_of(out: Path) -> Path:
    return out / "private" / "ledger.db"


def rejected(out: Path) -> dict[str, str]:
    return {r.item: r.rule for r in read_rejections(out / "rejections.parquet")}


def test_a_folder_of_cts_without_reports_becomes_studies(archive: Archive, tmp_path: Path) -> None:
    studies = run(archive(b=1, a=2), tmp_path / "out")
    assert [s.study_id for s in studies] == ["a", "b"]
    assert studies[0].shape == (24, 40, 40)
    assert studies[0].spacing_mm == (5.0, 4.0, 4.0)
    assert studies[0].report is None
    assert studies[0].patient_id == "a"
    assert read_manifest(tmp_path / "out", "curate").counts["studies"] == 2


def test_a_row_of_the_table_gives_its_volume_report_findings_and_facts(
    archive: Archive, tmp_path: Path
) -> None:
    table = (
        "file,patient_id,study_id,sex,age,text\n"
        'a.nii.gz,p 1,s1,F,053Y,"Left pleural effusion. No pneumothorax."\n'
        "b,p2,s2,male,,\n"
    )
    first, second = run(archive(a=1, b=2), tmp_path / "out", table)
    assert (first.study_id, first.patient_id, first.sex, first.age) == ("s1", "p_1", "F", 53)
    assert first.report is not None
    assert {(f.name, f.status) for f in first.findings} >= {
        ("pleural effusion", "present"),
        ("pneumothorax", "absent"),
    }
    assert (second.study_id, second.sex, second.report) == ("s2", "M", None)


def test_a_text_file_beside_a_volume_is_its_report(archive: Archive, tmp_path: Path) -> None:
    root = archive(a=1)
    (root / "a.txt").write_text("Nodule in the right upper lobe.")
    (study,) = run(root, tmp_path / "out")
    assert study.report is not None
    assert study.report.text.startswith("Nodule")


def test_good_and_bad_mixed_gives_studies_and_reasons(archive: Archive, tmp_path: Path) -> None:
    root = archive(good=1)
    (root / "empty.nii.gz").write_bytes(b"")
    (root / "torn.nii.gz").write_bytes((root / "good.nii.gz").read_bytes()[:2000])
    (root / "readme.md").write_text("hello")
    studies = run(root, tmp_path / "out")
    assert [s.study_id for s in studies] == ["good"]
    assert set(rejected(tmp_path / "out")) == {"empty.nii.gz", "torn.nii.gz"}


def test_equal_volumes_are_kept_once(archive: Archive, tmp_path: Path) -> None:
    studies = run(archive(a=1, b=1), tmp_path / "out")
    assert [s.study_id for s in studies] == ["a"]
    assert rejected(tmp_path / "out") == {"b.nii.gz": "duplicate-volume"}


def test_of_a_study_s_series_one_represents_it(archive: Archive, tmp_path: Path) -> None:
    table = "file,study_id\na.nii.gz,s\nb.nii.gz,s\n"
    (study,) = run(archive(a=1, b=2), tmp_path / "out", table)
    assert study.study_id == "s"
    assert rejected(tmp_path / "out") == {"b.nii.gz": "other-series"}


def test_a_row_without_a_volume_and_rows_that_differ_are_named(
    archive: Archive, tmp_path: Path
) -> None:
    table = "file,text\na.nii.gz,one\na.nii.gz,two\nlost.nii.gz,three\nb.nii.gz,four\n"
    studies = run(archive(a=1, b=2), tmp_path / "out", table)
    assert [s.study_id for s in studies] == ["b"]
    assert rejected(tmp_path / "out") == {
        "a.nii.gz": "ambiguous-report",
        "row 4: lost.nii.gz": "volume-missing",
    }


def test_nothing_usable_is_an_error_that_leaves_the_reasons(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    (root / "a.nii.gz").write_bytes(b"not a volume")
    with pytest.raises(InputError, match="Nothing usable: 0 studies, 1 rejected"):
        run(root, tmp_path / "out")
    assert list(rejected(tmp_path / "out")) == ["a.nii.gz"]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_folder_that_is_not_there_and_a_table_that_names_no_volume_are_told(
    archive: Archive, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        FolderSource(tmp_path / "none")
    table = tmp_path / "t.csv"
    table.write_text("text,colour\na,b\n")
    with pytest.raises(InputError, match=r"no column that names a volume.*found: text, colour"):
        FolderSource(archive(a=1), table)


def test_a_second_run_reads_only_what_is_new(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(archive(a=1, b=2), out)
    seen: list[str] = []
    real = module.inspect_all

    def spy(todo, check, engine):  # type: ignore[no-untyped-def]
        for ref, found in real(todo, check, engine):
            seen.append(ref.item)
            yield ref, found

    monkeypatch.setattr(module, "inspect_all", spy)
    studies = run(archive(c=3), out)
    assert seen == ["c.nii.gz"]
    assert [s.study_id for s in studies] == ["a", "b", "c"]


def test_the_result_does_not_depend_on_the_number_of_workers(
    archive: Archive, tmp_path: Path
) -> None:
    root = archive(a=1, b=2, c=3)
    assert run(root, tmp_path / "one") == run(root, tmp_path / "two", None, CurateConfig(workers=2))


@pytest.mark.slow
def test_a_run_killed_at_any_moment_and_started_again_ends_the_same(
    archive: Archive, tmp_path: Path
) -> None:
    root = archive(**{f"v{i:02d}": i for i in range(12)})
    whole = run(root, tmp_path / "whole")
    out = tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path\n"
        "from medfinder.curate.curate import CurateConfig, curate\n"
        "from medfinder.curate.sources.folder import FolderSource\n"
        "if __name__ == '__main__':\n"
        "    curate(FolderSource(Path(sys.argv[1])), Path(sys.argv[2]), CurateConfig(workers=1))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    for n_read in (0, 2, 5, 8, 12):  # 12: while the tables are written
        child = subprocess.Popen(
            [sys.executable, script, root, out],
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        while child.poll() is None:
            if n_inspected(out) >= n_read:
                os.killpg(child.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        child.wait()
    assert run(root, out) == whole


def test_rejections_are_read_back_as_written(tmp_path: Path) -> None:
    from medfinder.studies import write_rejections

    rows = [Rejection("b", "r", "why"), Rejection("a", "r", "why")]
    write_rejections(tmp_path / "r.parquet", rows)
    assert read_rejections(tmp_path / "r.parquet") == sorted(rows, key=lambda r: r.item)
    assert read_rejections(tmp_path / "none.parquet") == []


@pytest.mark.slow
def test_the_real_cts_are_curated_with_the_right_rejections(
    shared_data: Path, tmp_path: Path
) -> None:
    curate(
        FolderSource(shared_data / "ct_nifti", shared_data / "ct_nifti/studies.csv"), tmp_path / "n"
    )
    assert len(read_studies(tmp_path / "n" / "studies.parquet")) == 13
    assert rejected(tmp_path / "n") == {}
    curate(FolderSource(shared_data / "ct_nifti_crops"), tmp_path / "c")
    assert len(read_studies(tmp_path / "c" / "studies.parquet")) == 51
    assert rejected(tmp_path / "c") == {}
    curate(FolderSource(shared_data / "dicom"), tmp_path / "d")
    assert len(read_studies(tmp_path / "d" / "studies.parquet")) == 4
    assert rejected(tmp_path / "d") == {
        "irregular_spacing_head": "irregular-spacing",
        "rtstruct_only/1-1.dcm": "no-pixels",
    }


@pytest.mark.parametrize("text", ["-", "***", "<br>", "&nbsp;"])
def test_a_placeholder_is_no_report_and_stops_nothing(
    archive: Archive, tmp_path: Path, text: str
) -> None:
    studies = run(archive(a=1, b=2), tmp_path / "out", f"file,text\na.nii.gz,{text}\nb.nii.gz,x\n")
    assert [s.report is None for s in studies] == [True, False]


def test_raw_numbers_of_patients_stand_only_in_the_owner_s_part(tmp_path: Path) -> None:
    from medfinder.volume.dicom_writer import write_dicom_series
    from stubs.cases import block

    write_dicom_series(block(1), tmp_path / "raw" / "s", patient_id="MRN-4711", study_id="1.2.3.4")
    (study,) = run(tmp_path / "raw", tmp_path / "out")
    assert study.patient_id.startswith("P-")
    assert study.study_id.startswith("S-")
    private = tmp_path / "out" / "private"
    assert private.stat().st_mode & 0o077 == 0
    assert ledger_of(tmp_path / "out").stat().st_mode & 0o077 == 0
    for file in (tmp_path / "out").rglob("*"):
        assert private in file.parents or file.is_dir() or b"MRN-4711" not in file.read_bytes()


def test_names_that_make_one_id_lose_no_study(archive: Archive, tmp_path: Path) -> None:
    root = archive(**{"a b": 1, "a_b": 2, "肺": 3, "胸": 4})
    assert len(run(root, tmp_path / "out")) == 4
    assert rejected(tmp_path / "out") == {}


def test_a_row_is_not_given_to_another_folder_s_file_of_the_same_name(
    archive: Archive, tmp_path: Path
) -> None:
    root = archive(x=1, y=2, z=3)
    for name in "xyz":
        (root / f"p{name}").mkdir()
        (root / f"{name}.nii.gz").rename(root / f"p{name}" / "ct.nii.gz")
    table = "file,study_id,text\npx/ct.nii.gz,X,nodule\n/old/root/py/ct.nii.gz,Y,emphysema\n"
    reports = {s.study_id: s.report and s.report.text for s in run(root, tmp_path / "out", table)}
    assert reports == {"X": "nodule", "Y": "emphysema", "pz_ct": None}
    assert rejected(tmp_path / "out") == {}


def test_a_path_of_another_archive_still_names_the_only_file_of_its_name(
    archive: Archive, tmp_path: Path
) -> None:
    root = archive(x=1)
    (only,) = run(root, tmp_path / "out", "file,text\nelsewhere\\train\\x.nii.gz,nodule\n")
    assert only.report is not None


def test_a_name_that_cannot_be_stored_is_a_rejection(archive: Archive, tmp_path: Path) -> None:
    root = archive(x=1, y=2)
    try:
        os.rename(root / "y.nii.gz", os.fsencode(root) + b"/y\xe9.nii.gz")
    except OSError:
        pytest.skip("this file system stores UTF-8 only")
    assert len(run(root, tmp_path / "out")) == 1
    assert list(rejected(tmp_path / "out").values()) == ["bad-name"]


def test_what_may_have_been_the_machine_s_fault_is_tried_again(
    archive: Archive, tmp_path: Path
) -> None:
    root = archive(x=1, y=2)
    run(root, tmp_path / "out")
    away = json.dumps({"rule": "unreadable", "reason": "The disk was away."})
    with contextlib.closing(sqlite3.connect(ledger_of(tmp_path / "out"))) as db, db:
        db.execute("UPDATE inspected SET seen = ?", (away,))
        db.execute("UPDATE inspected_sum SET crc = ?", (zlib.crc32(away.encode()),))
    assert len(run(root, tmp_path / "out")) == 2


def test_what_was_found_under_other_limits_is_not_taken(archive: Archive, tmp_path: Path) -> None:
    root = archive(x=1)
    strict = CurateConfig(check=CheckConfig(min_slices=100), workers=1)
    with pytest.raises(InputError):
        run(root, tmp_path / "out", config=strict)
    assert len(run(root, tmp_path / "out")) == 1


def test_two_runs_at_once_in_one_folder_are_refused(archive: Archive, tmp_path: Path) -> None:
    root = archive(x=1)
    (tmp_path / "out").mkdir()
    with Ledger(tmp_path / "out", "key"), pytest.raises(InputError, match="Another run is writing"):
        run(root, tmp_path / "out")


def test_a_ledger_that_is_none_says_what_to_delete(archive: Archive, tmp_path: Path) -> None:
    ledger_of(tmp_path / "out").parent.mkdir(parents=True)
    ledger_of(tmp_path / "out").write_bytes(b"no database" * 100)
    with pytest.raises(ArtifactError, match=r"delete private/ledger\.db"):
        run(archive(x=1), tmp_path / "out")


def test_a_script_that_cannot_start_workers_is_told_and_nothing_is_called_damaged(
    archive: Archive, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from medfinder.curate.curate import curate\n"
        "from medfinder.curate.sources.folder import FolderSource\n"
        f"curate(FolderSource(Path({str(archive(x=1))!r})), Path({str(tmp_path / 'out')!r}))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert "if __name__ == '__main__'" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "rejections.parquet").exists()


def test_an_out_that_is_a_file_and_an_empty_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file; studies need a folder"):
        run(tmp_path / "raw", tmp_path / "file")
    with pytest.raises(InputError, match="no NIfTI file and no DICOM series was found"):
        run(tmp_path / "raw", tmp_path / "out")


def test_a_table_without_a_header_does_not_spill_its_cells(
    archive: Archive, tmp_path: Path
) -> None:
    cells = "one,two,A long report of many words that is nobody's business\nx,y,z\n"
    with pytest.raises(InputError, match="no column that names a volume") as error:
        run(archive(x=1), tmp_path / "out", cells)
    assert "business" not in str(error.value)
