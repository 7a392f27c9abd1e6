"""Raw CTs and reports → ``studies.parquet`` and ``rejections.parquet``: never a crash, never silence.

Every volume is read and checked once. What was seen is appended to a journal, so a run that is
killed goes on where it stopped, and a second run over a grown archive reads only what is new.
Does not know where items come from (`sources`) nor what a sound volume is (`volume.checks`).
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import medfinder
from medfinder.artifact import MANIFEST, Manifest, write_manifest
from medfinder.config import config_hash, to_dict
from medfinder.curate.pseudonym import pseudonym, safe_ids
from medfinder.curate.sources.source import Facts, Source
from medfinder.errors import EmptyReport, InputError, MedFinderError
from medfinder.records import Finding, Rejection, Report, Study
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report
from medfinder.studies import write_rejections, write_studies
from medfinder.volume.checks import CheckConfig
from medfinder.volume.read import VolumeRef, read_ref

JOURNAL = "journal.jsonl"
# Reasons that may lie in the machine, not in the item: a later run tries these items again.
_PASSING = ("unreadable", "decoder-crash", "out-of-memory")


@dataclasses.dataclass(frozen=True, slots=True)
class CurateConfig:
    """Settings of ``medfinder curate``.

    Attributes:
        check: What a sound volume is.
        workers: Processes that read volumes; 0 for one a core.
        pseudonym_key: Site secret for `pseudonym`; not written to the manifest.
    """

    check: CheckConfig = dataclasses.field(default_factory=CheckConfig)
    workers: int = 0
    pseudonym_key: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Curated:
    """What a run of `curate` made.

    Attributes:
        folder: The artifact.
        n_studies: Rows of ``studies.parquet``.
        n_rejections: Rows of ``rejections.parquet``.
        by_rule: Rejections a rule.
    """

    folder: Path
    n_studies: int
    n_rejections: int
    by_rule: Mapping[str, int]


def curate(
    source: Source,
    out: Path,
    config: CurateConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Curated:
    """Read, check and pair everything `source` holds, and write the dataset to `out`.

    Args:
        progress: Called with (done, total) after each volume.

    Raises:
        InputError: Nothing usable was found; ``rejections.parquet`` is written all the same.
    """
    config = config or CurateConfig()
    start = time.monotonic()
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; studies need a folder. Give another path.")
    out.mkdir(parents=True, exist_ok=True)
    found = list(source.items())
    rejections = [item for item in found if isinstance(item, Rejection)]
    refs = []
    for item in found:
        if isinstance(item, Rejection):
            continue
        if _is_utf8(item.path):
            refs.append(item)
        else:
            reason = (
                "The name, or a folder's above it, is not UTF-8 and cannot be stored. Rename it."
            )
            rejections.append(Rejection(item.item, "bad-name", reason))
    seen = _inspect_all(refs, out / JOURNAL, config, progress)

    candidates: list[tuple[VolumeRef, Mapping[str, Any], Facts]] = []
    for ref in refs:
        inspection = seen[ref.item]
        try:
            facts = source.facts(ref, inspection.get("tags", {}))
        except InputError as error:
            rejections.append(Rejection(ref.item, error.rule, str(error)))
            continue
        if "rule" in inspection:
            rejections.append(Rejection(ref.item, inspection["rule"], inspection["reason"]))
        else:
            candidates.append((ref, inspection, facts))
    rejections += source.leftovers()
    candidates, more = _one_volume_a_study(candidates, config)
    rejections += more
    study_ids = safe_ids(_study_name(facts, config) for _, _, facts in candidates)
    patient_ids = safe_ids(_patient_name(facts, config) for _, _, facts in candidates)
    studies = sorted(
        (
            _study(
                ref,
                inspection,
                facts,
                study_ids[_study_name(facts, config)],
                patient_ids[_patient_name(facts, config)],
                source.name,
            )
            for ref, inspection, facts in candidates
        ),
        key=lambda study: study.study_id,
    )
    rejections.sort(key=lambda r: (r.item, r.rule))

    (out / MANIFEST).unlink(missing_ok=True)
    write_rejections(out / "rejections.parquet", rejections)
    write_studies(out / "studies.parquet", studies)
    by_rule: dict[str, int] = {}
    for rejection in rejections:
        by_rule[rejection.rule] = by_rule.get(rejection.rule, 0) + 1
    if not studies and not rejections:
        raise InputError(
            "Nothing usable: no NIfTI file and no DICOM series was found. Check the path.",
            rule="nothing-usable",
        )
    if not studies:
        raise InputError(
            f"Nothing usable: 0 studies, {len(rejections)} rejected. "
            f"See {str(out / 'rejections.parquet')!r} for the reason of each.",
            rule="nothing-usable",
        )
    settings = to_dict(config)
    settings["pseudonym_key"] = "set" if config.pseudonym_key else ""
    del settings["workers"]
    write_manifest(
        out,
        Manifest(
            stage="curate",
            config={"source": source.name, **settings},
            parents={"studies": _content(studies)},
            counts={"studies": len(studies), "rejections": len(rejections)},
            duration_s=round(time.monotonic() - start, 3),
            package_version=medfinder.__version__,
        ),
    )
    return Curated(out, len(studies), len(rejections), dict(sorted(by_rule.items())))


def _is_utf8(path: Path) -> bool:
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        return False
    return True


def inspect(ref: VolumeRef, check: CheckConfig) -> dict[str, Any]:
    """Read one volume and return what a study needs of it, or why it cannot be one.

    Returns:
        ``{"shape", "spacing_mm", "hash", "series_id", "tags", "warnings"}`` or
        ``{"rule", "reason"}``; plain JSON types.
    """
    try:
        volume = read_ref(ref, check)
        return {
            "shape": list(volume.shape),
            "spacing_mm": [round(s, 4) for s in volume.spacing_mm],
            "hash": volume.content_hash,
            "series_id": volume.series_id,
            "tags": {k: v for k, v in volume.tags.items() if isinstance(v, (str, int, float))},
            "warnings": list(volume.warnings),
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


def _inspect_all(
    refs: list[VolumeRef],
    journal: Path,
    config: CurateConfig,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Mapping[str, Any]]:
    header = {"journal": 1, "check": config_hash(config.check), "version": medfinder.__version__}
    known = _read_journal(journal, header)
    # The settings are part of a mark, so that two runs at once cannot take each other's lines.
    run = header["check"]
    marks = {ref.item: f"{run}-{fingerprint(ref)}" for ref in refs}
    seen: dict[str, Mapping[str, Any]] = {
        ref.item: known[ref.item][1]
        for ref in refs
        if ref.item in known
        and known[ref.item][0] == marks[ref.item]
        and known[ref.item][1].get("rule") not in _PASSING
    }
    todo = [ref for ref in refs if ref.item not in seen]
    n_done = len(refs) - len(todo)
    with journal.open("ab") as file:
        for ref, inspection in _parallel(todo, config):
            line = {"item": ref.item, "mark": marks[ref.item], "seen": inspection}
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            seen[ref.item] = inspection
            n_done += 1
            if progress:
                progress(n_done, len(refs))
    return seen


def _read_journal(
    path: Path, header: Mapping[str, Any]
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the last line of each item; start a new journal where the old one is of another run."""
    entries: dict[str, tuple[str, Mapping[str, Any]]] = {}
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    try:
        same = bool(lines) and json.loads(lines[0]) == header
    except ValueError:
        same = False
    if not same:
        path.touch(mode=0o600)  # it holds raw numbers of patients: for its owner's eyes
        path.chmod(0o600)
        path.write_bytes(json.dumps(header).encode() + b"\n")
        return entries
    for line in lines[1:]:
        try:
            entry = json.loads(line)
            entries[entry["item"]] = (entry["mark"], entry["seen"])
        except (ValueError, KeyError, TypeError):
            continue  # the line that a kill cut short: its item is read again
    if lines[-1]:
        with path.open("ab") as file:
            file.write(b"\n")
    return entries


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


