"""The service under faults: killed under load and started again; a day's work, watched."""

import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from faults.rows import Row
from faults.stages import SIZE, Child, Inputs, encoders, run_index_of_few, timed, workers_by
from medfinder.index.store import Index
from medfinder.search.build import build_index
from medfinder.search.finder import Finder
from medfinder.serve.access.accounts import add_account
from medfinder.serve.access.config import AccessConfig
from medfinder.serve.access.tokens import add_token
from medfinder.serve.app import serve
from medfinder.serve.audit import AuditLog
from medfinder.serve.config import IngestConfig, ServeConfig
from medfinder.serve.database import Database, beside
from medfinder.studies import read_studies
from medfinder.volume.nifti import write_nifti
from medfinder.volume.volume import Volume

SENTENCES = ("dense left", "pleural effusion", "nodule in the right upper lobe", "no emphysema")
READY_S = 60.0
BOUNDARY = "faults"
MOST_KEPT = 300  # collections and searches of one index; an account may have 500


def run_service(home: Path) -> None:
    """Serve the index of `home` until killed; its address goes into a file."""

    def on_ready(url: str) -> None:
        (home / "url.new").write_text(url)
        os.replace(home / "url.new", home / "url")

    finder = Finder(Index.open(home / "idx"), encoders())
    access = AccessConfig(mode="required", requests_per_minute=0)
    ingest = IngestConfig(folder=str(home / "store"))
    with workers_by("spawn"):  # a service has threads, whose locks a fork would copy
        serve(finder, port=0, config=ServeConfig(access=access, ingest=ingest), on_ready=on_ready)


class Service:
    """A running service in a process of its own.

    Attributes:
        url: Host and port.
    """

    def __init__(self, home: Path, token: str) -> None:
        (home / "url").unlink(missing_ok=True)
        self.home = home
        self._headers = {"Authorization": f"Bearer {token}"}
        self.child = Child(run_service, home, is_watched=False)
        deadline = time.monotonic() + READY_S
        while not (home / "url").exists():
            if time.monotonic() > deadline or not self.child.process.is_alive():
                raise AssertionError(f"The service did not start: {self.child.end(1.0)}")
            time.sleep(0.01)
        self.url = (home / "url").read_text().removeprefix("http://").rstrip("/")

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection of one's own."""
        return http.client.HTTPConnection(self.url, timeout=60)

    def ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any = None,
        kind: str = "application/json",
    ) -> tuple[int, Any]:
        """Return the status and the answer, read to its end; JSON as what it holds."""
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = self._headers | ({"Content-Type": kind} if sent is not None else {})
        connection.request(method, path, sent, headers)
        answer = connection.getresponse()
        data = answer.read()
        is_json = "json" in (answer.getheader("content-type") or "")
        return answer.status, json.loads(data) if is_json else data

    def searched(self) -> list[list[str]]:
        """Return what the sentences find."""
        connection = self.connect()
        found = []
        for text in SENTENCES:
            status, said = self.ask(connection, "POST", "/v1/search", {"text": text, "k": 5})
            assert status == 200, said
            found.append([hit["study"]["study_id"] for hit in said["hits"]])
        connection.close()
        return found


def prepare(inputs: Inputs, home: Path) -> str:
    """Make an index and an account of an administrator; return its token."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    timed(run_index_of_few, inputs, home / "idx")
    database = Database.open(beside(home / "idx"))
    try:
        account = database.write(lambda c: add_account(c, "ana", "admin"))
        token, _ = database.write(lambda c: add_token(c, account.account_id, "t", "admin", None))
    finally:
        database.close()
    return token


def upload(volume: bytes, **fields: str) -> bytes:
    """Return the body of a form with a file."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\n'
    )
    return b"".join(parts) + head.encode() + volume + f"\r\n--{BOUNDARY}--\r\n".encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def new_ct(number: int, folder: Path) -> bytes:
    """Return a CT that no other number gives."""
    rng = np.random.default_rng(number)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    hu = np.full(SIZE, -1000.0)
    hu[(x / 0.9) ** 2 + (y / 0.7) ** 2 < 1] = 40
    for side in (0.4, -0.4):
        hu[((x - side) / 0.28) ** 2 + (y / (0.6 - 0.3 * z**2)) ** 2 < 1] = -820
    hu += rng.normal(0, 12, SIZE)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 9.0, 8.0, 8.0, 1.0
    path = folder / f"new-{os.getpid()}.nii.gz"
    write_nifti(Volume(hu.astype(np.int16), affine), path)
    return path.read_bytes()


