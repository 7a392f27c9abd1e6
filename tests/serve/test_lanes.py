import asyncio
import subprocess
import sys
import threading

import pytest

from medfinder.serve.lanes import Lane


def test_work_is_done_and_its_result_awaited():
    lane = Lane("test")
    assert asyncio.run(lane.run(lambda: threading.current_thread().name)).startswith("medfinder-")
    lane.close()


def test_an_error_of_the_work_is_the_waiters():
    lane = Lane("test")

    def fail():
        raise KeyError("k")

    with pytest.raises(KeyError):
        asyncio.run(lane.run(fail))
    assert not lane.is_running
    assert lane.submit(lambda: 7).result(5) == 7
    lane.close()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_no_more_is_in_work_than_there_are_threads(n_threads):
    lane = Lane("test", n_threads)
    gate, lock = threading.Event(), threading.Lock()
    begun = threading.Semaphore(0)
    now = most = 0

    def work():
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        begun.release()
        gate.wait(10)
        with lock:
            now -= 1

    futures = [lane.submit(work) for _ in range(10)]
    for _ in range(n_threads):
        assert begun.acquire(timeout=10)
    gate.set()
    for future in futures:
        future.result(10)
    assert most == n_threads
    lane.close()


def test_a_waiter_that_left_frees_no_place_while_its_work_goes_on():
    lane = Lane("test")
    begun, gate, order = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        gate.wait(10)
        order.append("first")

    async def leave():
        waiter = asyncio.create_task(lane.run(first))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert lane.is_running
        second = asyncio.create_task(lane.run(lambda: order.append("second")))
        await asyncio.sleep(0.05)
        assert order == []
        gate.set()
        await second

    asyncio.run(leave())
    assert order == ["first", "second"]
    lane.close()


def test_closing_cancels_what_waits_and_leaves_what_is_in_work():
    lane = Lane("test")
    begun, gate = threading.Event(), threading.Event()

    def work():
        begun.set()
        return gate.wait(10)

    first = lane.submit(work)
    assert begun.wait(10)
    second = lane.submit(work)
    lane.close()
    assert second.cancelled()
    assert lane.is_running
    gate.set()
    assert first.result(10) is True


def test_idle_threads_end_when_it_is_closed_and_it_opens_again():
    lane = Lane("test-idle", 2)
    lane.submit(lambda: None).result(10)
    (thread,) = (t for t in threading.enumerate() if t.name.startswith("medfinder-test-idle"))
    lane.close()
    thread.join(10)
    assert not thread.is_alive()
    assert lane.submit(lambda: 5).result(10) == 5
    lane.close()


def test_work_that_never_ends_does_not_keep_a_process_from_ending():
    code = (
        "import threading, time; from medfinder.serve.lanes import Lane; begun = threading.Event();"
        "Lane('test').submit(lambda: (begun.set(), time.sleep(3600))); begun.wait()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