def _parallel(
    todo: list[VolumeRef], config: CurateConfig
) -> Iterator[tuple[VolumeRef, Mapping[str, Any]]]:
    """Inspect in worker processes, a bounded number at once, in order of completion.

    A decoder that takes its process down takes only its own item: what was in flight is tried
    again, each in a process of its own, and the one that falls again is rejected.
    """
    n_workers = min(config.workers or os.cpu_count() or 1, max(1, len(todo)))
    waiting = iter(todo)
    suspects: list[VolumeRef] = []
    exhausted = False
    while not exhausted:
        exhausted = True
        with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
            flying: dict[Future[dict[str, Any]], VolumeRef] = {}
            broken = False
            while not broken:
                for ref in waiting:
                    try:
                        future = pool.submit(inspect, ref, config.check)
                    except BrokenProcessPool:
                        suspects.append(ref)
                        broken = True
                        break
                    flying[future] = ref
                    if len(flying) >= 2 * n_workers:
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
        yield from _alone(suspects, config)
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
    suspects: Iterable[VolumeRef], config: CurateConfig
) -> Iterator[tuple[VolumeRef, Mapping[str, Any]]]:
    for ref in suspects:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                yield ref, pool.submit(inspect, ref, config.check).result()
            except BrokenProcessPool:
                yield (
                    ref,
                    {
                        "rule": "decoder-crash",
                        "reason": "The decoder crashed on this item, twice: the file is damaged.",
                    },
                )


