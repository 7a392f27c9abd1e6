"""Mutated files and rows through the real readers: no crash, no hang, no memory beyond a bound.

Every case is made from its number alone, so that a failing one can be made again. Cases run in
worker processes whose address space is bounded; the one that a worker does not finish is a hang.
"""

import gzip
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from faults.rows import Row
from medfinder.errors import MedFinderError

HANG_S = 5.0
LOST_S = 60.0  # of CPU, after which no answer will come
HANG_S_A_MIB = 10.0  # more, as a report of that size is read in a time that grows with it
MEMORY_BYTES = 2**30  # of address space, beyond what a worker has when its first case begins
EXTREMES = ("0", "1", "-1", "nan", "inf", "-inf", "1e400", "1e-320", "9" * 16, "", " ", "x" * 64)

# -- volumes ---------------------------------------------------------------------------

# offset, struct code and count of the fields of a NIfTI-1 header
_FIELDS = (
    (0, "i", 1), (39, "b", 1), (40, "h", 8), (56, "f", 3), (68, "h", 1), (70, "h", 1), (72, "h", 1),
    (74, "h", 1), (76, "f", 8), (108, "f", 1), (112, "f", 1), (116, "f", 1), (120, "h", 1),
    (122, "b", 1), (123, "b", 1), (124, "f", 2), (252, "h", 1), (254, "h", 1), (256, "f", 6),
    (280, "f", 12), (344, "i", 1), (348, "b", 4),
)  # fmt: skip
_NUMBERS: dict[str, tuple[float, ...]] = {
    "b": (0, 1, -1, 127, -128, 2, 10),
    "h": (0, 1, -1, 32767, -32768, 2, 7, 8, 512, 1024, 4, 16),
    "i": (0, 1, -1, 2**31 - 1, -(2**31), 348, 540, 0x5C010000),
    "f": (0, -0.0, 1, -1, float("nan"), float("inf"), -float("inf"), 3e38, 1e-40, 352.5, 1e9, -352),
}  # fmt: skip


@cache
def _bases() -> tuple[bytes, ...]:
    """Small sound NIfTI files: integers, floats, swapped bytes, NIfTI-2."""
    import nibabel
    import numpy as np

    rng = np.random.default_rng(1)
    hu = rng.integers(-1000, 400, (12, 14, 16)).astype(np.int16)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    made = []
    for kind, values, order in (
        (nibabel.Nifti1Image, hu, "<"),
        (nibabel.Nifti1Image, hu.astype(np.float32), "<"),
        (nibabel.Nifti1Image, hu, ">"),
        (nibabel.Nifti2Image, hu, "<"),
    ):
        header = kind.header_class(endianness=order)
        header.set_data_dtype(values.dtype.newbyteorder(order))
        made.append(kind(values, affine, header).to_bytes())
    return tuple(made)


def nifti_case(rng: random.Random, folder: Path) -> None:
    """Read one mutated NIfTI file."""
    from medfinder.volume.read import read_volume

    data = bytearray(rng.choice(_bases()))
    swapped = data[0] == 0
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        how = rng.random()
        if how < 0.35:
            data[rng.randrange(min(len(data), 560))] = rng.randrange(256)
        elif how < 0.85:
            at, code, n = rng.choice(_FIELDS)
            at += struct.calcsize(code) * rng.randrange(n)
            packed = struct.pack((">" if swapped else "<") + code, rng.choice(_NUMBERS[code]))
            data[at : at + len(packed)] = packed
        elif how < 0.93:
            del data[rng.randrange(len(data)) :]
            data = data or bytearray(b"\0")
        else:
            data += rng.randbytes(rng.choice((1, 100, 5000)))
    name, body = "ct.nii", bytes(data)
    if rng.random() < 0.4:
        name, packed_body = "ct.nii.gz", bytearray(gzip.compress(body, 1, mtime=0))
        if rng.random() < 0.5:
            for _ in range(rng.choice((1, 3))):
                packed_body[rng.randrange(len(packed_body))] = rng.randrange(256)
        if rng.random() < 0.2:
            del packed_body[rng.randrange(1, len(packed_body)) :]
        body = bytes(packed_body)
    (folder / name).write_bytes(body)
    volume = read_volume(folder / name)
    volume.hu[:1].sum()


