"""A clock that jumps between two runs: resuming, sessions and the audit log do not depend on it.

The second run is a process of its own under libfaketime, which shifts every clock it asks.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from faults.kills import judged
from faults.rows import Row
from faults.stages import STAGES, Child, Inputs, contents, encoders, timed, workers_by
from medfinder.index.store import Index
from medfinder.search.finder import Finder
from medfinder.serve.access.accounts import add_account
from medfinder.serve.access.tokens import add_token
from medfinder.serve.database import Database, beside

LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)
SHIFTS = {"-10 years": "-3650d", "-1 day": "-1d", "+1 day": "+1d", "+10 years": "+3650d"}


def library() -> str | None:
    """Return libfaketime, if it is installed."""
    return next((path for path in LIBRARIES if Path(path).exists()), None)


def after(inputs: Inputs, home: Path, token: str) -> dict[str, Any]:
    """Go on with everything, by whatever the clock says now."""
    from fastapi.testclient import TestClient

    from medfinder.serve.access.config import AccessConfig
    from medfinder.serve.app import create_app
    from medfinder.serve.config import IngestConfig, ServeConfig

    said: dict[str, Any] = {"year": time.gmtime().tm_year}
    for stage in ("curate", "index", "train"):
        STAGES[stage](inputs, home / stage)
    finder = Finder(Index.open(home / "index"), encoders())
    config = ServeConfig(
        access=AccessConfig(mode="required"), ingest=IngestConfig(folder=str(home / "store"))
    )
    with TestClient(create_app(finder, config), base_url="http://127.0.0.1") as client:
        headers = {"Authorization": f"Bearer {token}"}
        asked = client.post("/v1/search", json={"text": "nodule", "k": 3}, headers=headers)
        made = client.post("/v1/collections", json={"name": "x"}, headers=headers)
        log = client.get("/v1/audit/verify", headers=headers)
        jobs = client.get("/v1/jobs", headers=headers)
    said["statuses"] = [r.status_code for r in (asked, made, log, jobs)]
    said["audit"] = log.json()
    return said


def jump(
    shift: str, inputs: Inputs, work: Path, seed: int = 0, keep: Callable[[Row], None] = print
) -> Row:
    """Begin every stage, let the clock jump, and go on."""
    found = library()
    assert found, "libfaketime is not installed"
    rng, row = random.Random(f"{shift}-{seed}"), Row("clock jump", shift)
    whole, home = work / "whole", work / "home"
    for folder in (whole, home):
        shutil.rmtree(folder, ignore_errors=True)
    expected = {}
    for stage in ("curate", "index", "train"):
        takes_s = timed(STAGES[stage], inputs, whole / stage)
        expected[stage] = contents(stage, whole / stage)
        child = Child(STAGES[stage], inputs, home / stage)
        time.sleep(rng.uniform(0, 0.8 * takes_s))
        child.kill()
    database = Database.open(beside(home / "index"))
    account = database.write(lambda c: add_account(c, "ana", "admin"))
    token, _ = database.write(lambda c: add_token(c, account.account_id, "t", "admin", None))
    database.close()
    places = [str(p) for p in (inputs.archive, inputs.few, inputs.all, home)]
    done = subprocess.run(
        [sys.executable, "-m", "faults.clock", *places, token],
        env={**os.environ, "LD_PRELOAD": found, "FAKETIME": SHIFTS[shift], "NO_FAKE_STAT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        row.add("wrong", done.stderr[-1500:])
        keep(row)
        return row
    said = json.loads(done.stdout.splitlines()[-1])
    is_shifted = said["year"] != time.gmtime().tm_year or "day" in shift
    for stage in ("curate", "index", "train"):
        row.add(*judged(expected[stage], contents(stage, home / stage)))
    sound = said["statuses"] == [200] * 4 and said["audit"]["first_bad"] is None and is_shifted
    row.add("survived" if sound else "wrong", str(said))
    keep(row)
    return row


def main() -> None:
    """Run `after` for the process that called."""
    archive, few, every, home, token = sys.argv[1:]
    inputs = Inputs(Path(archive), Path(few), Path(every))
    torch.set_num_threads(1)  # as the runs that it is compared with
    with workers_by("fork"):
        print(json.dumps(after(inputs, Path(home), token)))


if __name__ == "__main__":
    main()
