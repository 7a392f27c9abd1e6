"""What the command line asks for becomes an engine, or an error that says what to do."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from medfinder.cli.app import app
from medfinder.errors import ConfigError, InputError, MissingExtra
from medfinder.scale.choose import open_engine
from medfinder.scale.processes import Processes
from medfinder.search.finder import open_index


def test_without_a_word_the_stage_s_own_process_does_the_work() -> None:
    with open_engine() as engine:
        assert engine is None
    with open_engine(workers=1) as engine:
        assert engine is None


@pytest.mark.parametrize("workers", [0, 3])
def test_a_number_of_workers_is_a_number_of_processes(workers: int) -> None:
    with open_engine(workers) as engine:
        assert isinstance(engine, Processes)
        assert engine.workers == (workers or Processes().workers)


def test_a_number_below_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--workers is -1; expected 0"), open_engine(-1):
        pass


def test_ray_that_is_not_installed_is_told_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python marks what cannot be imported
    with (
        pytest.raises(MissingExtra, match=r'pip install "medfinder\[ray\]"'),
        open_engine(ray="auto"),
    ):
        pass


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("said", ["the option", "RAY_ADDRESS"])
def test_a_cluster_that_is_not_there_is_told_at_once(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1" if said == "RAY_ADDRESS" else "")
    address = "auto" if said == "RAY_ADDRESS" else "127.0.0.1:1"
    with (
        pytest.raises(InputError, match="No Ray cluster can be reached") as error,
        open_engine(ray=address),
    ):
        pass
    assert error.value.rule == "no-cluster"
    assert "ray start --head" in str(error.value)


@pytest.mark.slow
def test_the_command_makes_the_same_index_with_processes(studies: Path, tmp_path: Path) -> None:
    def index(out: Path, *options: Any) -> dict[str, np.ndarray[Any, Any]]:
        command = ["index", str(studies), str(out), "--encoder", "medfinder"]
        done = CliRunner().invoke(app, [*command, "--text-encoder", "none", *options])
        assert done.exit_code == 0, done.output
        found = open_index(out).index
        vectors = found.vectors("volume", sorted(found.ids()))
        return dict(zip(sorted(found.ids()), vectors, strict=True))  # type: ignore[arg-type]

    here, two = index(tmp_path / "here"), index(tmp_path / "two", "--workers", "2")
    assert here.keys() == two.keys()
    # Another number of threads sums in another order.
    for study_id, vector in here.items():
        np.testing.assert_allclose(two[study_id], vector, atol=1e-5)