@cache
def _slices() -> tuple[tuple[str, bytes], ...]:
    """A small sound DICOM series, file by file."""
    import numpy as np

    from medfinder.volume.dicom_writer import write_dicom_series
    from medfinder.volume.volume import Volume

    rng = np.random.default_rng(1)
    hu = rng.integers(-1000, 400, (11, 16, 16)).astype(np.int16)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3.0, 2.0, 2.0, 1.0
    with tempfile.TemporaryDirectory() as folder:
        paths = write_dicom_series(Volume(hu, affine), folder, patient_id="P1", study_id="S1")
        return tuple((path.name, path.read_bytes()) for path in paths)


_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5", "1.2.3.4", "",
)  # fmt: skip
_TAGS = (
    (0x0028, 0x0010, "US"), (0x0028, 0x0011, "US"), (0x0028, 0x0100, "US"), (0x0028, 0x0101, "US"),
    (0x0028, 0x0102, "US"), (0x0028, 0x0103, "US"), (0x0028, 0x0002, "US"), (0x0028, 0x0008, "IS"),
    (0x0028, 0x0030, "DS"), (0x0028, 0x1052, "DS"), (0x0028, 0x1053, "DS"), (0x0020, 0x0032, "DS"),
    (0x0020, 0x0037, "DS"), (0x0020, 0x0013, "IS"), (0x0018, 0x0050, "DS"), (0x0018, 0x1120, "DS"),
    (0x0010, 0x1010, "AS"), (0x0008, 0x0020, "DA"), (0x0008, 0x0005, "CS"), (0x0020, 0x000E, "UI"),
    (0x0008, 0x0060, "CS"), (0x0008, 0x0008, "CS"), (0x0028, 0x0004, "CS"), (0x0008, 0x0016, "UI"),
)  # fmt: skip


def dicom_case(rng: random.Random, folder: Path) -> None:
    """Read a DICOM series of which some files are mutated."""
    from medfinder.volume.read import read_volume

    files = dict(_slices())
    chosen = list(files) if rng.random() < 0.3 else rng.sample(list(files), rng.choice((1, 1, 2)))
    seed = rng.randrange(2**31)
    for name in chosen:  # the same mutation of all, or of each its own
        one = random.Random(seed if len(chosen) == len(files) else rng.randrange(2**31))
        files[name] = _mutated(one, files[name])
    for name, body in files.items():
        (folder / name).write_bytes(body)
    volume = read_volume(folder)
    volume.hu[:1].sum()


def _mutated(rng: random.Random, body: bytes) -> bytes:
    how = rng.random()
    if how < 0.35:
        return _patched(rng, bytearray(body))
    if how < 0.42:
        return body[: rng.randrange(len(body))]
    made = _changed(rng, body)
    return _patched(rng, bytearray(made)) if rng.random() < 0.2 else made


