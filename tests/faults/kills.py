"""kill -9 at random moments of a stage, then the same command again: the same artifact."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.rows import Row
from faults.stages import STAGES, Child, Inputs, contents, is_finished, timed

AGAIN = 0.4  # of the runs that go on after a kill are killed too


def judged(expected: dict[str, Any], got: dict[str, Any]) -> tuple[str, str]:
    """Return the outcome of comparing two artifacts' `contents`, and what differs."""
    differing = [name for name in expected if expected[name] != got[name]]
    if not differing:
        return "survived", ""
    missing = Counter(expected["ids"]) - Counter(got["ids"])
    more = Counter(got["ids"]) - Counter(expected["ids"])
    kind = "lost" if missing else "double" if more else "wrong"
    first = differing[0]
    return kind, f"{differing}; expected {str(expected[first])[:400]}, got {str(got[first])[:400]}"


def kill_stage(
    stage: str,
    inputs: Inputs,
    work: Path,
    n: int,
    seed: int = 0,
    *,
    updates: bool = False,
    keep: Callable[[Row], None] = lambda row: None,
    row: Row | None = None,
) -> Row:
    """Kill a stage `n` times in all; after each series of kills it runs to its end.

    Args:
        updates: Of an index: half of the runs bring an index of few studies up to all, and it
            must open and answer at every moment.
    """
    row = row or Row("kill -9", stage)
    rng = random.Random(f"{seed}-{row.tried}")
    run = STAGES[stage]
    whole, out, old = work / "whole", work / "out", work / "old"
    for folder in (whole, out, old):
        shutil.rmtree(folder, ignore_errors=True)
    timed(run, inputs, whole)
    shutil.rmtree(whole)
    takes_s = timed(run, inputs, whole)
    expected = contents(stage, whole)
    assert contents(stage, whole) == expected
    if updates:
        timed(STAGES[f"{stage}-few"], inputs, old)
        before = contents(f"{stage}-few", old)
        shutil.copytree(old, out)
        timed(run, inputs, out)
        expected_updated = contents(stage, out)
    begun = time.monotonic() - row.seconds
    while row.tried < n:
        shutil.rmtree(out, ignore_errors=True)
        is_update = updates and rng.random() < 0.5
        if is_update:
            shutil.copytree(old, out)
        kills = 0
        torn = ""
        while row.tried + kills < n and (kills == 0 or rng.random() < AGAIN):
            child = Child(run, inputs, out)
            time.sleep(rng.uniform(0, takes_s))
            if not child.kill():  # it had ended, and would only say so if it were run again
                break
            kills += 1
            if is_finished(out) and not is_update:  # it says so: then it is
                outcome, note = judged(expected, contents(stage, out))
                torn = "" if outcome == "survived" else f"{outcome} finished, but torn: {note}"
            elif is_update and (out / "manifest.json").is_file():
                ids = set(contents(f"{stage}-few", out)["ids"])
                if not set(before["ids"]) <= ids:
                    torn = "lost while it was updated"
        if not kills:
            continue
        child = Child(run, inputs, out)
        said = child.end()
        is_done = said[0] == "done" or (said[0] == "refused" and "has finished" in said[1])
        if torn:
            row.add(torn.split()[0], torn, kills)
        elif not is_done:
            row.add("lost", str(said), kills)
        else:
            wanted = expected_updated if is_update else expected
            row.add(*judged(wanted, contents(stage, out)), n=kills)
        if row.failed and not (work / "failed").exists():
            shutil.copytree(out, work / "failed")
        row.seconds = round(time.monotonic() - begun, 1)
        keep(row)
    return row
