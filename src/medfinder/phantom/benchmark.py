"""The benchmark as folders: one a split, with its volumes, tables, swaps and changed studies.

::

    benchmark.json          settings; another benchmark is refused
    train/ val/ test/ unseen-combinations/ unseen-pairs/ unseen-wording/ shifted/
        volumes/            unseen-wording has none: its table names those of test
        studies.csv         as `medfinder.phantom.phantom.write_phantoms` writes it
        truth.jsonl
        swaps.jsonl         one `medfinder.phantom.swaps.Swap` a line; not in train
    changed/                studies of test with one attribute changed
        volumes/ studies.csv truth.jsonl
        counterfactuals.jsonl

Every folder can be curated and indexed alone. What a split holds is `medfinder.phantom.splits`.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from medfinder.errors import ConfigError, UnknownName
from medfinder.phantom.chest import PhantomConfig, voxel_edge_mm
from medfinder.phantom.counterfactual import Counterfactual
from medfinder.phantom.phantom import (
    Job,
    Progress,
    ReportLanguage,
    Row,
    draw,
    keep_settings,
    spoken,
    write_lines,
    write_tables,
)
from medfinder.phantom.splits import (
    SPLITS,
    VOXEL_MM,
    BenchmarkStudy,
    benchmark_studies,
    counterfactual_pairs,
    has_unseen_combination,
    report_of,
)
from medfinder.phantom.swaps import Swap, attribute_swaps
from medfinder.phantom.wording import WordingConfig
from medfinder.records import Language
from medfinder.registry import unknown

SIZE: tuple[int, int, int] = (64, 96, 96)
"""The least size at which a voxel is no longer than `VOXEL_MM` in plane."""

FOLDERS = (*SPLITS, "changed")

Pair = tuple[BenchmarkStudy, BenchmarkStudy, Counterfactual]


def write_benchmark(
    folder: str | Path,
    n: int = 2000,
    seed: int = 1,
    *,
    n_val: int = 300,
    n_test: int = 500,
    n_swaps: int = 1000,
    size: tuple[int, int, int] = SIZE,
    masks: bool = False,
    language: ReportLanguage = "en",
    workers: int = 1,
    folders: Sequence[str] = FOLDERS,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write every split of the benchmark, and what is asked of it.

    The column ``split`` is ``train``, ``val``, and ``test`` in all other folders. Run again, it
    draws only what is missing; a larger `n` or `n_val` only adds.

    Args:
        folder: Made where absent.
        n: Studies to train on.
        n_test: Studies of each test split, and changed ones.
        n_swaps: At most, of each split that is not trained on.
        size: Voxels (D, H, W). Below `SIZE` in plane, findings start larger, so that the cases
            are others.
        masks: Also write the findings' masks.
        language: Of the reports; ``"mixed"`` draws one for each patient.
        workers: Processes, 0 for one a core; the bytes do not depend on it.
        folders: Those to write; others are left as they are. The table of ``unseen-wording`` names
            the volumes of ``test``.
        progress: Called with (done, all volumes) after each.

    Returns:
        How many studies each folder that was written holds.

    Raises:
        UnknownName: The benchmark has no such folder.
        ConfigError: A number or the size is out of range.
        InputError: `folder` is a file.
        Mismatch: The folder holds a benchmark of another seed, size or `n_test`, or of other cases,
            from another version.
    """
    if min(n, n_val, n_test) < 1 or n_swaps < 0 or workers < 0:
        raise ConfigError(
            "A benchmark needs n, n_val and n_test >= 1, n_swaps >= 0 and workers >= 0, got "
            f"n={n}, n_val={n_val}, n_test={n_test}, n_swaps={n_swaps}, workers={workers}.",
            rule="phantom",
        )
    for name in folders:
        if name not in FOLDERS:
            raise UnknownName(unknown("folder", name, list(FOLDERS)))
    PhantomConfig(size=size)  # refuses a size before anything is made
    folder = Path(folder)
    voxel_mm = max(VOXEL_MM, voxel_edge_mm(size))
    counts = {"train": n, "val": n_val}
    studies: dict[str, list[BenchmarkStudy]] = {
        split: benchmark_studies(split, counts.get(split, n_test), seed, voxel_mm=voxel_mm)
        for split in SPLITS
    }
    pairs = counterfactual_pairs(studies["test"], n_test, seed)
    # The changed studies depend on those of test, so n_test cannot grow.
    cases = hashlib.sha256(repr(studies["test"]).encode()).hexdigest()[:16]
    mark = {"seed": seed, "size": list(size), "n_test": n_test, "cases": cases}
    keep_settings(folder / "benchmark.json", mark)

    tables = {
        name: (_config(name, size), [_row(name, s, language, masks) for s in some])
        for name, some in [*studies.items(), ("changed", [b for _, b, _ in pairs])]
        if name in folders
    }
    jobs = [
        Job(folder / name, row, config)
        for name, (config, rows) in tables.items()
        for row in rows
        if not row.file.startswith("..")
    ]
    draw(jobs, workers, progress)
    for name, some in studies.items():
        if name != "train" and name in folders:
            swaps = _swaps(some, n_swaps, seed, language)
            write_lines(folder / name / "swaps.jsonl", map(dataclasses.asdict, swaps))
    if "changed" in folders:
        write_lines(
            folder / "changed" / "counterfactuals.jsonl", (_pair(pair, language) for pair in pairs)
        )
    for name, (config, rows) in tables.items():
        write_tables(folder / name, rows, config)
    return {name: len(rows) for name, (_, rows) in tables.items()}