@dataclass
class Told:
    """What was acknowledged: it has to be there after any kill."""

    collections: dict[str, str] = field(default_factory=dict)
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    searches: dict[str, str] = field(default_factory=dict)
    accounts: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    wrong: list[str] = field(default_factory=list)

    @property
    def n_kept(self) -> int:
        """Collections and searches."""
        return len(self.collections) + len(self.searches)


def _load(
    service: Service, told: Told, ids: list[str], expected: list[list[str]], seed: int
) -> None:
    """Write and search until the service is gone."""
    rng = random.Random(seed)
    connection = service.connect()
    with (
        contextlib.closing(connection),
        contextlib.suppress(OSError, http.client.HTTPException),
    ):
        while True:
            with told.lock:
                number = next(told.numbers)
            what = rng.random()
            if what < 0.35:
                name = f"c-{number}"
                status, said = service.ask(connection, "POST", "/v1/collections", {"name": name})
                if status == 200:
                    told.collections[said["collection_id"]] = name
            elif what < 0.7 and told.collections:
                at, study = rng.choice(list(told.collections)), rng.choice(ids)
                path = f"/v1/collections/{at}/studies/{study}"
                with told.lock:  # two notes on one study at once: either may be the last
                    status, said = service.ask(connection, "PUT", path, {"note": f"n-{number}"})
                    if status == 200:
                        told.notes[at, study] = f"n-{number}"
            elif what < 0.8:
                given = {"name": f"s-{number}", "query": {"text": "x"}}
                status, said = service.ask(connection, "POST", "/v1/saved-searches", given)
                if status == 200:
                    told.searches[said["search_id"]] = given["name"]
            elif what < 0.85:
                given = {"name": f"a-{number}", "role": "viewer"}
                status, said = service.ask(connection, "POST", "/v1/accounts", given)
                if status == 200:
                    told.accounts.add(given["name"])
            else:
                at = rng.randrange(len(SENTENCES))
                asked = {"text": SENTENCES[at], "k": 5}
                status, said = service.ask(connection, "POST", "/v1/search", asked)
                if status == 200:
                    found = [hit["study"]["study_id"] for hit in said["hits"]]
                    if found != expected[at]:
                        told.wrong.append(f"{SENTENCES[at]}: {found}, expected {expected[at]}")
            if status >= 400:
                told.wrong.append(f"status {status}: {said}")


def kill_service(
    inputs: Inputs,
    work: Path,
    n: int,
    seed: int = 0,
    *,
    ingests: bool = False,
    keep: Callable[[Row], None] = lambda row: None,
    row: Row | None = None,
) -> Row:
    """Kill the service `n` times under load, or while it takes in studies, and start it again."""
    home = work / "home"
    row = row or Row("kill -9", "ingest" if ingests else "serve")
    begun = time.monotonic() - row.seconds
    rng = random.Random(f"{seed}-{row.tried}")
    one_round = _ingest_round if ingests else _load_round
    while row.tried < n:
        token = prepare(inputs, home)
        state = _State(home, Service(home, token), token)
        state.expected = state.service.searched()
        try:
            while row.tried < n and state.told.n_kept < MOST_KEPT:
                row.add(*one_round(state, rng))
                row.seconds = round(time.monotonic() - begun, 1)
                keep(row)
        finally:
            state.service.child.kill()
    return row


@dataclass
class _State:
    home: Path
    service: Service
    token: str
    expected: list[list[str]] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    done: set[str] = field(default_factory=set)
    takes_s: float = 2.0
    number: int = 0


def _load_round(state: _State, rng: random.Random) -> tuple[str, str]:
    ids = sorted({study for found in state.expected for study in found})
    made = [
        threading.Thread(
            target=_load,
            args=(state.service, state.told, ids, state.expected, rng.randrange(2**31)),
        )
        for _ in range(3)
    ]
    for thread in made:
        thread.start()
    time.sleep(rng.uniform(0.02, 0.8))
    state.service.child.kill()
    for thread in made:
        thread.join()
    state.service = Service(state.home, state.token)
    return _checked(state)


def _checked(state: _State) -> tuple[str, str]:
    """Compare what the service has with what it has acknowledged."""
    with contextlib.closing(state.service.connect()) as connection:
        return _compared(state, connection)


