"""Worker processes: who falls, what it takes along, and what is left at the end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from medfinder.errors import ConfigError, InputError
from medfinder.scale.engine import Failure, Step
from medfinder.scale.processes import Processes, n_cores
from medfinder.scale.schedule import AHEAD
from stubs import scaled
from stubs.scaled import step


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a process behind."""
    yield
    assert multiprocessing.active_children() == []


def test_a_worker_that_dies_once_changes_nothing(tmp_path: Path) -> None:
    found = Processes(2).map(range(12), [step(scaled.die_until, tmp_path, 1, 5)])
    assert list(found) == [(i, 2 * i) for i in range(12)]


def test_an_item_that_kills_its_worker_every_time_is_a_failure_and_all_others_are_there() -> None:
    found = dict(Processes(2).map(range(12), [step(scaled.die_at, 5)]))
    failed = found.pop(5)
    assert (failed.rule, failed.attempts, failed.error) == ("worker-died", 3, None)
    assert "ended 3 times" in failed.reason
    assert found == {i: 2 * i for i in range(12) if i != 5}


def test_of_many_items_sent_at_once_the_one_that_kills_is_found() -> None:
    found = list(Processes(2).map(range(40), [step(scaled.die_at, 5)], chunk=16))
    assert [i for i, r in found if isinstance(r, Failure)] == [5]
    assert [i for i, _ in found] == list(range(40))


def test_an_item_that_hangs_is_ended_and_is_a_failure_and_all_others_are_there() -> None:
    engine = Processes(2, limit_s=1.5)
    found = dict(engine.map(range(12), [step(scaled.hang_at, 5)], chunk=2))
    failed = found.pop(5)
    assert (failed.rule, failed.attempts) == ("too-slow", 2)
    assert "not done in 1.5 s, 2 times" in failed.reason
    assert found == {i: 2 * i for i in range(12) if i != 5}


def test_a_worker_killed_from_outside_loses_nothing() -> None:
    found = []
    stream = Processes(2).map(range(30), [step(scaled.slow_double, 0.02)])
    for n, (item, result) in enumerate(stream):
        found.append((item, result))
        if n == 6:
            victim = multiprocessing.active_children()[0]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
    assert found == [(i, 2 * i) for i in range(30)]


def test_the_last_attempt_is_made_while_nothing_else_runs(tmp_path: Path) -> None:
    found = Processes(3).map(range(30), [step(scaled.alone_or_die, tmp_path, 4)])
    assert list(found) == [(i, 2 * i) for i in range(30)]


def test_without_order_a_slow_item_holds_nobody_up() -> None:
    slow = step(partial(_slow_at, 0))
    first = [item for item, _ in Processes(2).map(range(8), [slow], ordered=False)]
    assert sorted(first) == list(range(8))
    assert set(first[:6]) == set(range(2, 8))  # 1 was dealt out behind 0


def _slow_at(slow: int, item: int) -> int:
    return scaled.slow_double(1.0 if item == slow else 0.0, item)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_source_is_read_a_bounded_number_ahead(ordered: bool) -> None:
    n_read = 0

    def source() -> Iterator[int]:
        nonlocal n_read
        for i in range(200):
            n_read += 1
            yield i

    most = 0
    stream = Processes(2).map(source(), [step(scaled.double)], ordered=ordered)
    for n_yielded, _ in enumerate(stream, 1):
        most = max(most, n_read - n_yielded)
    assert n_read == 200
    assert most <= 2 * AHEAD


def test_closing_early_ends_the_workers_at_once() -> None:
    stream = Processes(2).map(range(1000), [step(scaled.slow_double, 0.01)])
    next(stream)
    assert multiprocessing.active_children()
    begun = time.monotonic()
    stream.close()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - begun < 5


def test_steps_are_made_once_a_worker_and_there_are_no_more_workers_than_items(
    tmp_path: Path,
) -> None:
    list(Processes(8).map(range(2), [Step(partial(scaled.counted, tmp_path))]))
    assert 1 <= len(list(tmp_path.iterdir())) <= 2
    list(Processes(2).map(range(50), [Step(partial(scaled.counted, tmp_path))]))
    assert len(list(tmp_path.iterdir())) <= 4


def test_workers_are_told_their_threads_and_the_caller_s_environment_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = {r for _, r in Processes(2, threads=3).map(range(4), [step(scaled.process_of)])}
    assert {(n, said) for _, n, said in seen} == {(3, "3")}
    assert os.getpid() not in {pid for pid, _, _ in seen}
    assert "OMP_NUM_THREADS" not in os.environ
    assert Processes(1).threads == n_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Processes(1).threads == 5


def test_a_batch_that_holds_a_bad_item_loses_no_other() -> None:
    found = dict(Processes(2).map([1, 2, -1, 4], [step(scaled.double_all, batch=3)]))
    assert found.pop(-1).rule == "negative"
    assert found == {1: 2, 2: 4, 4: 8}


def test_workers_that_cannot_start_are_told() -> None:
    with pytest.raises(InputError, match="Worker processes cannot start") as error:
        list(Processes(2).map(range(4), [Step(scaled.dying)]))
    assert error.value.rule == "no-workers"


def test_a_step_that_cannot_be_sent_is_told() -> None:
    with pytest.raises(ConfigError, match=r"cannot be sent .* Give an encoder by its name"):
        Processes(2).map(range(4), [Step(lambda: scaled.double)])


def test_a_result_that_cannot_be_sent_back_ends_the_run() -> None:
    with pytest.raises(TypeError, match="cannot be sent back"):
        list(Processes(1).map([1], [step(scaled.unsendable)]))


@pytest.mark.parametrize("setting", ["workers", "threads"])
def test_a_number_below_none_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is -1; expected 0"):
        Processes(**{setting: -1})


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from medfinder.scale.processes import Processes
from stubs import scaled

if __name__ == "__main__":
    stream = Processes(2).map(range(1000), [scaled.step(scaled.process_of)])
    for _, (pid, _, _) in stream:
        print(pid, flush=True)
"""


def test_workers_end_when_who_started_them_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(path=[str(Path(__file__).parents[1])]))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pids = {int(child.stdout.readline()) for _ in range(4)}
        child.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
