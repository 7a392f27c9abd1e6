"""Disks that are full or read-only, and two writers at once on one output."""

import contextlib
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.kills import judged
from faults.rows import Row
from faults.stages import STAGES, Child, Inputs, contents, timed

WHOLE_KIB = 64 * 2**10
KEPT_BEFORE = "index-few"
FULL_KIB = {"curate": (40, 400), "index": (40, 1500), "train": (200, 9000)}
"""Sizes of a disk, from and to, in which a stage's artifact does not fit."""


class Disk:
    """A file system of its own that can be made full and read-only; needs to be root."""

    def __init__(self, folder: Path, kib: int = WHOLE_KIB) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder))

    def remount(self, options: str) -> None:
        """Change its size or its mode."""
        _run("mount", "-o", f"remount,{options}", str(self.folder))

    def close(self) -> None:
        """Unmount it."""
        _run("umount", "-l", str(self.folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Tell whether this process may mount."""
    try:
        Disk(folder).close()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@contextlib.contextmanager
def disk(folder: Path, kib: int = WHOLE_KIB) -> Iterator[Disk]:
    """Mount, and unmount."""
    made = Disk(folder, kib)
    try:
        yield made
    finally:
        made.close()


def _is_clear(said: tuple[str, str]) -> bool:
    """Tell whether the command would have ended with 2 and a sentence."""
    kind, text = said
    # What is an OSError goes to the command's edge, which says its reason and ends with 2.
    return kind == "refused" or (kind == "fell" and text.startswith(("OSError", "PermissionError")))


def full_disk(
    stage: str,
    inputs: Inputs,
    work: Path,
    n: int,
    seed: int = 0,
    keep: Callable[[Row], None] = print,
) -> Row:
    """Run a stage on a disk that fills up, then again with room."""
    rng, row = random.Random(f"{stage}-{seed}"), Row("disk full", stage)
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    timed(STAGES[stage], inputs, whole)
    expected = contents(stage, whole)
    begun = time.monotonic()
    while row.tried < n:
        with disk(work / "disk", rng.randrange(*FULL_KIB[stage])) as full:
            out = full.folder / "out"
            said = Child(STAGES[stage], inputs, out).end()
            if said[0] == "done":
                row.add("survived: it fitted")
                continue
            full.remount(f"size={WHOLE_KIB}k")
            again = Child(STAGES[stage], inputs, out).end()
            _judge(row, said, again, lambda out=out: judged(expected, contents(stage, out)))
        row.seconds = round(time.monotonic() - begun, 1)
        keep(row)
    return row


def full_disk_under_an_index(
    inputs: Inputs, work: Path, n: int, seed: int = 0, keep: Callable[[Row], None] = print
) -> Row:
    """Add to an index on a disk that is nearly full: what it held is still there."""
    rng, row = random.Random(seed), Row("disk full", "index that is added to")
    old = work / "old"
    shutil.rmtree(old, ignore_errors=True)
    timed(STAGES["index-few"], inputs, old)
    before = set(contents("index-few", old)["ids"])
    begun = time.monotonic()
    while row.tried < n:
        with disk(work / "disk") as full:
            out = full.folder / "out"
            shutil.copytree(old, out)
            taken = sum(p.stat().st_blocks for p in out.rglob("*")) // 2
            full.remount(f"size={taken + rng.randrange(64, 800)}k")
            said = Child(STAGES["index"], inputs, out).end()
            held = set(contents("index", out)["ids"])
            full.remount(f"size={WHOLE_KIB}k")
            again = Child(STAGES["index"], inputs, out).end()
            if not before <= held:
                row.add("lost", f"the index lost {before - held}")
            elif said[0] == "done":
                row.add("survived: it fitted")
            else:
                _judge(row, said, again, lambda: ("survived", ""))
        row.seconds = round(time.monotonic() - begun, 1)
        keep(row)
    return row


def read_only(
    stage: str,
    inputs: Inputs,
    work: Path,
    n: int,
    seed: int = 0,
    keep: Callable[[Row], None] = print,
) -> Row:
    """Run a stage on a disk that has become read-only, at a random moment; then again."""
    rng, row = random.Random(seed), Row("disk read-only", stage)
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    timed(STAGES[stage], inputs, whole)
    takes_s = timed(STAGES[stage], inputs, work / "whole2")
    shutil.rmtree(work / "whole2")
    expected = contents(stage, whole)
    while row.tried < n:
        with disk(work / "disk") as place:
            out = place.folder / "out"
            if rng.random() < 0.7:  # what a killed run left
                child = Child(STAGES[stage], inputs, out)
                time.sleep(rng.uniform(0, takes_s))
                child.kill()
            place.remount("ro")
            said = Child(STAGES[stage], inputs, out).end()
            place.remount("rw")
            again = Child(STAGES[stage], inputs, out).end()
            if said[0] == "done":  # there was nothing left to write
                said = ("refused", "")
            _judge(row, said, again, lambda out=out: judged(expected, contents(stage, out)))
        keep(row)
    return row


def _judge(
    row: Row,
    said: tuple[str, str],
    again: tuple[str, str],
    compare: Callable[[], tuple[str, str]],
) -> None:
    is_done = again[0] == "done" or (again[0] == "refused" and "has finished" in again[1])
    if not is_done:
        row.add("lost", f"it does not go on: {again}")
    elif not _is_clear(said):
        row.add("wrong", f"no clear error: {said}")
    else:
        row.add(*compare())


def two_writers(
    stage: str,
    inputs: Inputs,
    work: Path,
    n: int,
    seed: int = 0,
    keep: Callable[[Row], None] = print,
) -> Row:
    """Start the same command twice at once on one output."""
    rng, row = random.Random(seed), Row("two writers", f"{stage} + {stage}")
    whole, out = work / "whole", work / "out"
    shutil.rmtree(whole, ignore_errors=True)
    timed(STAGES[stage], inputs, whole)
    expected = contents(stage, whole)
    begun = time.monotonic()
    while row.tried < n:
        shutil.rmtree(out, ignore_errors=True)
        first = Child(STAGES[stage], inputs, out)
        time.sleep(rng.choice((0.0, 0.0, rng.uniform(0, 1))))
        second = Child(STAGES[stage], inputs, out)
        ends = [first.end(), second.end()]
        if any(kind not in ("done", "refused") for kind, _ in ends):
            row.add("wrong", f"{ends}")
        elif all(kind == "refused" for kind, _ in ends):
            row.add("wrong", f"neither wins: {ends}")
        else:
            outcome, note = judged(expected, contents(stage, out))
            both = "both end" if all(kind == "done" for kind, _ in ends) else "one is refused"
            row.add(f"survived: {both}" if outcome == "survived" else outcome, note)
        row.seconds = round(time.monotonic() - begun, 1)
        keep(row)
    return row
