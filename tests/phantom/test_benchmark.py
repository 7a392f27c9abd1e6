"""The benchmark's folders: what is in them, and that a second run draws nothing again."""

import csv
import json
from pathlib import Path

import pytest

from medfinder.errors import ConfigError, InputError, Mismatch, UnknownName
from medfinder.phantom.benchmark import write_benchmark
from medfinder.phantom.case import case_from_dict
from medfinder.phantom.splits import SPLITS, benchmark_studies, report_of
from medfinder.volume.nifti import read_nifti

SMALL = {"n": 4, "n_val": 2, "n_test": 24, "n_swaps": 20, "size": (16, 24, 24)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("bench")
    counts = write_benchmark(folder, **SMALL)
    assert counts == {"train": 4, "val": 2, "changed": 24} | {
        split: 24 for split in SPLITS if split not in ("train", "val")
    }
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "studies.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stamps(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")}


def test_every_folder_names_volumes_that_are_there(bench):
    for name in (*SPLITS, "changed"):
        for row in rows(bench / name):
            assert read_nifti(bench / name / row["file"]).shape == (16, 24, 24)
            split = name if name in ("train", "val") else "test"
            assert row["split"] == split


def test_unseen_wording_has_the_volumes_of_test_and_reports_of_its_own(bench):
    assert not (bench / "unseen-wording" / "volumes").exists()
    for told, tested in zip(rows(bench / "unseen-wording"), rows(bench / "test"), strict=True):
        assert (bench / "unseen-wording" / told["file"]).samefile(bench / "test" / tested["file"])
        assert told["patient_id"] == tested["patient_id"]
        assert told["study_id"] != tested["study_id"]


def test_tables_and_truth_tell_what_the_split_holds(bench):
    for split in SPLITS:
        studies = benchmark_studies(split, 4, voxel_mm=440 / 24)
        truth = lines(bench / split / "truth.jsonl")
        for study, row, told in zip(studies, rows(bench / split), truth, strict=False):
            assert row["study_id"] == told["study_id"] == study.study_id
            assert row["text"] == report_of(study)
            assert case_from_dict(told["case"]) == study.case  # type: ignore[arg-type]


def test_swaps_are_of_each_split_that_is_not_trained_on(bench):
    assert not (bench / "train" / "swaps.jsonl").exists()
    for split in set(SPLITS) - {"train", "val"}:
        swaps = lines(bench / split / "swaps.jsonl")
        assert 0 < len(swaps) <= 20
        texts = {row["study_id"]: row["text"] for row in rows(bench / split)}
        assert all(texts[str(s["study_id"])] == s["true_text"] for s in swaps)


def test_counterfactuals_are_of_test_and_tell_whether_the_report_does(bench):
    tested, changed = (
        {row["study_id"]: row for row in rows(bench / name)} for name in ("test", "changed")
    )
    pairs = lines(bench / "changed" / "counterfactuals.jsonl")
    assert [p["changed_id"] for p in pairs] == list(changed)
    for pair in pairs:
        before, after = tested[str(pair["study_id"])], changed[str(pair["changed_id"])]
        assert (before["text"], after["text"]) == (pair["text"], pair["changed_text"])
        assert pair["is_told"] == (before["text"] != after["text"])
        assert before["patient_id"] == after["patient_id"]


def test_a_second_run_draws_only_what_is_missing(bench):
    before = stamps(bench)
    lost = next(p for p in before if p.parent.parent.name == "shifted")
    content = lost.read_bytes()
    lost.unlink()
    (bench / "val" / "studies.csv").unlink()
    seen: list[tuple[int, int]] = []
    write_benchmark(bench, **(SMALL | {"n": 5}), progress=lambda *s: seen.append(s))
    assert [done for done, _ in seen] == [len(before) - 1, len(before), len(before) + 1]
    assert lost.read_bytes() == content
    after = stamps(bench)
    assert all(after[p] == stamp for p, stamp in before.items() if p != lost)
    assert (bench / "val" / "studies.csv").exists()


def test_mixed_languages_and_masks(tmp_path):
    write_benchmark(tmp_path, **(SMALL | {"n_test": 6}), language="mixed", masks=True, workers=2)
    assert {row["language"] for row in rows(tmp_path / "test")} == {"en", "es"}
    for told, tested in zip(rows(tmp_path / "shifted"), rows(tmp_path / "test"), strict=True):
        assert told["language"] == tested["language"]
    for line in lines(tmp_path / "unseen-wording" / "truth.jsonl"):
        assert (tmp_path / "unseen-wording" / str(line["mask"])).exists()


def test_another_benchmark_is_refused(bench, tmp_path):
    with pytest.raises(Mismatch, match=r"other settings \(n_test 24, cases [0-9a-f]+\)"):
        write_benchmark(bench, **(SMALL | {"n_test": 30}))
    with pytest.raises(Mismatch, match=r"other settings \(size \[16, 24, 24\]\)"):
        write_benchmark(bench, **(SMALL | {"size": (24, 24, 24)}))
    with pytest.raises(ConfigError, match=r"n_val and n_test >= 1.*got n=0, n_val=2"):
        write_benchmark(tmp_path, **(SMALL | {"n": 0}))
    with pytest.raises(ConfigError, match="at least 16 voxels"):
        write_benchmark(tmp_path, **(SMALL | {"size": (16, 24, 0)}))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file, or lies in one"):
        write_benchmark(tmp_path / "file", **SMALL)


def test_chosen_folders_alone_are_written_and_are_the_same(bench, tmp_path):
    assert write_benchmark(tmp_path, **SMALL, folders=("test",)) == {"test": 24}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark.json", "test"]
    for name in ("studies.csv", "swaps.jsonl", "volumes/ph1-test-00000.nii.gz"):
        assert (tmp_path / "test" / name).read_bytes() == (bench / "test" / name).read_bytes()


def test_a_folder_that_the_benchmark_lacks_is_named(tmp_path):
    with pytest.raises(UnknownName, match=r"Unknown folder 'tets'\. Did you mean 'test'\?"):
        write_benchmark(tmp_path, **SMALL, folders=("tets",))
