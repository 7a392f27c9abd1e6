"""Volumes → what a study needs of them, by workers that may fall without the run's falling."""

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from medfinder.curate.deidentify_dicom import burned_in_risk, known_strings
from medfinder.curate.similar import thumbnail
from medfinder.errors import MedFinderError
from medfinder.scale.engine import Engine, Failure, Step, may_pass
from medfinder.volume.checks import CheckConfig
from medfinder.volume.read import VolumeRef, read_ref

# Reasons that may lie in the machine, not in the item: a later run tries these items again.
PASSING = ("unreadable", "decoder-crash", "out-of-memory", "too-slow")


def inspect(ref: VolumeRef, check: CheckConfig) -> dict[str, Any]:
    """Read one volume and return what a study needs of it, or why it cannot be one.

    Returns:
        ``{"shape", "spacing_mm", "hash", "series_id", "tags", "warnings", "sketch"}`` and, of DICOM,
        ``{"known", "burned_in"}``; or ``{"rule", "reason"}``; plain JSON types. ``known`` are the
        names and numbers of persons in the header, by which a report is de-identified;
        ``burned_in`` says why pixels may name somebody, or is null; ``sketch`` is the `thumbnail`, base64 of
        little-endian int16.

    Raises:
        OSError, MemoryError: What may be otherwise another time.
    """
    try:
        volume = read_ref(ref, check)
        sketch = thumbnail(volume)
        return {
            "shape": list(volume.shape),
            "spacing_mm": [round(s, 4) for s in volume.spacing_mm],
            "hash": volume.content_hash,
            "series_id": volume.series_id,
            "tags": {k: v for k, v in volume.tags.items() if isinstance(v, (str, int, float))},
            "warnings": list(volume.warnings),
            **_header(ref),
            "sketch": base64.b64encode(sketch.astype("<i2").tobytes()).decode(),
        }
    except MedFinderError as error:
        return {"rule": getattr(error, "rule", "unreadable"), "reason": str(error)}
    except Exception as error:  # a decoder's own failure is this item's, not the run's
        if may_pass(error):
            raise
        return {
            "rule": "unreadable",
            "reason": f"The decoder failed with {type(error).__name__}: export the series again.",
        }


def _header(ref: VolumeRef) -> dict[str, Any]:
    """Return who a DICOM header speaks of, and whether its pixels may; nothing of a NIfTI file."""
    if ref.kind != "dicom":
        return {}
    import pydicom

    file = next(iter(ref.files), None) or ref.path
    if file.is_dir():
        file = min(path for path in file.rglob("*") if path.is_file())
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        return {"known": known_strings(header), "burned_in": burned_in_risk(header)}
    except Exception:  # it was read as a volume: what pydicom makes of it is a bonus
        return {}


def fingerprint(ref: VolumeRef) -> str:
    """Return a mark that changes when the item's files do: names, sizes and times of change."""
    digest = hashlib.sha256()
    files = list(ref.files)
    if not files and ref.path.is_file():
        files = [ref.path]
    elif not files:
        files = sorted(p for p in ref.path.rglob("*") if p.is_file())
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        mark = f"\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        digest.update(os.fsencode(file.name) + mark.encode())
    return digest.hexdigest()[:16]


def inspect_all(
    todo: Iterable[VolumeRef], check: CheckConfig, engine: Engine
) -> Iterator[tuple[VolumeRef, Mapping[str, Any]]]:
    """Inspect many volumes, in order of completion.

    Args:
        engine: One whose workers may fall: a decoder that takes its process down is tried again,
            and rejected when it does so every time.

    Raises:
        InputError: Processes cannot even start (rule ``no-workers``).
    """
    step = Step(partial(partial, _inspect, check))
    with contextlib.closing(engine.map(todo, [step], ordered=False)) as stream:
        for ref, seen in stream:
            yield ref, _told(seen) if isinstance(seen, Failure) else seen


def _inspect(check: CheckConfig, ref: VolumeRef) -> dict[str, Any]:
    return inspect(ref, check)


def _told(failure: Failure) -> dict[str, Any]:
    if failure.rule == "worker-died":
        times = f"{failure.attempts} times"
        return {
            "rule": "decoder-crash",
            "reason": f"The decoder crashed on this item, {times}: the file is damaged.",
        }
    if failure.rule == "out-of-memory":
        return {"rule": "out-of-memory", "reason": "The volume does not fit in memory."}
    if failure.rule == "too-slow":
        return {"rule": failure.rule, "reason": failure.reason}
    return {"rule": "unreadable", "reason": failure.reason}