def _patched(rng: random.Random, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(128, max(129, len(data) - 520))  # mostly the header
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:  # perhaps a length
            n = rng.choice((0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 2**24))
            data[at : at + 4] = struct.pack("<I", n)
    return bytes(data)


def _changed(rng: random.Random, body: bytes) -> bytes:
    import pydicom
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.tag import Tag

    dataset = pydicom.dcmread(io.BytesIO(body))
    for _ in range(rng.choice((1, 1, 2, 4))):
        how = rng.random()
        group, element, vr = rng.choice(_TAGS)
        tag = Tag(group, element)
        if how < 0.5:
            if vr == "US":
                raw = struct.pack("<H", rng.choice((0, 1, 2, 7, 8, 16, 17, 255, 32768, 65535)))
            else:
                parts = [rng.choice(EXTREMES) for _ in range(rng.choice((1, 1, 2, 3, 6)))]
                raw = "\\".join(parts).encode()
                raw += b" " * (len(raw) % 2)
            dataset[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
        elif how < 0.65:
            dataset.pop(tag, None)
        elif how < 0.8:
            dataset.file_meta.TransferSyntaxUID = rng.choice(_SYNTAXES)
        elif how < 0.9:
            inner = Dataset()
            for _ in range(rng.choice((1, 10, 60))):
                outer = Dataset()
                outer.add(
                    DataElement(rng.choice((0x00081140, 0x52009230)), "SQ", Sequence([inner]))
                )
                inner = outer
            dataset.update(inner)
        else:
            n = rng.choice((0, 1, 100))
            dataset.PixelData = dataset.PixelData[: rng.randrange(512)] + bytes(2 * n)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pydicom.dcmwrite(
                out, dataset, enforce_file_format=False, implicit_vr=False, little_endian=True
            )
        except Exception:  # pydicom refuses to write some; the bytes then are mutated themselves
            return _patched(rng, bytearray(body))
    return out.getvalue()


# -- rows of reports -------------------------------------------------------------------

_SOUND = (
    "Findings: There is a 12 mm nodule in the right upper lobe. No pleural effusion.",
    "Hallazgos: Nódulo de 12 mm en el lóbulo superior derecho. Sin derrame pleural.",
    "INFORMACIÓN CLÍNICA: tos. TAC de tórax sin contraste. Dr. Juan Pérez García, 12/03/2020.",
)


def _cell(rng: random.Random) -> str:
    """Return one cell of many kinds."""
    base = rng.choice(_SOUND)
    n = rng.choice((1, 7, 7, 50, 300, 300, 5000))
    kinds: tuple[Callable[[], str], ...] = (
        lambda: base,
        lambda: "".join(chr(rng.randrange(32)) for _ in range(20)) + base,
        lambda: base[:20] + "\ud800" + base[20:],
        lambda: "\u202e\u200f\u2066" + base[::-1] + "\u2069",
        lambda: rng.choice((" ", "\t", "\u00a0", "\n", "\r\n")) * n * 20,
        lambda: rng.choice(("1", "0", "9.", "1,", "1-", "1/", "12/12/")) * n * 10,
        lambda: rng.choice(("a", "A", "á", "Dr. ", "no ", "sin ", "(", "[", "<b>", "&amp;")) * n * 10,
        lambda: rng.choice(("No. ", "x, ", "and ", "y ", ".. ", "- ", "nodule ", "derecho ")) * n,
        lambda: "".join(chr(rng.choice((rng.randrange(0x3000), rng.randrange(0x10FFFF)))) for _ in range(200)),
        lambda: rng.choice(("NaN", "nan", "inf", "None", "1e999", "-0", "TRUE", "=1+1", "@SUM(A1)", "'=x")),
        lambda: (base + " ") * min(n, 600),
        lambda: "".join(rng.sample(base, len(base))),
        lambda: base.replace(" ", rng.choice(("", "\0", "\u200b", "\x0b", "\u2028", '"', "'", ",", "\t"))),
        lambda: "e\u0301" * n + base,
        lambda: "Patient: " + "A. " * n + base,
        lambda: "http://" + "a." * n + " " + "a@" * n,
        lambda: "".join(rng.choice(("Dr ", "Juan ", "de ", "la ", "Pérez ", "12 ", "mm ", ". ", ":", "\n")) for _ in range(n)),
    )  # fmt: skip
    made = rng.choice(kinds)()
    if rng.random() < 0.0003:
        made = (made + " ") * (2**20 // (len(made) + 1))  # a megabyte
    return made


def _value(rng: random.Random, depth: int = 0) -> Any:
    """Return what may stand in JSON."""
    how = rng.random()
    if how < 0.5:
        return _cell(rng)
    if how < 0.7:
        return rng.choice((None, True, 0, -1, 2**70, 1e308, float("nan"), float("inf"), 0.1))
    if how < 0.85 and depth < 3:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if depth < 3:
        return {rng.choice(("text", "div", "a", "")): _value(rng, depth + 1)}
    deep: Any = "x"
    for _ in range(rng.choice((10, 900))):
        deep = [deep]
    return deep


def row_case(rng: random.Random, folder: Path) -> None:
    """Read a mutated table, FHIR file or text, and each report in it as curation does."""
    kind = rng.choice(("csv", "tsv", "json", "jsonl", "fhir", "text", "text", "bytes"))
    texts = {
        "csv": _of_table, "tsv": _of_table, "json": _of_table, "jsonl": _of_table,
        "bytes": _of_bytes, "fhir": _of_fhir, "text": _of_text,
    }[kind](rng, kind, folder)  # fmt: skip
    for text in itertools.islice(texts, 3):
        _read_text(text, rng)


def _read_text(text: str, rng: random.Random) -> None:
    from medfinder.curate.labels import canonical_labels
    from medfinder.curate.texts import TextConfig, Words, read_text
    from medfinder.report.findings import extract_findings
    from medfinder.search.question import read_question

    text = text.encode("utf-8", "ignore").decode()  # as curation stores it
    words = Words(
        text, translation=text if rng.random() < 0.3 else "", labels=(text[:500], "nodule")
    )
    read = read_text(words, TextConfig())
    json.loads(read.to_json())
    read.to_json().encode()
    if len(text) < 20_000:
        extract_findings(text)
        read_question(text[:1000])
    canonical_labels((text[:2000],))


def _of_text(rng: random.Random, kind: str, folder: Path) -> Iterator[str]:
    text = _cell(rng)
    (folder / "t.txt").write_bytes(text.encode("utf-8", "surrogatepass"))  # should it fail
    yield text


def _of_table(rng: random.Random, kind: str, folder: Path) -> Iterator[str]:
    from medfinder.curate.sources.folder import FolderSource
    from medfinder.curate.sources.source import Facts
    from medfinder.curate.tables import read_table

    path = folder / f"t.{kind}"
    names = ["file", "report", "patient_id", "age", "sex", "date"]
    if rng.random() < 0.2:
        names[rng.randrange(len(names))] = _cell(rng)[:100]
    if kind in ("csv", "tsv"):
        sign = "," if kind == "csv" else "\t"
        lines = [sign.join(names)]
        for _ in range(rng.choice((0, 1, 3))):
            cells = [_cell(rng) for _ in range(rng.choice((6, 6, 6, 5, 9)))]
            if rng.random() < 0.7:
                cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
            lines.append(sign.join(cells))
        path.write_bytes("\n".join(lines).encode(rng.choice(("utf-8", "utf-16")), "replace"))
    else:
        rows = [{name: _value(rng) for name in names} for _ in range(rng.choice((1, 3)))]
        if kind == "json":
            made: Any = rows if rng.random() < 0.7 else rng.choice((rows[0], {"rows": rows}, 1, []))
            path.write_text(json.dumps(made))
        else:
            path.write_text("\n".join(json.dumps(row) for row in rows))
    FolderSource(folder, path)
    table = read_table(path)
    for row in table.rows:
        cells = {name: table.get(row, name) for name in table.columns}
        facts = Facts.merge(cells, {}, fallback_id="x")
        yield facts.text


def _of_bytes(rng: random.Random, kind: str, folder: Path) -> Iterator[str]:
    """Damage the bytes of a sound table."""
    from medfinder.curate.tables import read_table

    suffix = rng.choice(("csv", "json", "jsonl", "xlsx"))
    rows = [{"file": f"{n}.nii.gz", "report": text} for n, text in enumerate(_SOUND)]
    if suffix == "csv":
        body = b"file,report\n" + b"\n".join(f'{r["file"]},"{r["report"]}"'.encode() for r in rows)
    elif suffix == "xlsx":
        body = _sheet()
    else:
        body = json.dumps(rows).encode()
        body = body if suffix == "json" else b"\n".join(json.dumps(r).encode() for r in rows)
    data = bytearray(body)
    for _ in range(rng.choice((1, 3, 10))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    path = folder / f"t.{suffix}"
    path.write_bytes(bytes(data))
    table = read_table(path)
    yield from (table.get(row, "text") for row in table.rows)


@cache
def _sheet() -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (("file", "report"), ("1.nii.gz", _SOUND[0]), ("2.nii.gz", _SOUND[1])):
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _of_fhir(rng: random.Random, kind: str, folder: Path) -> Iterator[str]:
    from medfinder.curate.sources.reports import Reports
    from medfinder.curate.sources.reports_fhir import read_fhir

    def resource() -> Any:
        made: dict[str, Any] = {
            "resourceType": "DiagnosticReport",
            "id": "r1",
            "status": "final",
            "code": {"text": "CT"},
            "subject": {"reference": "Patient/p1", "display": "X"},
            "conclusion": _cell(rng),
            "issued": "2020-03-01T10:00:00Z",
            "presentedForm": [{"contentType": "text/html; charset=utf-8", "data": "PGI+eDwvYj4="}],
            "imagingStudy": [{"reference": "#i"}],
            "contained": [{"resourceType": "ImagingStudy", "id": "i", "status": "available",
                           "subject": {"reference": "Patient/p1"},
                           "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}]}],
        }  # fmt: skip
        for _ in range(rng.choice((0, 1, 2))):
            made[rng.choice(list(made))] = _value(rng)
        return made

    resources = [resource() for _ in range(rng.choice((1, 2)))]
    if rng.random() < 0.5:
        path = folder / "r.ndjson"
        path.write_text("\n".join(json.dumps(r) for r in resources))
    else:
        path = folder / "r.json"
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in resources]}  # fmt: skip
        path.write_text(json.dumps(bundle))
    rows = list(read_fhir(path))
    kept = Reports()
    kept.add(rows)
    list(kept.leftovers())
    yield from (row.text for row in rows if hasattr(row, "text"))


CASES: dict[str, Callable[[random.Random, Path], None]] = {
    "nifti": nifti_case,
    "dicom": dicom_case,
    "rows": row_case,
}


# -- running them ----------------------------------------------------------------------


def run_case(what: str, seed: int, number: int, folder: Path) -> tuple[str, str]:
    """Run one case in this process.

    Returns:
        "read", "refused" or "crashed" and what was raised; a case leaves nothing in `folder`
        unless it crashed.
    """
    rng = random.Random(f"{what}-{seed}-{number}")
    for path in folder.iterdir():
        path.unlink()
    try:
        CASES[what](rng, folder)
    except MedFinderError as error:
        return "refused", f"{type(error).__name__} {getattr(error, 'rule', '')}"
    except BaseException as error:
        return "crashed", f"{type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
    return "read", ""


def _bounded() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def _work(connection: Any, what: str, seed: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    run_case(what, seed, -1, folder)  # what is loaded once
    run_case(what, seed, -2, folder)
    _bounded()
    connection.send("ready")
    while (number := connection.recv()) is not None:
        start = time.process_time()
        outcome, note = run_case(what, seed, number, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        mib = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        allowed = HANG_S + HANG_S_A_MIB * mib
        connection.send((outcome, note, time.process_time() - start, allowed, peak))


class _Worker:
    """A process that runs cases one after the other."""

    def __init__(self, what: str, seed: int, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, what, seed, folder), daemon=True)
        self.process.start()
        theirs.close()
        assert self.connection.poll(600), "The worker did not start."
        assert self.connection.recv() == "ready"

    def run(self, number: int) -> tuple[str, str, float, int]:
        """Run a case; one that is not done in time, or that ends the process, is told so."""
        self.connection.send(number)
        try:
            # What counts is CPU time, since the machine has others at work.
            start, deadline = self._cpu_s(), time.monotonic() + 10 * LOST_S
            while not self.connection.poll(0.5):
                if self._cpu_s() > start + LOST_S or time.monotonic() > deadline:
                    return "hung", f"no answer in {LOST_S:g} s", LOST_S, 0
            outcome, note, seconds, allowed, peak = self.connection.recv()
        except (EOFError, OSError):
            return "crashed", f"the process ended: {self.process.exitcode}", 0.0, 0
        if seconds > allowed:
            return "hung", f"{seconds:.1f} s of CPU", seconds, peak
        return outcome, note, seconds, peak

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.join()


def fuzz(
    what: str,
    n: int,
    seed: int,
    found: Path,
    keep: Callable[[Row], None] = lambda row: None,
    row: Row | None = None,
) -> Row:
    """Run cases 0 … n - 1, and keep the files of those that crash or hang in `found`."""
    row = row or Row("fuzz", what)
    slowest, peak = row.outcomes.get("slowest_ms", 0) / 1e3, row.outcomes.get("peak_mib", 0)
    begun = time.monotonic() - row.seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        worker = _Worker(what, seed, Path(temporary) / "case")
        for number in range(row.tried, n):
            outcome, note, seconds, used = worker.run(number)
            slowest, peak = max(slowest, seconds), max(peak, used)
            if outcome in ("read", "refused"):
                row.add(f"survived: {outcome}")
            else:
                row.add(f"wrong: {outcome}", f"case {number}: {note}")
                target = found / str(number)
                target.mkdir(parents=True, exist_ok=True)
                (target / "note.txt").write_text(note)
                for path in worker.folder.iterdir():
                    os.replace(path, target / path.name)
                if outcome == "hung" or not worker.process.is_alive():
                    worker.stop()
                    worker = _Worker(what, seed, worker.folder)
            if number % 100 == 99 or number == n - 1:
                row.outcomes["slowest_ms"] = round(slowest * 1e3)
                row.outcomes["peak_mib"] = peak
                row.seconds = round(time.monotonic() - begun, 1)
                keep(row)
        worker.stop()
    return row
