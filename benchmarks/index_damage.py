"""What a damaged index does, and whether ``check_index`` and ``repair_index`` see to it.

    python benchmarks/index_damage.py [--each 8] [--work FOLDER]

One bit of a file is turned around, or its end cut off, in a copy of a small index; each kind of file
in turn. A process of its own (damaged files may take it down) opens the index and asks everything
there is to ask, then checks it, then repairs it, and asks again: what is left must be answered as
before, and what is not must be named.
"""

import argparse
import os
import random
import shutil
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from record import table, write_result

from medfinder.index.check import check_index
from medfinder.index.repair import repair_index
from medfinder.index.store import Index, IndexConfig, Stream
from medfinder.records import Finding, Report, Study

SEED = 5
N = 120
STREAMS = {"volume": Stream("a", "a@1", 16), "report": Stream("b", "b@1", 8)}
NAMES = ("nodule", "pleural effusion", "emphysema")


class Batch:
    """Vectors of some studies."""

    def __init__(self, numbers: list[int], stream: str) -> None:
        dim = STREAMS[stream].dim
        self.ids = [f"s{i:04d}" for i in numbers]
        rows = [np.random.default_rng([i, dim]).standard_normal(dim) + 1 for i in numbers]
        self.vectors = np.array(rows, np.float32)
        self.model_id = STREAMS[stream].model_id


def study(i: int) -> Study:
    """Return study number i, always the same."""
    name = NAMES[i % 3]
    status = ("present", "absent")[i % 2]
    return Study(
        study_id=f"s{i:04d}",
        patient_id=f"p{i // 2:04d}",
        series_id=f"1.2.{i}",
        volume_path=f"/data/{i}.nii.gz",
        volume_hash=f"{i:064x}",
        shape=(100 + i, 512, 512),
        spacing_mm=(1.25, 0.7, 0.7),
        report=Report(f"Report {i}: {name}, {status}.", "en") if i % 3 else None,
        findings=(Finding(name, "C1", status, start=0, end=5),),  # type: ignore[arg-type]
        sex=(None, "F", "M")[i % 3],
        age=20 + i % 60,
        study_date=f"20{10 + i % 10}-05-17",
        manufacturer=f"maker {i % 4}",
        split=("train", "val", "test")[i % 3],
        source="made",
    )


def build(folder: Path) -> None:
    """Write a small index with everything an index may have: partitions, deletions, rejections."""
    index = Index.create(folder, STREAMS, IndexConfig(exact_below=40, rows_per_list=10))
    for start in range(0, N, 20):
        numbers = list(range(start, start + 20))
        told = [i for i in numbers if i % 3]
        index.add(
            [study(i) for i in numbers],
            {"volume": Batch(numbers, "volume"), "report": Batch(told, "report")},
        )
    index.delete(["s0003", "s0077"])
    index.write_rejections([])
    index.finish()


def answers(index: Index, without: frozenset[str] = frozenset()) -> list[object]:
    """Return all that a reader sees, of the studies that are not left out."""

    def kept(hits: list[tuple[str, float]], scores: bool = True) -> list[object]:
        return [hit if scores else hit[0] for hit in hits if hit[0] not in without]

    ids = [name for name in index.ids() if name not in without]
    held = [None if v is None else v.tobytes() for v in index.vectors("volume", ids)]
    found: list[object] = [ids, index.studies(ids), held]
    for where in (None, "age >= 40 AND sex = 'F'", "array_has(findings_present, 'nodule')"):
        # The centre moves with what is left out, and word counts do: then order alone is compared.
        for stream, dim in (("volume", 16), ("report", 8)):
            hits = index.search_vector(stream, np.ones(dim, np.float32), 2 * N, where)
            found.append(sorted(kept(hits, not without), key=repr) if without else kept(hits))
        for words in ("nodule", "effusion", "report 17", "present"):
            hits = index.search_text(words, 2 * N, where)
            found.append(sorted(kept(hits, False), key=repr) if without else kept(hits))
    found.append(kept(index.search_findings(["nodule"], k=2 * N)))
    conditions = ("age > 30", "split = 'val'", "manufacturer = 'maker 1'", "study_date > '2013'")
    found.append([[n for n in index.ids(w) if n not in without] for w in conditions])
    return found