def _config(name: str, size: tuple[int, int, int]) -> PhantomConfig:
    """Return how the studies of a folder are drawn and worded."""
    return PhantomConfig(
        size=size,
        acquisition="shifted" if name == "shifted" else "usual",
        wording=WordingConfig(sentences="unseen" if name == "unseen-wording" else "usual"),
    )


def _row(name: str, study: BenchmarkStudy, language: ReportLanguage, masks: bool) -> Row:
    # Only unseen-wording shares volumes: those of test.
    place = "" if study.volume_id == study.study_id else "../test/"
    day, _ = _draws(study)
    return Row(
        seed=study.seed,
        patient_id=study.patient_id,
        study_id=study.study_id,
        study_date=(date(2018, 1, 1) + timedelta(days=int(1800 * day))).isoformat(),
        language=_language(study, language),
        case=study.case,
        split=name if name in ("train", "val") else "test",
        file=f"{place}volumes/{study.volume_id}.nii.gz",
        mask=f"{place}masks/{study.volume_id}.nii.gz" if masks else None,
    )


def _draws(study: BenchmarkStudy) -> tuple[float, float]:
    day, spanish = (float(v) for v in np.random.default_rng([study.seed, 0xDA7E]).random(2))
    return day, spanish


def _language(study: BenchmarkStudy, language: ReportLanguage) -> Language:
    return spoken(language, _draws(study)[1])


def _swaps(
    studies: list[BenchmarkStudy], n: int, seed: int, language: ReportLanguage
) -> Iterator[Swap]:
    """Yield swaps of reports in the language that they have."""
    languages: tuple[Language, ...] = ("en", "es") if language == "mixed" else (language,)
    for one in languages:
        some = [s for s in studies if _language(s, language) == one]
        yield from attribute_swaps(some, n // len(languages), seed, language=one)


def _pair(pair: Pair, language: ReportLanguage) -> dict[str, Any]:
    original, changed, change = pair
    text, changed_text = (
        report_of(s, language=_language(original, language)) for s in (original, changed)
    )
    return {
        "study_id": original.study_id,
        "changed_id": changed.study_id,
        "name": change.name,
        "attribute": change.attribute,
        "before": change.before,
        "after": change.after,
        "text": text,
        "changed_text": changed_text,
        "is_told": text != changed_text,
        "is_unseen": has_unseen_combination(changed.case),
    }
