"""What holds of every engine on this machine; `test_ray_cluster` asks the same of Ray."""

from pathlib import Path

import pytest

from medfinder.errors import MissingExtra
from medfinder.scale.engine import Engine, Failure, Step
from medfinder.scale.here import Here
from medfinder.scale.processes import Processes
from stubs import scaled
from stubs.scaled import step

ENGINES = {"here": Here(), "processes": Processes(2)}


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def test_every_item_comes_back_once_and_in_order(engine: Engine) -> None:
    steps = [step(scaled.double), step(scaled.double)]
    found = list(engine.map(range(20), steps))
    assert found == [(i, 4 * i) for i in range(20)]


def test_nothing_of_nothing(engine: Engine) -> None:
    assert list(engine.map([], [step(scaled.double)])) == []


def test_a_bad_item_is_a_failure_with_its_rule_and_is_tried_once(engine: Engine) -> None:
    found = dict(engine.map([2, 3, 4], [step(scaled.told_apart), step(scaled.double)]))
    bad = found.pop(3)
    assert (bad.rule, bad.reason, bad.attempts) == ("three", "The item is 3.", 1)
    assert found == {2: 8, 4: 16}


def test_what_the_disk_refuses_every_time_is_a_failure_without_a_path(
    engine: Engine, tmp_path: Path
) -> None:
    found = dict(engine.map([1, 2], [step(scaled.fail_until, tmp_path, 9, 2)]))
    failed = found[2]
    assert isinstance(failed, Failure)
    assert (failed.rule, failed.attempts) == ("io-error", 3)
    assert "ConnectionResetError (Connection reset by peer)" in failed.reason
    assert "archive" not in failed.reason
    assert isinstance(failed.error, ConnectionResetError)
    assert found[1] == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_is_no_item_s_fault_and_ends_the_run(engine: Engine) -> None:
    with pytest.raises(OSError, match="No space left"):
        list(engine.map([1, 2], [step(scaled.full_disk)]))


def test_an_error_of_the_code_is_raised_with_where_it_was(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError) as error:
        list(engine.map([1, 2, 3, 4], [step(scaled.fault)]))
    assert "in fault" in error.value.__notes__[0]


def test_a_step_that_cannot_be_made_ends_the_run_as_what_it_is(engine: Engine) -> None:
    with pytest.raises(MissingExtra, match="pip install"):
        list(engine.map([1, 2], [Step(scaled.unmade)]))
