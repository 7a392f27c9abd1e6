"""Steps in this process."""

import threading
from pathlib import Path

import pytest

from medfinder.errors import MissingExtra
from medfinder.scale.engine import Failure, Step
from medfinder.scale.here import N_AHEAD, Here
from stubs import scaled


def test_one_step_runs_in_the_caller_s_thread_one_item_at_a_time() -> None:
    read: list[int] = []

    def source():  # type: ignore[no-untyped-def]
        for i in range(4):
            read.append(i)
            yield i

    where = Step(lambda: lambda item: (item, threading.current_thread()))
    for item, result in Here().map(source(), [where]):
        assert result == (item, threading.main_thread())
        assert read == list(range(item + 1))


def test_items_are_prepared_in_a_thread_a_bounded_number_ahead() -> None:
    prepared: list[int] = []

    def prepare(item: int) -> threading.Thread:
        prepared.append(item)
        return threading.current_thread()

    found = Here().map(range(100), [Step(lambda: prepare), Step(lambda: lambda thread: thread)])
    _, thread = next(found)
    assert thread is not threading.main_thread()
    assert len(prepared) <= 2 + N_AHEAD
    found.close()
    assert len(prepared) <= 2 + N_AHEAD
    assert not thread.is_alive()


def test_a_batch_is_what_the_step_says_it_takes() -> None:
    items = [1, 2, -1, 4, 5]
    found = dict(Here().map(items, [scaled.step(scaled.double_all, batch=3)]))
    assert isinstance(found.pop(-1), Failure)
    assert found == {1: 2, 2: 4, 4: 8, 5: 10}


@pytest.mark.parametrize("place", [0, 1])
def test_what_the_disk_refused_is_asked_for_again(tmp_path: Path, place: int) -> None:
    steps = [scaled.step(scaled.double)]
    steps.insert(place, scaled.step(scaled.fail_until, tmp_path, 2, 2 * (1 + place)))
    assert [r for _, r in Here().map([1, 2, 3], steps)] == [4, 8, 12]


def test_a_step_that_cannot_be_made_is_said_before_anything_is_read() -> None:
    with pytest.raises(MissingExtra):
        Here().map(iter(()), [Step(scaled.unmade)])
