"""``medfinder train``: from drawn phantoms to a checkpoint that finds them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Run
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.phantom.phantom import write_phantoms

pytest.importorskip("lightning_fabric")
RECIPE = """
[train]
steps = 2
batch_size = 4
validate_every = 1
accelerator = "cpu"
logger = "none"

[model]
dim = 16
layout_width = 4
volume = { name = "patch", width = 32, depth = 1 }
text = { name = "sentences", width = 32, depth = 1 }

[model.preprocess]
spacing_mm = [11.0, 11.0, 11.0]
size = [32, 32, 32]
output_range = [0.0, 255.0]
dtype = "uint8"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the studies made of six phantoms, four of them to train, and a recipe."""
    made = tmp_path_factory.mktemp("cli")
    table = write_phantoms(made / "raw", 6, 2, size=(32, 40, 40), p_second_study=0.0, workers=1)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow({**row, "split": "train" if i < 4 else "val"})
    curate(FolderSource(made / "raw", table), made / "studies", CurateConfig(workers=1))
    (made / "recipe.toml").write_text(RECIPE)
    return made


@pytest.fixture
def medfinder(folder: Path, command_line: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs ``medfinder ARGUMENTS`` in the folder."""
    monkeypatch.chdir(folder)
    return command_line


def train(folder: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("train", "studies", out, "--config", "recipe.toml", "--workers", 1, *more)


def test_a_checkpoint_is_trained_and_finds_the_studies(
    folder: Path, medfinder: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, said, err = medfinder(*train(folder, out, "--json"))
    assert code == 0, err
    made = json.loads(said)
    assert (made["train"], made["val"], made["rejections"], made["bad"]) == (4, 2, 0, 0)
    assert 1 <= made["step"] <= 2
    assert made["measures"]["mean_success_at_10"] == 1  # of two
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
    checkpoint = made["checkpoint"]
    assert f"--encoder {checkpoint} --text-encoder {checkpoint}" in err
    arguments = ("--encoder", checkpoint, "--text-encoder", checkpoint)
    code, _, err = medfinder("index", "studies", tmp_path / "idx", *arguments)
    assert code == 0, err
    code, said, err = medfinder("search", tmp_path / "idx", "left pleural effusion", "--json")
    assert code == 0, err
    assert len(json.loads(said)) == 6


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--set", "train.stpes=3"), "Did you mean 'train.steps'"),
        (("--set", "train.steps=0"), "Setting train.steps is 0; expected at least 1"),
        (("--set", "train.batch_size=5"), "batch_size is 5, but there are 4 studies"),
        (("--set", "train.batch_size=1"), "compares each pair with the others of its batch"),
        (("--set", "model.volume.name=pach"), "Did you mean 'patch'"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_a_bad_recipe_exits_with_2_and_says_what_to_do(
    folder: Path, medfinder: Any, tmp_path: Path, more: tuple[str, ...], text: str
) -> None:
    code, out, err = medfinder(*train(folder, tmp_path / "run", *more))
    assert (code, out) == (2, "")
    assert text in err
    assert "Traceback" not in err


def test_a_finished_run_is_not_written_over(folder: Path, medfinder: Any, tmp_path: Path) -> None:
    once = train(folder, tmp_path / "run", "--set", "train.steps=1")
    assert medfinder(*once)[0] == 0
    code, _, err = medfinder(*once)
    assert code == 2
    assert "has finished. Give another folder, or delete this one." in err


@pytest.mark.slow
def test_two_processes_are_started_by_the_verb_itself(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    two = train(folder, out, "--set", "train.devices=2", "--json")
    script = tmp_path / "verb.py"  # started again for the second process, as the verb is
    script.write_text("from medfinder.cli import main\nmain()\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC")}
    done = subprocess.run(
        [sys.executable, script, *map(str, two)],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
    assert json.loads((out / "manifest.json").read_text())["counts"]["steps"] == 2
    assert done.stdout.count('"checkpoint"') == 1, "one process speaks"
