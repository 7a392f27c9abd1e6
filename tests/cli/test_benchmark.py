"""``medfinder benchmark`` and what ``medfinder list`` says of it, as a user types them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmark.five import FIVE, five_entrant
from cli.test_cli import Run
from cli.test_cli import run as run  # the fixture
from medfinder.benchmark.protocols import protocols
from medfinder.benchmark.robustness import perturbations
from search.conftest import make_studies as make_studies  # the fixture


@pytest.fixture
def files(tmp_path: Path) -> Path:
    lines = [f'{name},{patient},"{text}"' for name, (patient, text, _, _) in FIVE.items()]
    (tmp_path / "studies.csv").write_text("study_id,patient_id,report\n" + "\n".join(lines))
    own = five_entrant()
    np.savez(
        tmp_path / "circle.npz",
        study_id=list(FIVE),
        volume=own.sides["volume"].vectors,
        text=own.sides["text"].vectors,
    )
    return tmp_path


def test_two_arrays_and_a_table_are_enough(run: Run, files: Path) -> None:
    code, out, err = run(
        "benchmark", files / "circle.npz", files / "studies.csv", files / "out",
        "--protocol", "one-to-one", "--draws", "100", "--json",
    )  # fmt: skip
    assert code == 0
    figures = json.loads(out)["protocols"]["one-to-one"]["ways"]["report_to_volume"]["figures"]
    assert figures["R@1"]["value"] == pytest.approx(0.6)
    assert figures["R@1"]["ceiling"] == pytest.approx(0.8)
    assert "circle: 1 protocols over 5 studies of 4 patients" in " ".join(err.split())
    assert (files / "out" / "report.html").is_file()


def test_models_are_compared_and_what_was_not_asked_is_said(run: Run, files: Path) -> None:
    common = ("--draws", "100", "--no-report", "--depth", "0")
    studies = files / "studies.csv"
    assert run("benchmark", "chance", studies, files / "chance", *common)[0] == 0
    code, _, err = run(
        "benchmark", files / "circle.npz", studies, files / "out", "--name", "mine",
        "--compare", files / "chance", *common,
    )  # fmt: skip
    assert code == 0
    assert "Not asked: pools (pool-size)" in err
    assert not (files / "out" / "report.html").exists()
    results = json.loads((files / "out" / "results.json").read_text())
    assert results["model"] == "mine"
    assert {row["other"] for row in results["comparisons"]} == {"chance"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["circle.npz", "studies.csv", "out", "--protocol", "one-to-on"], "Did you mean 'one-to-one'"),
        (["circle.npz", "none.csv", "out"], "There is no table of studies"),
        (["none.npz", "studies.csv", "out"], "There is no file of vectors"),
        (["circle.npz", "studies.csv", "out", "--protocol", "keyword"], "needs vectors of keyword"),
        (["circle.npz", "studies.csv", "out", "--split", "test"], "No study is of the split 'test'"),
        (["shortcut", "studies.csv", "out"], "--train"),
        (["medfinder", "studies.csv", "out", "--perturb", "noise-30h"], "Did you mean 'noise-30hu'"),
        (["circle.npz", "studies.csv", "out", "--perturb", "noise-30hu"], "is no encoder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_the_exit_is_2(
    run: Run, files: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(files)
    done = run("benchmark", *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_centred_vectors_are_measured_under_another_model_id(run: Run, files: Path) -> None:
    common = ("--draws", "100", "--no-report", "--depth", "0", "--protocol", "one-to-one")
    code, _, _ = run(
        "benchmark", files / "circle.npz", files / "studies.csv", files / "out", "--centre", *common
    )
    assert code == 0
    results = json.loads((files / "out" / "results.json").read_text())
    assert results["model_id"] == "circle centred"
    code, _, err = run(
        "benchmark", "bm25", files / "studies.csv", files / "bm25", "--centre", *common
    )
    assert code == 2
    assert "are not compared by cosine" in " ".join(err.split())


def test_protocols_are_listed_with_versions(run: Run) -> None:
    code, out, _ = run("list", "protocols")
    assert code == 0
    for name in protocols.names():
        assert f"{name} " in out
    code, out, _ = run("list", "protocols", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert set(rows) == set(protocols.names())
    assert rows["ct-clip-published"]["version"] == 1
    assert "not emptied" in rows["ct-clip-published"]["relevance"]


def test_perturbations_are_listed_with_what_they_do(run: Run) -> None:
    code, out, _ = run("list", "perturbations")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(run("list", "perturbations", "--json").out)}
    assert set(rows) == set(perturbations.names())
    for name, row in rows.items():
        assert f"{name} " in out
        assert row["says"] in out
        assert row["acts_on"] in ("volume", "text")


def test_an_encoder_is_measured_on_changed_volumes_and_texts(
    run: Run, make_studies: Callable[[Path, Sequence[str]], Path], tmp_path: Path
) -> None:
    folder = make_studies(tmp_path, ["s1", "s2", "s3"])
    code, out, _ = run(
        "benchmark", "medfinder", folder, tmp_path / "out", "--split", "all", "--depth", "0",
        "--perturb", "noise-30hu", "--perturb", "names-only",
        "--protocol", "one-to-one", "--draws", "100", "--no-report", "--json",
    )  # fmt: skip
    assert code == 0
    results = json.loads(out)
    assert results["model"] == "medfinder (noise-30hu, names-only)"
    assert results["model_id"].endswith("+noise-30hu+names-only")
