"""The queries answered lowest, to look at: each text, its own CT, and the CTs that were found in its place.

A page of its own, ``worst.html``, that needs no other file: it holds report texts and slices, which the
report with the numbers does not, so that one can be given out without the other. A CT is shown by its
middle axial slice, -1000..300 HU, anterior up and the patient's right on the left. Where no CT of these
queries can be read, there is no page.
"""

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import atomic_write
from medfinder.benchmark.entrant import Entrant, seat
from medfinder.benchmark.page import document
from medfinder.benchmark.protocols import ask, protocols
from medfinder.benchmark.reference import Reference
from medfinder.benchmark.results import Scores
from medfinder.benchmark.task import of_entrant
from medfinder.errors import InputError
from medfinder.volume.read import read_study
from medfinder.volume.volume import Volume

WORST = "worst.html"
PROTOCOL, WAY = "deduplicated", "report_to_volume"
N_QUERIES, N_FOUND = 8, 3
WINDOW_HU = (-1000.0, 300.0)
MOST_PIXELS = 160
"""Along the longer edge; a slice with more is averaged."""
_STYLE = """
.row{display:flex;flex-wrap:wrap;gap:.8rem}.row figure{margin:.4rem 0;width:11rem}
.row img{width:100%;image-rendering:auto;background:#000}blockquote{margin:.5rem 0;padding-left:1rem;border-left:3px solid var(--rule)}
.own figcaption{font-weight:600}
""".strip()


@dataclass(frozen=True, slots=True)
class Shown:
    """A study on the page.

    Attributes:
        study_id: Of it.
        png: Its middle slice; b"" where its volume cannot be read.
        ratio: Width of a pixel over its height, in millimetres.
        why_not: Rule of the error where it cannot be read.
    """

    study_id: str
    png: bytes = b""
    ratio: float = 1.0
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Missed:
    """A query and what it found.

    Attributes:
        text: That asks.
        place: Of its own volume; the mean over the orders of tied ones.
        n_gallery: Volumes ranked.
        own: The study it belongs to.
        found: The first `N_FOUND`, best first.
    """

    text: str
    place: float
    n_gallery: int
    own: Shown
    found: tuple[Shown, ...]


def missed(
    entrant: Entrant, reference: Reference, scores: Scores, n: int = N_QUERIES
) -> list[Missed]:
    """Return the queries of `PROTOCOL` whose own volume stands lowest, worst first.

    Args:
        scores: Of the benchmark of this entrant on this reference.
        n: At most; queries whose own volume stands first are none.
    """
    known = scores.get((PROTOCOL, WAY, "MnR"))
    if known is None:
        return []
    places = {query: place for query, place in zip(known[0], known[2], strict=True) if place > 1}
    worst = sorted(places, key=lambda query: (-places[query], query))[:n]
    seated = seat(entrant, reference)
    (task,) = (one for one in ask(seated, protocols.get(PROTOCOL)) if one.way == WAY)
    row = {query: i for i, query in enumerate(task.query_ids)}
    block = of_entrant(task, seated)
    seen: dict[str, Shown] = {}

    def shown(study_id: str) -> Shown:
        if study_id not in seen:
            seen[study_id] = _shown(reference, study_id)
        return seen[study_id]

    made = []
    for query in worst:
        (line,) = block(row[query], row[query] + 1)
        first = np.argsort(-line, kind="stable")[:N_FOUND]
        made.append(
            Missed(
                text=reference.studies[reference.row[query]].text,
                place=places[query],
                n_gallery=len(task.gallery),
                own=shown(query),
                found=tuple(shown(reference.ids[task.gallery[j]]) for j in first),
            )
        )
    return made


def _shown(reference: Reference, study_id: str) -> Shown:
    try:
        volume = read_study(reference.studies[reference.row[study_id]], reference.check)
    except InputError as error:
        return Shown(study_id, why_not=error.rule)
    _, height, width = volume.spacing_mm
    return Shown(study_id, png(middle(volume)), width / height)


def middle(volume: Volume) -> NDArray[np.uint8]:
    """Return the middle axial slice as a reader sees it: (rows, columns) from anterior and from right."""
    lower, upper = WINDOW_HU
    hu = volume.hu[volume.hu.shape[0] // 2, ::-1, ::-1].astype(np.float32)
    step = -(-max(hu.shape) // MOST_PIXELS)
    starts = [np.arange(0, n, step) for n in hu.shape]
    counts = [np.diff([*at, n]) for at, n in zip(starts, hu.shape, strict=True)]
    small = np.add.reduceat(np.add.reduceat(hu, starts[0], 0), starts[1], 1)
    small /= counts[0][:, None] * counts[1]
    grey = (small - lower) / (upper - lower) * 255
    pixels: NDArray[np.uint8] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return (rows, columns) of grey as a PNG file.

    Source:
        PNG (ISO/IEC 15948), colour type 0 of 8 bits, every line with filter 0.
    """
    rows, columns = pixels.shape
    lines = np.zeros((rows, columns + 1), np.uint8)
    lines[:, 1:] = pixels

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def write_worst(out: Path, entrant: Entrant, reference: Reference, scores: Scores) -> Path | None:
    """Write ``worst.html``; None, and no file, where there is nothing to show."""
    path = out / WORST
    path.unlink(missing_ok=True)
    if not any(study.volume_path for study in reference.studies):
        return None
    found = missed(entrant, reference, scores)
    if not any(one.png for each in found for one in (each.own, *each.found)):
        return None
    with atomic_write(path) as file:
        file.write(to_html(entrant.name, found).encode())
    return path


def to_html(model: str, found: Sequence[Missed]) -> str:
    """Return the page."""
    title = f"Worst queries of {model}"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        "<p>Reports whose own CT stands lowest among all, report to volume, no two texts the same. The "
        "first picture is the report's own CT; the others were found first, best first. Middle axial "
        "slices, anterior up, the patient's right on the left. "
        "<strong>This page holds report texts and slices: handle it like the data.</strong></p>",
    ]
    for number, one in enumerate(found, 1):
        own = f"own: place {one.place:,.6g} of {one.n_gallery:,}"
        figures = [_figure(one.own, own, "own")]
        figures += [_figure(each, f"found {k}", "") for k, each in enumerate(one.found, 1)]
        body += [
            f"<h2>{number}. {html.escape(one.own.study_id)}</h2>",
            f"<blockquote>{html.escape(one.text)}</blockquote>",
            f'<div class="row">{"".join(figures)}</div>',
        ]
    return document(title, body, _STYLE)


def _figure(one: Shown, caption: str, mark: str) -> str:
    name = html.escape(one.study_id)
    if one.png:
        data = base64.b64encode(one.png).decode()
        rows, columns = struct.unpack(">II", one.png[16:24])[::-1]
        seen = (
            f'<img alt="Middle slice of {name}" src="data:image/png;base64,{data}" '
            f'style="aspect-ratio:{columns * one.ratio / rows:.4f}">'
        )
    else:
        seen = f"<p>No slice: {html.escape(one.why_not)}</p>"
    head = f' class="{mark}"' if mark else ""
    return f"<figure{head}>{seen}<figcaption>{html.escape(caption)}<br>{name}</figcaption></figure>"
