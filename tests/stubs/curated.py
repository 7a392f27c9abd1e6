"""Curated folders for tests: phantom reports in rows, written as the curation writes them."""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medfinder.artifact import Manifest, write_manifest
from medfinder.phantom.case import sample_case
from medfinder.phantom.wording import word
from medfinder.records import Doubt, Rejection, Report, Split, Study
from medfinder.report.findings import extract_findings
from medfinder.studies import digest, write_doubts, write_rejections, write_studies

REJECTIONS = (
    Rejection("sub-1/a.png", "other-modality", "An X-ray."),
    Rejection("sub-1/b.nii.gz", "truncated", "It ends early."),
    Rejection("sub-2/c.nii.gz", "truncated", "It ends early."),
    Rejection("row 7", "rule-of-tomorrow", "Not known yet."),
)


def phantom_studies(n: int, seed: int = 0, prefix: str = "S") -> list[Study]:
    """Return `n` studies of about n / 1.5 patients, without volumes on the disk.

    One in five has no report, the others are English, translated or untranslated Spanish; ages,
    sexes and makers are missing now and then; every seventh text is another study's too.
    """
    rng = random.Random(seed)
    studies: list[Study] = []
    for number in range(n):
        case = sample_case(seed * 100_003 + number)
        patient = f"P-{int(number / 1.5):05d}"
        kind = rng.choice(["en", "en", "es", "es-checked", "none"])
        english = word(case, number, "en")
        report = translation = None
        if kind == "en":
            report = Report(english, "en")
        elif kind != "none":
            report = Report(word(case, number, "es"), "es")
            translation = english if kind == "es-checked" else None
        if report and number % 7 == 3 and studies and studies[-1].report:
            report, translation = studies[-1].report, studies[-1].translation
        findings = extract_findings(report) if report else ()
        labels = tuple(dict.fromkeys(f.name for f in findings if f.status == "present"))
        studies.append(
            Study(
                study_id=f"{prefix}-{number:05d}",
                patient_id=patient,
                series_id=f"1.2.840.{number}",
                volume_path=f"/archive/secret/{number}.nii.gz" if number % 9 else "",
                volume_hash=f"{number:064x}" if number % 9 else "",
                shape=(rng.randint(40, 400), 512, 512) if number % 9 else (0, 0, 0),
                spacing_mm=(rng.choice([0.625, 1.0, 1.25, 5.0]), 0.7, 0.7) if number % 9 else (0.0, 0.0, 0.0),
                report=report,
                findings=findings,
                translation=translation,
                labels=labels if number % 2 else (),
                sex=rng.choice(["F", "M", None]),
                age=rng.choice([None, *range(18, 95)]),
                study_date="2020-03-01",
                manufacturer=rng.choice(["SIEMENS", "GE", "a|b <i>", None]),
                body_part="chest",
                split=_split(patient),
                source="bimcv",
            )
        )  # fmt: skip
    return studies


def write_curated(
    folder: Path,
    studies: Iterable[Study],
    rejections: Iterable[Rejection] = (),
    doubts: Iterable[Doubt] = (),
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a finished folder of the curation."""
    studies, rejections = list(studies), list(rejections)
    folder.mkdir(parents=True, exist_ok=True)
    write_studies(folder / "studies.parquet", studies)
    write_rejections(folder / "rejections.parquet", rejections)
    write_doubts(folder / "doubts.parquet", list(doubts))
    content = ",".join(map(digest, studies))
    write_manifest(
        folder,
        Manifest(
            stage="curate",
            config={"source": "bimcv", **(config or {})},
            parents={"studies": f"{hash_of(content):016x}"},
            counts={"studies": len(studies), "rejections": len(rejections)},
            package_version="0",
        ),
    )
    return folder


def hash_of(text: str) -> int:
    """Return 64 bits of `text`, the same in every process."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _split(patient: str) -> Split | None:
    splits: tuple[Split | None, ...] = ("train",) * 7 + ("val", "test", None)
    return splits[hash_of(patient) % 10]
