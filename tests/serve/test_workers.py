"""N processes behind one socket, as the command starts them: they answer, are replaced, and stop."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import httpx
import pytest

from medfinder.errors import ConfigError
from medfinder.serve.app import serve
from medfinder.serve.config import ServeConfig
from serve.test_stop import HELD, connected

COMMAND = [sys.executable, "-c", "from medfinder.cli.app import main; main()", "serve"]


def children(pid):
    """Return the workers of a process."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == pid:
                    with open(f"/proc/{name}/cmdline") as line:
                        if "spawn_main" in line.read():
                            found.append(int(name))
    return found


@contextlib.contextmanager
def running(index, *options):
    command = [*COMMAND, str(index), "--port", "0", "--workers", "2", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        url = re.search(r"MedFinder is at (http://127\.0\.0\.1:\d+/)", line)
        assert url, line + process.stderr.read()
        yield process, url[1]
    finally:
        process.kill()
        process.communicate()


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, within_s=60):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_both_answer_share_counts_and_one_that_falls_is_replaced(index_folder):
    with running(index_folder) as (process, url):
        until(lambda: len(children(process.pid)) == 2)
        first = children(process.pid)
        asked = Counter()

        def ask():
            for _ in range(20):  # a connection each: the kernel chooses the process
                with contextlib.suppress(httpx.TransportError):
                    asked[httpx.get(f"{url}health").status_code] += 1

        until(lambda: (ask(), n_counting(process.pid))[1] == 2)
        assert set(asked) == {200}
        told = httpx.get(f"{url}metrics").text
        total = re.search(r'requests_total\{.*route="/health".*\} (\S+)', told)[1]
        assert float(total) == asked[200]  # whichever process is asked
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(set(children(process.pid)) - {first[0]}) == 2)
        assert "is replaced" in process.stderr.readline()
        assert httpx.get(f"{url}health").status_code == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
        until(lambda: not any(map(is_alive, first)))


def n_counting(pid):
    """Return how many of the workers have answered something."""
    folders = [p for p in os.listdir("/tmp") if p.startswith(f"medfinder-counts-{pid}-")]
    if not folders:
        return 0
    files = os.listdir(f"/tmp/{folders[0]}")
    return len({f.rpartition("_")[2] for f in files if f.startswith("counter_")})


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_all_stop_whatever_clients_hold_open_and_leave_nothing(index_folder, sig):
    with running(index_folder, "--set", "stop_s=2") as (process, url):
        until(lambda: len(children(process.pid)) == 2)
        pids = children(process.pid)
        with contextlib.ExitStack() as stack:
            for sent in HELD.values():
                stack.enter_context(connected(url)).sendall(sent)
            time.sleep(0.3)
            process.send_signal(sig)
            started = time.monotonic()
            _, talk = process.communicate(timeout=60)
            assert time.monotonic() - started < 30
        assert process.returncode == 0
        assert "Traceback" not in talk
        until(lambda: not any(map(is_alive, pids)))
        left = [
            p for p in os.listdir("/tmp") if p.startswith("medfinder-") and f"-{process.pid}-" in p
        ]
        assert left == []


def test_workers_end_with_their_supervisor(index_folder):
    with running(index_folder) as (process, url):
        until(lambda: len(children(process.pid)) == 2)
        pids = children(process.pid)
        process.kill()
        process.wait()
        until(lambda: not any(map(is_alive, pids)))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}health")


def test_an_absent_index_is_told_before_a_worker_starts(tmp_path):
    command = [*COMMAND, str(tmp_path / "nothing"), "--workers", "2", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "no index folder" in done.stderr


def test_several_workers_need_a_folder(finder):
    with pytest.raises(ConfigError, match="got a Finder") as error:
        serve(finder, port=0, config=ServeConfig(workers=2))
    assert error.value.rule == "workers"
