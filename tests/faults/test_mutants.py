"""Mutated inputs are read or refused: no crash, no hang, no memory beyond a bound."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.mutants import CASES, fuzz, run_case


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", sorted(CASES))
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(number=st.integers(0, 10**6))
def test_a_mutated_input_is_read_or_refused(what: str, number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outcome, note = run_case(what, 0, number, Path(folder))
    assert outcome in ("read", "refused"), f"case {number}: {note}"


def test_cases_run_in_processes_of_bounded_memory_and_failures_are_kept(
    tmp_path: Path,
) -> None:
    row = fuzz("nifti", 40, 1, tmp_path)
    assert (row.tried, row.survived) == (40, 40), row.notes
    assert row.outcomes["read"] > 0
    assert row.outcomes["refused"] > 0
    assert not list(tmp_path.iterdir())