def _study_name(facts: Facts, config: CurateConfig) -> str:
    if not facts.study_id and facts.raw_study_id:
        return pseudonym("S", facts.raw_study_id, config.pseudonym_key)
    return facts.study_id or facts.fallback_id


def _patient_name(facts: Facts, config: CurateConfig) -> str:
    if not facts.patient_id and facts.raw_patient_id:
        return pseudonym("P", facts.raw_patient_id, config.pseudonym_key)
    return facts.patient_id or _study_name(facts, config)


def _one_volume_a_study(
    candidates: list[tuple[VolumeRef, Mapping[str, Any], Facts]], config: CurateConfig
) -> tuple[list[tuple[VolumeRef, Mapping[str, Any], Facts]], list[Rejection]]:
    """Keep, of equal volumes the first, and of a study's series the one with most slices."""
    rejections: list[Rejection] = []
    by_hash: dict[str, str] = {}
    by_study: dict[str, list[tuple[VolumeRef, Mapping[str, Any], Facts]]] = {}
    for candidate in candidates:
        ref, inspection, facts = candidate
        first = by_hash.setdefault(inspection["hash"], ref.item)
        if first != ref.item:
            rejections.append(
                Rejection(
                    ref.item, "duplicate-volume", f"The same voxels as {first}, which is kept."
                )
            )
            continue
        by_study.setdefault(_study_name(facts, config), []).append(candidate)
    kept = []
    for group in by_study.values():
        best = min(group, key=lambda c: (-c[1]["shape"][0], c[0].item))
        kept.append(best)
        for ref, inspection, _ in group:
            if ref is not best[0]:
                rejections.append(
                    Rejection(
                        ref.item,
                        "other-series",
                        f"Another series represents this study: {best[0].item}, with "
                        f"{best[1]['shape'][0]} slices against {inspection['shape'][0]}.",
                    )
                )
    return kept, rejections


def _study(
    ref: VolumeRef,
    inspection: Mapping[str, Any],
    facts: Facts,
    study_id: str,
    patient_id: str,
    source: str,
) -> Study:
    report: Report | None = None
    findings: tuple[Finding, ...] = ()
    # "-" and its like clean to nothing: a study without a report.
    with contextlib.suppress(EmptyReport):
        report = parse_report(facts.text)
        findings = extract_findings(report)
    d, h, w = inspection["shape"]
    sd, sh, sw = inspection["spacing_mm"]
    return Study(
        study_id=study_id,
        patient_id=patient_id,
        series_id=inspection["series_id"],
        volume_path=str(ref.path.resolve()),
        volume_hash=inspection["hash"],
        shape=(d, h, w),
        spacing_mm=(sd, sh, sw),
        report=report,
        findings=findings,
        sex=facts.sex,
        age=facts.age,
        study_date=facts.study_date,
        manufacturer=facts.manufacturer,
        body_part=facts.body_part,
        split=facts.split,
        source=source,
    )


def _content(studies: list[Study]) -> str:
    digest = hashlib.sha256()
    for study in studies:
        plain = dataclasses.asdict(study)
        del plain["volume_path"]  # a dataset that moves is the same dataset
        digest.update(json.dumps(plain, sort_keys=True).encode())
    return digest.hexdigest()[:16]