def _compared(state: _State, connection: http.client.HTTPConnection) -> tuple[str, str]:
    service, told = state.service, state.told
    if told.wrong:
        return "wrong", told.wrong.pop()
    if service.searched() != state.expected:
        return "wrong", "a search finds something else"
    _, listed = service.ask(connection, "GET", "/v1/collections")
    got = {c["collection_id"]: c["name"] for c in listed["collections"]}
    if missing := {k: v for k, v in told.collections.items() if got.get(k) != v}:
        return "lost", f"collections {missing}"
    names = Counter(got.values())
    if twice := [name for name, k in names.items() if k > 1]:
        return "double", f"collections {twice}"
    recent = list(dict.fromkeys(at for at, _ in reversed(told.notes)))[:20]
    for at in recent:
        _, detail = service.ask(connection, "GET", f"/v1/collections/{at}")
        notes = {s["study_id"]: s["note"] for s in detail["studies"]}
        wanted = {study: note for (c, study), note in told.notes.items() if c == at}
        # One that was on its way when the service fell may have been kept.
        if missing := {k for k, v in wanted.items() if k not in notes or _no(notes[k]) < _no(v)}:
            return "lost", f"notes on {missing} in {at}"
    _, listed = service.ask(connection, "GET", "/v1/saved-searches")
    got = {s["search_id"]: s["name"] for s in listed["searches"]}
    if missing := {k: v for k, v in told.searches.items() if got.get(k) != v}:
        return "lost", f"searches {missing}"
    _, listed = service.ask(connection, "GET", "/v1/accounts")
    if missing := told.accounts - {a["name"] for a in listed["accounts"]}:
        return "lost", f"accounts {missing}"
    database = Database.open(beside(state.home / "idx"))
    try:
        verdict = AuditLog(database).verify()
    finally:
        database.close()
    if verdict.first_bad is not None:
        return "wrong", f"the audit log is broken at {verdict.first_bad}"
    return "survived", ""


def _no(note: str) -> int:
    return int(note.removeprefix("n-"))


def _ended(service: Service, job_id: str, within_s: float = 90.0) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    with contextlib.closing(service.connect()) as connection:
        while time.monotonic() < deadline:
            status, job = service.ask(connection, "GET", f"/v1/jobs/{job_id}")
            if status != 200:
                return {"state": f"status {status}", "studies": []}
            if job["state"] not in ("queued", "running"):
                return dict(job)
            time.sleep(0.05)
    return {"state": "hung", "studies": []}


def _send(service: Service, data: bytes, name: str) -> str:
    connection = service.connect()
    body = upload(data, report="A nodule in the left lung. No effusion.", study_id=name)
    status, said = service.ask(connection, "POST", "/v1/ingest", body, FORM)
    assert status == 202, said
    connection.close()
    return str(said["job_id"])


def _ingest_round(state: _State, rng: random.Random) -> tuple[str, str]:
    state.number += 1
    name = f"sent-{state.number}"
    data = new_ct(state.number, state.home)
    job_id = _send(state.service, data, name)
    time.sleep(rng.uniform(0, state.takes_s))
    state.service.child.kill()
    state.service = Service(state.home, state.token)
    job = _ended(state.service, job_id)
    if job["state"] not in ("done", "interrupted"):
        return "lost", f"the job is {job}"
    if job["state"] == "interrupted":
        if (found := _held(state)) != state.done:
            return "wrong", f"an interrupted job left {found - state.done}"
        started = time.monotonic()
        job = _ended(state.service, _send(state.service, data, name))
        state.takes_s = 0.5 * state.takes_s + 0.5 * (time.monotonic() - started)
        if job["state"] != "done":
            return "lost", f"sent again, the job is {job}"
    state.done.add(name)
    found = _held(state)
    if found != state.done:
        kind = "lost" if state.done - found else "double"
        return kind, f"held {sorted(found)}, expected {sorted(state.done)}"
    folders = len(list((state.home / "store" / "studies").iterdir()))
    if folders != len(state.done) or list((state.home / "store" / "incoming").iterdir()):
        return "wrong", f"{folders} folders for {len(state.done)} studies, or incoming not empty"
    return "survived", ""


def _held(state: _State) -> set[str]:
    """Return the studies that were sent and are in the index, each once."""
    index = Index.open(state.home / "idx")
    ids = index.ids()
    assert len(ids) == len(set(ids)) == index.count(), "a study is there twice"
    return {study for study in ids if study.startswith("sent-")}


# -- a service that takes in studies, and a command that adds others -------------------


def run_add(inputs: Inputs, out: Path) -> None:
    """Add all studies, and leave those that others have added."""
    made = encoders()
    build_index(inputs.all, out, made["volume"], made["report"], keep_others=True)