def damage(path: Path, random_: random.Random) -> str:
    """Turn one bit of a file around, or cut its end off."""
    held = bytearray(path.read_bytes())
    if random_.random() < 0.75:
        at = random_.randrange(8 * len(held))
        held[at // 8] ^= 1 << (at % 8)
        what = "bit"
    else:
        held = held[: random_.randrange(len(held))]
        what = "cut"
    path.write_bytes(bytes(held))
    return what


def use(sound: Path, copy: Path) -> str:
    """Ask the damaged copy."""
    try:
        found = answers(Index.open(copy))
    except Exception:
        return "refused"
    except BaseException:
        return "panic"
    return "as before" if found == answers(Index.open(sound)) else "wrong answers"


def check(copy: Path) -> str:
    """Check the damaged copy."""
    return "sound" if check_index(copy).is_sound else "seen"


def repair(sound: Path, copy: Path) -> str:
    """Repair it, and compare what is left and what is named with what there was."""
    try:
        done = repair_index(copy)
    except Exception as error:
        return "backup needed" if "Restore it from a backup" in str(error) else f"error: {error}"
    if not done.after.is_sound:
        return "not sound"
    there, before = Index.open(copy), Index.open(sound)
    gone = set(before.ids()) - set(there.ids())
    if not gone <= set(done.dropped) and len(gone - set(done.dropped)) > done.n_unnamed:
        rolled = any("_versions" in name for name in done.removed)
        return "older version" if rolled else "lost silently"
    without = frozenset(gone)
    if answers(there, without) != answers(before, without):
        return "wrong answers"
    return "mended" if not gone else "mended, rows named"


def kind(name: str) -> str:
    """Return what sort of file it is."""
    parts = name.split("/")
    if parts[0] == "table":
        return f"table: {parts[2]}"
    return f"partitions: {parts[-1]}" if len(parts) == 3 else name


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--each", type=int, default=8, help="trials of each kind of file")
    parser.add_argument("--work", type=Path, default=None)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="index-damage-"))
    sound = work / "sound"
    build(sound)
    assert check_index(sound).is_sound
    kinds = defaultdict(list)
    for path in sorted(sound.rglob("*")):
        if path.is_file() and path.stat().st_size:
            name = path.relative_to(sound).as_posix()
            kinds[kind(name)].append(name)
    random_ = random.Random(SEED)
    rows: list[dict[str, Any]] = []
    pool = _pool()

    def asked(work_: Any, *given: Path) -> str:
        nonlocal pool
        try:
            return str(pool.submit(work_, *given).result(timeout=120))
        except (BrokenProcessPool, TimeoutError) as error:
            pool.shutdown(wait=False, cancel_futures=True)
            pool = _pool()
            return "hung" if isinstance(error, TimeoutError) else "process died"

    for name in sorted(kinds):
        for number in range(arguments.each):
            copy = work / f"copy-{len(rows)}"
            shutil.copytree(sound, copy)
            files = sorted(kinds[name])
            # Of the table's versions only the newest, the first by name, is read: every other time.
            chosen = files[0] if "_versions" in name and number % 2 else random_.choice(files)
            what = damage(copy / chosen, random_)
            row = {"kind": name, "damage": what, "plain": asked(use, sound, copy)}
            row["check"] = asked(check, copy)
            row["repair"] = asked(repair, sound, copy) if row["check"] == "seen" else "-"
            rows.append(row)
            shutil.rmtree(copy)
            if row["check"] != "seen" or row["repair"] not in ("mended", "mended, rows named"):
                print(row, chosen, flush=True)
    pool.shutdown()
    totals = {column: dict(Counter(r[column] for r in rows)) for column in rows[0]}
    unseen = [r for r in rows if r["check"] != "seen"]
    result = {"trials": len(rows), "unseen_by_check": len(unseen), "totals": totals, "rows": rows}
    write_result("index_damage", result, [SEED])
    print(table([_line(name, [r for r in rows if r["kind"] == name]) for name in sorted(kinds)]))
    print(f"{len(rows)} trials, {len(unseen)} unseen by check")
    if arguments.work is None:
        shutil.rmtree(work)


def _line(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    def told(column: str) -> str:
        return ", ".join(f"{n} {what}" for what, n in Counter(r[column] for r in rows).items())

    heads = {"plain use": "plain", "check": "check", "repair": "repair"}
    return {
        "file": name,
        "trials": len(rows),
        **{head: told(column) for head, column in heads.items()},
    }


def _pool() -> ProcessPoolExecutor:
    os.environ["RUST_BACKTRACE"] = "0"
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_quiet)


def _quiet() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the engine says of panics


if __name__ == "__main__":
    main()
