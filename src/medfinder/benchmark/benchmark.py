"""An entrant and the studies → numbers under every protocol: the stage behind ``medfinder benchmark``.

Model, ceiling and chance go through the same `measured`. What the data do not allow is told, never
skipped: a protocol asked by name that cannot be asked is an error, one of "all of them" is a row of
`Results.not_asked`.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import medfinder
from medfinder.artifact import MANIFEST, Manifest, read_manifest, write_manifest
from medfinder.benchmark import interval
from medfinder.benchmark.compare import check_comparable, compare, grouped
from medfinder.benchmark.entrant import Entrant, Seated, Side, seat
from medfinder.benchmark.protocols import Protocol, ask, protocols
from medfinder.benchmark.reference import Reference, Rows
from medfinder.benchmark.results import (
    Asked,
    Figure,
    Judged,
    NotAsked,
    Results,
    ScoreRow,
    read_results,
    read_scores,
    write_results,
    write_scores,
)
from medfinder.benchmark.space import Space, describe
from medfinder.benchmark.task import (
    SIDES,
    Floats,
    Task,
    measured,
    of_ceiling,
    of_chance,
    of_entrant,
)
from medfinder.benchmark.trec import with_runs
from medfinder.config import to_dict
from medfinder.errors import ConfigError, InputError

CANNOT = (
    "no-query",
    "no-findings",
    "no-labels",
    "no-lobes",
    "no-sides",
    "pool-size",
    "wrong-side",
)
"""Rules that tell of a protocol which the data do not allow; any other error ends the run."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class BenchmarkConfig:
    """How it is measured.

    Attributes:
        n_draws: Of each interval.
        n_flips: Of each permutation test, whose p is at least 1 / (n_flips + 1).
        depth: Items of each query in the TREC run files; 0 to write none.
    """

    n_draws: int = 1000
    n_flips: int = 10_000
    depth: int = 100

    def __post_init__(self) -> None:
        for name, least in (("n_draws", 100), ("n_flips", 100), ("depth", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"Setting {name} of a benchmark must be at least {least}, got "
                    f"{getattr(self, name)}."
                )


def benchmark(
    entrant: Entrant,
    reference: Reference,
    names: Sequence[str] | None = None,
    config: BenchmarkConfig | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[Results, list[ScoreRow]]:
    """Measure an entrant, and return its numbers with every query's values.

    Args:
        names: Protocols; None for every one that the data allow.
        progress: Called with (done, total, protocol).

    Raises:
        UnknownName: No such protocol.
        InputError: As `seat`; and what a protocol that was named cannot be asked for, such as rules
            ``no-query``, ``no-findings``, ``no-labels``, ``no-lobes``, ``no-sides``, ``pool-size``,
            ``wrong-side``; rule ``nothing-asked`` where no protocol at all can be.
        Mismatch: As `seat`.
    """
    config = config or BenchmarkConfig()
    wanted = [protocols.get(name) for name in dict.fromkeys(names or protocols.names())]
    seated = seat(entrant, reference)
    judged: dict[str, Judged] = {}
    not_asked: dict[str, NotAsked] = {}
    rows: list[ScoreRow] = []
    for number, protocol in enumerate(wanted):
        if progress:
            progress(number, len(wanted), protocol.name)
        try:
            found, values = _judge(seated, protocol, config)
        except InputError as error:
            if names or error.rule not in CANNOT:
                raise
            not_asked[protocol.name] = NotAsked(error.rule, str(error))
            continue
        judged[protocol.name] = found
        rows += values
    if not judged:
        told = "; ".join(f"{name}: {why.rule}" for name, why in not_asked.items())
        raise InputError(
            f"No protocol can be asked of these vectors and studies ({told}). Name one with "
            "--protocol to read why.",
            rule="nothing-asked",
        )
    if progress:
        progress(len(wanted), len(wanted), "done")
    has_text = reference.has_text
    return (
        Results(
            model=entrant.name,
            model_id=entrant.model_id,
            dim=entrant.dim if seated.is_dense else 0,
            reference=reference.hash,
            n_studies=len(reference),
            n_patients=len(set(reference.patients)),
            n_texts=int(has_text.sum()),
            n_distinct_texts=len(np.unique(reference.text_key[has_text])),
            left_out={why: len(ids) for why, ids in (entrant.left_out or {}).items() if ids},
            n_draws=config.n_draws,
            protocols=judged,
            not_asked=not_asked,
            notes=_notes(seated),
            space=_space(seated),
        ),
        rows,
    )


def _notes(seated: Seated) -> tuple[str, ...]:
    """Tell what makes a score hard to read, if anything does."""
    reference = seated.reference
    if "text" not in seated.at or not seated.is_dense:
        return ()
    rows = seated.rows("text")
    vectors = seated.vectors("text", rows)
    n_unequal = n_shared = 0
    order = np.argsort(reference.text_key[rows], kind="stable")
    _, starts = np.unique(reference.text_key[rows][order], return_index=True)
    for group in np.split(order, starts[1:]):
        if len(group) > 1:
            n_shared += 1
            n_unequal += not np.allclose(vectors[group], vectors[group[0]], atol=1e-4)
    if not n_unequal:
        return ()
    return (
        f"{n_unequal} of {n_shared} texts that several studies share have unequal vectors. A text "
        "encoder gives one text one vector; where it draws a window of the text, or its vectors know "
        "the study, scores may pass the ceiling.",
    )


def _space(seated: Seated) -> Space | None:
    """Describe the vectors' space, over the studies that have all sides."""
    sides: list[Side] = [side for side in ("volume", "text") if side in seated.at]
    if not sides or not seated.is_dense:
        return None
    rows = seated.rows(sides[0])
    for side in sides[1:]:
        rows = np.intersect1d(rows, seated.rows(side))
    return describe({side: seated.vectors(side, rows) for side in sides})


def _judge(
    seated: Seated, protocol: Protocol, config: BenchmarkConfig
) -> tuple[Judged, list[ScoreRow]]:
    by_way: dict[str, list[Task]] = {}
    for task in ask(seated, protocol):
        by_way.setdefault(task.way, []).append(task)
    ways: dict[str, Asked] = {}
    rows: list[ScoreRow] = []
    for way, tasks in by_way.items():
        asked, values, patients = _measure(seated, tasks, config)
        primary = next(name for name in protocol.primary if name in asked.figures)
        ways[way] = dataclasses.replace(asked, primary=primary)
        ids = [query for task in tasks for query in task.query_ids]
        for name, own in values.items():
            rows += [
                ScoreRow(protocol.name, way, name, query, patient, float(value))
                for query, patient, value in zip(ids, patients, own, strict=True)
            ]
    return (
        Judged(
            version=protocol.version,
            asks=protocol.asks,
            relevance=protocol.relevance,
            ties=protocol.tie_rule,
            known=protocol.known,
            assumed=protocol.assumed,
            ways=ways,
        ),
        rows,
    )


def _measure(
    seated: Seated, tasks: Sequence[Task], config: BenchmarkConfig
) -> tuple[Asked, dict[str, Floats], list[str]]:
    """Measure the tasks of one direction together."""
    reference = seated.reference
    left_out: dict[str, int] = {}
    for task in tasks:
        for why, n in task.left_out.items():
            left_out[why] = left_out.get(why, 0) + n
    some = [task for task in tasks if task.n]
    if not some:
        some = [dataclasses.replace(tasks[0], left_out=left_out)]  # whose error tells all reasons
    kinds = ("value", "ceiling", "chance")
    parts: dict[str, list[dict[str, Floats]]] = {kind: [] for kind in kinds}
    for task in some:
        parts["value"].append(measured(task, None, seated))
        keys = (_input_key(reference, task, 0), _input_key(reference, task, 1))
        parts["ceiling"].append(measured(task, of_ceiling(task, *keys)))
        # Exact over all orders, but for AP@k, whose mean over them has no short form.
        drawn = any(name.startswith("AP@") for name in task.measures)
        even = task if drawn else dataclasses.replace(task, ties="expected")
        parts["chance"].append(measured(even, of_chance(even)))
    values, ceiling, chance = (
        {name: np.concatenate([part[name] for part in parts[kind]]) for name in some[0].measures}
        for kind in kinds
    )
    is_keyword = some[0].way == "keyword_to_volume"
    patients = [
        "" if is_keyword else reference.patients[i] for task in some for i in task.queries.tolist()
    ]
    if is_keyword:
        (task,) = some
        estimates = interval.over_pools(
            task, of_entrant(task, seated), values, reference.patient_key, config.n_draws
        )
        n_patients = len(np.unique(reference.patient_key[task.gallery]))
    else:
        estimates = {
            name: interval.over_queries(name, own, patients, config.n_draws)
            for name, own in values.items()
        }
        n_patients = len(set(patients))
    figures = {
        name: Figure(
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            ceiling=_middle(name, ceiling[name]),
            chance=_middle(name, chance[name]),
        )
        for name, estimate in estimates.items()
    }
    asked = Asked(
        n_queries=sum(task.n for task in some),
        n_gallery=max(len(task.gallery) for task in some),
        n_patients=n_patients,
        left_out=left_out,
        figures=figures,
    )
    return asked, values, patients


def _input_key(reference: Reference, task: Task, which: int) -> Rows | None:
    """Return what tells a task's queries (0) or items (1) apart as inputs."""
    side = SIDES[task.way][which]
    rows = task.queries if which == 0 else task.gallery
    if side == "keyword":
        return None
    return (reference.text_key if side == "text" else reference.volume_key)[rows]


def _middle(name: str, values: Floats) -> float:
    return float(np.median(values) if name == "MdR" else np.mean(values))


@dataclass(frozen=True, slots=True)
class Made:
    """What a run of `run_benchmark` wrote.

    Attributes:
        folder: The artifact.
        results: Its numbers.
        duration_s: Wall time.
    """

    folder: Path
    results: Results
    duration_s: float


def run_benchmark(
    entrant: Entrant,
    reference: Reference,
    out: str | Path,
    names: Sequence[str] | None = None,
    config: BenchmarkConfig | None = None,
    *,
    compare_with: Sequence[str | Path] = (),
    report: bool = True,
    progress: Progress | None = None,
) -> Made:
    """Measure an entrant and write the artifact: results, per-query scores, run files, report pages.

    The manifest is written last: a folder without one is unfinished, and the same call begins anew.

    Args:
        out: Folder; an earlier benchmark there is replaced.
        compare_with: Folders of other models, measured on the same studies.
        report: Whether to write the pages, with their pictures; one of them, ``worst.html``, holds
            report texts and slices.

    Raises:
        InputError, Mismatch, UnknownName: As `benchmark` and `compare`; Mismatch where `out` is
            another stage's folder.
    """
    from medfinder.benchmark.page import LATEX, MARKDOWN, PAGE, write_pages
    from medfinder.benchmark.worst import WORST, write_worst

    start = time.monotonic()
    config = config or BenchmarkConfig()
    out = Path(out)
    if (out / MANIFEST).exists():
        read_manifest(out, "benchmark")  # another stage's folder is not written over
    # Read before anything is measured: what is wrong with them shows at once.
    others = [(read_results(folder), read_scores(folder)) for folder in compare_with]
    check_comparable(entrant.name, reference.hash, [other for other, _ in others])
    results, rows = benchmark(entrant, reference, names, config, progress=progress)
    scores = grouped(rows)
    if others:
        made, notes = compare(results, scores, others, config.n_draws, config.n_flips)
        results = dataclasses.replace(results, comparisons=made, notes=(*results.notes, *notes))
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    for old in (*out.glob("runs/*.run"), *out.glob("runs/*.qrels")):
        old.unlink()
    if config.depth:
        results = with_runs(entrant, reference, results, out, config.depth)
    write_scores(out, rows)
    write_results(out, results)
    for page in (MARKDOWN, LATEX, PAGE, WORST):
        (out / page).unlink(missing_ok=True)
    if report:
        write_pages(out, [results, *(r for r, _ in others)], [scores, *(s for _, s in others)])
        write_worst(out, entrant, reference, scores)
    duration_s = round(time.monotonic() - start, 3)
    write_manifest(
        out,
        Manifest(
            stage="benchmark",
            config={**to_dict(config), "protocols": list(results.protocols)},
            parents={"reference": reference.hash, "model": entrant.model_id}
            | ({"studies": reference.source} if reference.source else {}),
            counts={
                "studies": len(reference),
                "protocols": len(results.protocols),
                "not_asked": len(results.not_asked),
                "scores": len(rows),
            },
            seed=0,
            duration_s=duration_s,
            package_version=medfinder.__version__,
        ),
    )
    return Made(out, results, duration_s)
