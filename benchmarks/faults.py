"""Faults on purpose: what was tried, what survived, what was lost, what was there twice.

Each row is a real process and a real fault (`tests/faults`, which runs the same at small counts).
Every row is kept as soon as it is counted: a run may be stopped at any moment, and goes on::

    python benchmarks/faults.py kills --what curate --n 200
    python benchmarks/faults.py fuzz --what nifti --n 5000
    python benchmarks/faults.py table
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from record import table, write_result  # noqa: E402

SEED = 6
HOME = Path(os.environ.get("FAULTS_HOME", Path(tempfile.gettempdir()) / "medfinder-faults"))
COUNTS = ("tried", "survived", "lost", "double", "wrong", "unnoticed")


def kills(options: argparse.Namespace) -> None:
    """Kill a stage, or the service, at random moments."""
    from faults import kills, service
    from faults.rows import Row
    from faults.stages import make_inputs, warm_up

    warm_up()
    row = Row("kill -9", options.what).kept(HOME / "rows")
    work = HOME / f"work-{options.what}"
    work.mkdir(parents=True, exist_ok=True)
    inputs = make_inputs(work / "inputs")
    if options.what in ("serve", "ingest"):
        service.kill_service(
            inputs,
            work,
            options.n,
            options.seed,
            ingests=options.what == "ingest",
            keep=keep,
            row=row,
        )
    else:
        kills.kill_stage(
            options.what,
            inputs,
            work,
            options.n,
            options.seed,
            updates=options.what == "index",
            keep=keep,
            row=row,
        )


def keep(row: Any) -> None:
    """Keep a row as far as it has come."""
    row.write(HOME / "rows")


def fuzz(options: argparse.Namespace) -> None:
    """Feed mutated inputs to the real readers."""
    from faults import mutants
    from faults.rows import Row

    row = Row("fuzz", options.what).kept(HOME / "rows")
    found = HOME / f"found-{options.what}"
    mutants.fuzz(options.what, options.n, options.seed, found, keep, row)


def damage(options: argparse.Namespace) -> None:
    """Cut files short and flip their bits."""
    from faults import damage
    from faults.stages import make_inputs, warm_up

    warm_up()
    work = HOME / "work-damage"
    work.mkdir(parents=True, exist_ok=True)
    inputs = make_inputs(work / "inputs")
    damage.damage_all(inputs, work, options.n, options.seed, options.what, keep)


def conditions(options: argparse.Namespace) -> None:
    """Fill the disk, take its writing away, have two write at once, let the clock jump."""
    from faults import clock
    from faults import conditions as under
    from faults.stages import make_inputs, warm_up

    warm_up()
    work = HOME / "work-conditions"
    work.mkdir(parents=True, exist_ok=True)
    inputs = make_inputs(work / "inputs")
    rest: tuple[Any, ...] = (inputs, work, options.n, options.seed, keep)
    can_mount = under.can_mount(work / "try")
    for stage in ("curate", "index", "train"):
        under.two_writers(stage, *rest)
        if can_mount:
            under.full_disk(stage, *rest)
            under.read_only(stage, *rest)
    if can_mount:
        under.full_disk_under_an_index(*rest)
    if clock.library() is not None:
        for by in ("+1 day", "-1 day", "+10 years", "-10 years"):
            clock.jump(by, inputs, work, keep=keep)


def other(options: argparse.Namespace) -> None:
    """Break the store, its writer, Ray's workers; or have a service and a command write at once."""
    from faults import elsewhere, service
    from faults.rows import Row
    from faults.stages import make_inputs, warm_up

    run, row = {
        "store": (elsewhere.failing_store, Row("object store fails", "index")),
        "store-writer": (elsewhere.kill_writer_of_store, Row("kill -9", "index in a store")),
        "ray": (elsewhere.kill_ray_workers, Row("kill -9", "a worker of Ray")),
        "serve": (service.serve_and_add, Row("two writers", "serve + index --add")),
    }[options.what]
    warm_up()
    work = HOME / f"work-{options.what}"
    work.mkdir(parents=True, exist_ok=True)
    inputs = make_inputs(work / "inputs")
    run(inputs, work, options.n, options.seed, keep, row.kept(HOME / "rows"))


def soak(options: argparse.Namespace) -> None:
    """Ask and send what a day asks and sends."""
    from faults import service
    from faults.stages import make_inputs, warm_up

    warm_up()
    work = HOME / "work-soak"
    work.mkdir(parents=True, exist_ok=True)
    service.soak(make_inputs(work / "inputs"), work, options.n, options.seed, keep)


def show(options: argparse.Namespace) -> None:
    """Print the table, and write it with all that is known of each row."""
    rows = [json.loads(path.read_text()) for path in sorted((HOME / "rows").glob("*.json"))]
    print(table([{"fault": r["fault"], "to": r["to"], **{c: r[c] for c in COUNTS}} for r in rows]))
    write_result(
        "faults",
        {"rows": rows, "total": {c: sum(r[c] for r in rows) for c in COUNTS}},
        seeds=[SEED],
        notes="Stages run in processes that are forked after the imports, their workers too, so that "
        "a kill costs no imports, but for a service's, which are spawned; encoders are small ones. "
        "'survived' counts refusals with a clear error; 'unnoticed' files have no checksum and were "
        "taken as they were.",
    )


PARTS = {
    "kills": kills,
    "fuzz": fuzz,
    "damage": damage,
    "conditions": conditions,
    "other": other,
    "soak": soak,
    "table": show,
}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument(
        "--what", default="", help="a stage, a kind of input or of file, a row of 'other'"
    )
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        PARTS[options.part](options)


if __name__ == "__main__":
    main()
