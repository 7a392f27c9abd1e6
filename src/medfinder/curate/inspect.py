"""Volumes → what a study needs of them, in worker processes that may fall without the run's falling."""

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from medfinder.curate.deidentify_dicom import burned_in_risk, known_strings
from medfinder.curate.similar import thumbnail
from medfinder.errors import InputError, MedFinderError
from medfinder.volume.checks import CheckConfig
from medfinder.volume.read import VolumeRef, read_ref

# Reasons that may lie in the machine, not in the item: a later run tries these items again.
PASSING = ("unreadable", "decoder-crash", "out-of-memory")


def inspect(ref: VolumeRef, check: CheckConfig) -> dict[str, Any]:
    """Read one volume and return what a study needs of it, or why it cannot be one.

    Returns:
        ``{"shape", "spacing_mm", "hash", "series_id", "tags", "warnings", "sketch"}`` and, of DICOM,
        ``{"known", "burned_in"}``; or ``{"rule", "reason"}``; plain JSON types. ``known`` are the
        names and numbers of persons in the header, by which a report is de-identified;
        ``burned_in`` says why pixels may name somebody, or is null; ``sketch`` is the `thumbnail`, base64 of
        little-endian int16.
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
    except MemoryError:
        return {"rule": "out-of-memory", "reason": "The volume does not fit in memory."}
    except Exception as error:  # a decoder's own failure is this item's, not the run's
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
    todo: Iterable[VolumeRef], check: CheckConfig, workers: int
) -> Iterator[tuple[VolumeRef, Mapping[str, Any]]]:
    """Inspect in worker processes, a bounded number at once, in order of completion.

    A decoder that takes its process down takes only its own item: what was in flight is tried
    again, each in a process of its own, and the one that falls again is rejected.

    Args:
        workers: Processes, at least one.

    Raises:
        InputError: Processes cannot even start (rule ``no-workers``).
    """
    waiting = iter(todo)
    suspects: list[VolumeRef] = []
    exhausted = False
    while not exhausted:
        exhausted = True
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            flying: dict[Future[dict[str, Any]], VolumeRef] = {}
            broken = False
            while not broken:
                for ref in waiting:
                    try:
                        future = pool.submit(inspect, ref, check)
                    except BrokenProcessPool:
                        suspects.append(ref)
                        broken = True
                        break
                    flying[future] = ref
                    if len(flying) >= 2 * workers:
                        break
                if broken or not flying:
                    break
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    ref = flying.pop(future)
                    try:
                        yield ref, future.result()
                    except BrokenProcessPool:
                        suspects.append(ref)
                        broken = True
            if broken:
                _check_workers()
                suspects += flying.values()
                exhausted = False
        yield from _alone(suspects, check)
        suspects = []


def _check_workers() -> None:
    """Tell processes that fall because of an item from processes that cannot even start."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise InputError(
                "Worker processes cannot start. In a script, call this below "
                "\"if __name__ == '__main__':\", and run the script from a file.",
                rule="no-workers",
            ) from None


def _alone(
    suspects: Iterable[VolumeRef], check: CheckConfig
) -> Iterator[tuple[VolumeRef, Mapping[str, Any]]]:
    for ref in suspects:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                yield ref, pool.submit(inspect, ref, check).result()
            except BrokenProcessPool:
                yield (
                    ref,
                    {
                        "rule": "decoder-crash",
                        "reason": "The decoder crashed on this item, twice: the file is damaged.",
                    },
                )
