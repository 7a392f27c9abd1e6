"""torchrun over ``medfinder train``: two nodes on this machine, and workers that are killed."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.model.checkpoint import load_checkpoint
from medfinder.phantom.phantom import write_phantoms

pytest.importorskip("lightning_fabric")
pytestmark = pytest.mark.slow
MEDFINDER = Path(sys.executable).parent / "medfinder"
RECIPE = """
[train]
steps = 30
batch_size = 4
validate_every = 15
checkpoint_every = 3
accelerator = "cpu"
logger = "none"
lr = 1e-3

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
    """Holds curated phantoms and a recipe."""
    made = tmp_path_factory.mktemp("torchrun")
    table = write_phantoms(made / "raw", 12, 2, size=(32, 40, 40), p_second_study=0.0, workers=1)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow({**row, "split": "train" if i < 8 else "val"})
    curate(FolderSource(made / "raw", table), made / "studies", CurateConfig(workers=1))
    (made / "recipe.toml").write_text(RECIPE)
    return made


def torchrun(folder: Path, out: Path, *options: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC")}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "--no-python", MEDFINDER, "train",
         folder / "studies", out, "--config", folder / "recipe.toml", "--resume", "--workers", "1"],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen, timeout: float = 300) -> str:
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for pid in (*workers_of(process), process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        said, _ = process.communicate()
        pytest.fail(f"torchrun did not end: {said[-2000:]}")
    assert process.returncode == 0, said[-3000:]
    return said


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def weights(out: Path) -> dict:
    model = load_checkpoint(out / "checkpoint")
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def curve(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run of two processes that nobody disturbed."""
    out = folder / "whole"
    ended(torchrun(folder, out, "--standalone", "--nproc-per-node", "2"))
    return out


def workers_of(process: subprocess.Popen) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if (
                    int(stat[1]) == process.pid
                    and b"bin/medfinder" in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
    return sorted(found)


def wait_for_step(out: Path, step: int, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if curve(out)[-1][0] >= step:
                return
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached")


def assert_same(one: Path, other: Path) -> None:
    assert [step for step, _ in curve(one)] == [step for step, _ in curve(other)]
    for (_, a), (_, b) in zip(curve(one), curve(other), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    first, second = weights(one), weights(other)
    for name, tensor in first.items():
        assert tensor.float().numpy() == pytest.approx(second[name].float().numpy(), abs=1e-4), name


def test_a_killed_worker_costs_time_and_nothing_else(folder: Path, whole: Path) -> None:
    out = folder / "killed"
    process = torchrun(
        folder, out, "--standalone", "--nproc-per-node", "2", "--max-restarts", "3"
    )  # fmt: skip
    wait_for_step(out, 8)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    said = ended(process)
    assert "Signal 9" in said or "exitcode: -9" in said or "SIGKILL" in said
    assert_same(whole, out)


def test_two_nodes_that_meet_on_the_network_train_as_one(folder: Path, whole: Path) -> None:
    out = folder / "nodes"
    port = free_port()
    nodes = [
        torchrun(
            folder,
            out,
            "--nnodes",
            "2",
            "--nproc-per-node",
            "1",
            "--node-rank",
            str(rank),
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            str(port),
        )
        for rank in (0, 1)
    ]
    said = [ended(node) for node in nodes]
    assert sum("Checkpoint:" in text for text in said) == 1, "one process speaks"
    assert_same(whole, out)


def test_a_run_goes_on_with_another_number_of_processes(folder: Path, whole: Path) -> None:
    out = folder / "fewer"
    process = torchrun(folder, out, "--standalone", "--nproc-per-node", "1")
    wait_for_step(out, 8)
    workers = workers_of(process)  # each has a session of its own
    for pid in (process.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    before = curve(out)
    ended(torchrun(folder, out, "--standalone", "--nproc-per-node", "2"))
    # Batches are the same; what dropout drops and objectives draw depends on the processes.
    assert [step for step, _ in curve(out)] == list(range(1, 31))
    assert curve(out)[:6] == before[:6], "what was trained before is gone on with, not begun anew"
    assert weights(out).keys() == weights(whole).keys()