def serve_and_add(
    inputs: Inputs,
    work: Path,
    n: int,
    seed: int = 0,
    keep: Callable[[Row], None] = lambda row: None,
    row: Row | None = None,
) -> Row:
    """Send a study to the service while a command adds others to its index."""
    row = row or Row("two writers", "serve + index --add")
    rng = random.Random(f"{seed}-{row.tried}")
    home = work / "home"
    wanted = {study.study_id for study in read_studies(inputs.all / "studies.parquet")}

    def one() -> tuple[str, str]:
        name = f"sent-{row.tried}"
        token = prepare(inputs, home)
        service = Service(home, token)
        try:
            first = rng.random() < 0.5
            data = new_ct(row.tried, home)
            job_id = _send(service, data, name) if first else ""
            time.sleep(rng.uniform(0, 1.5))
            child = Child(run_add, inputs, home / "idx")
            if not first:
                time.sleep(rng.uniform(0, 1.5))
                job_id = _send(service, data, name)
            said, job = child.end(), _ended(service, job_id)
            if said[0] == "refused":
                said = Child(run_add, inputs, home / "idx").end()
            if said[0] != "done" or job["state"] != "done":
                return "wrong", f"the command says {said}, the job {job}"
            ids = Index.open(home / "idx").ids()
            if missing := (wanted | {name}) - set(ids):
                return "lost", f"{missing}"
            if len(ids) != len(set(ids)):
                return "double", f"{ids}"
            status, found = _asked(service)
            if status != 200 or not set(found) <= wanted | {name}:
                return "wrong", f"a search says {status}, {found}"
            return "survived", ""
        finally:
            service.child.kill()

    return row.fill(n, one, keep)


def _asked(service: Service) -> tuple[int, list[str]]:
    with contextlib.closing(service.connect()) as connection:
        asked = {"text": SENTENCES[0], "k": 50}
        status, said = service.ask(connection, "POST", "/v1/search", asked)
        return status, [hit["study"]["study_id"] for hit in said["hits"]] if status == 200 else []


# -- a day's work ----------------------------------------------------------------------

DAY = {"search": 2000, "slice": 4000, "upload": 300, "ingest": 100}
"""Of a department: searches, slices looked at, searches by a CT, studies taken in."""


def soak(
    inputs: Inputs,
    work: Path,
    percent: int = 100,
    seed: int = 0,
    keep: Callable[[Row], None] = lambda row: None,
) -> Row:
    """Do `percent` of what a day brings, as fast as it goes; watch memory, files and disk."""
    home = work / "home"
    token = prepare(inputs, home)
    service = Service(home, token)
    rng = random.Random(seed)
    todo = [kind for kind, n in DAY.items() for _ in range(max(1, n * percent // 100))]
    rng.shuffle(todo)
    row = Row("soak", "serve + ingest")
    begun = time.monotonic()
    ids = sorted({study for found in service.searched() for study in found})
    data = new_ct(0, home)
    numbers = itertools.count(1)
    lock = threading.Lock()
    waiting = iter(())  # type: Iterator[str]

    def work_off() -> None:
        connection = service.connect()
        while True:
            with lock:
                kind = next(waiting, None)
                number = next(numbers)
                if kind is None:
                    connection.close()
                    return
                ct = new_ct(number, home) if kind == "ingest" else b""
            status, said = 0, ""
            try:
                if kind == "search":
                    asked = {"text": f"{rng.choice(SENTENCES)} {number % 97}", "k": 10}
                    status, said = service.ask(connection, "POST", "/v1/search", asked)
                elif kind == "slice":
                    path = f"/v1/studies/{rng.choice(ids)}/slices/axial/{rng.randrange(SIZE[0])}.png?level={rng.randrange(-900, 900)}&width=900"
                    status, said = service.ask(connection, "GET", path)
                elif kind == "upload":
                    status, said = service.ask(
                        connection, "POST", "/v1/search/volume", upload(data), FORM
                    )
                else:
                    connection.close()  # it would lie idle until the service lets go of it
                    job = _ended(service, _send(service, ct, f"day-{number}"), 300)
                    status, said = (200, "") if job["state"] == "done" else (500, str(job))
            except (OSError, AssertionError, http.client.HTTPException) as error:
                said = f"{type(error).__name__}: {error}"
                connection.close()
                connection = service.connect()
            with lock:
                if status == 200:
                    row.add(f"survived: {kind}")
                else:
                    row.add("wrong", f"{kind}: {status} {str(said)[:300]}")

    seen: list[tuple[float, int, float]] = []
    part = (len(todo) + 8) // 9
    for start in range(0, len(todo), part):
        waiting = iter(todo[start : start + part])
        threads = [threading.Thread(target=work_off) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen.append((*used(service.child.pid), disk_mib(home)))
        row.seconds = round(time.monotonic() - begun, 1)
        row.notes[:] = [n for n in row.notes if not n.startswith("watched")]
        row.notes.append(f"watched [MiB, files, MiB on disk]: {seen}")
        keep(row)
    service.child.kill()
    return row


def used(pid: int) -> tuple[float, int]:
    """Return MiB of memory that is a process's own, and its open files."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = int(status.split("RssAnon:")[1].split()[0])
    return round(kib / 1024, 1), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def disk_mib(folder: Path) -> float:
    """Return the size of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return round(total / 2**20, 1)
