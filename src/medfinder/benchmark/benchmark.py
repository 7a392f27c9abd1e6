"""An entrant and the studies → numbers under every protocol: the stage behind ``medfinder benchmark``.

Model, ceiling and chance go through the same `measured`. What the data do not allow is told, never
skipped: a protocol asked by name that cannot be asked is an error, one of "all of them" is a row of
`Results.not_asked`.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import medfinder
from medfinder.artifact import MANIFEST, Manifest, read_manifest, write_manifest
from medfinder.benchmark import interval
from medfinder.benchmark.entrant import Entrant, Seated, seat
from medfinder.benchmark.protocols import Protocol, protocols
from medfinder.benchmark.reference import Reference, Rows
from medfinder.benchmark.results import (
    Asked,
    Comparison,
    Figure,
    Judged,
    NotAsked,
    Results,
    ScoreRow,
    Scores,
    read_results,
    read_scores,
    write_results,
    write_scores,
)
from medfinder.benchmark.task import (
    SIDES,
    Floats,
    Task,
    measured,
    of_ceiling,
    of_chance,
    of_entrant,
)
from medfinder.config import to_dict
from medfinder.errors import InputError, Mismatch
from medfinder.ranking.qrels import Qrels
from medfinder.ranking.run import Run
from medfinder.ranking.significance import bootstrap_interval, holm, permutation_test

Progress = Callable[[int, int, str], None]
_MOST_QRELS = 2_000_000


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
            if names:
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


def ask(seated: Seated, protocol: Protocol) -> list[Task]:
    """Return a protocol's questions that these vectors can answer.

    Raises:
        InputError: Rule ``wrong-side``: they answer none; and those of the protocol.
    """
    tasks = [task for task in protocol.tasks(seated, protocol) if _can(seated, task)]
    if not tasks:
        needs = sorted({side for way in protocol.ways for side in SIDES[way]})
        raise InputError(
            f"{protocol.name} needs vectors of {' and '.join(needs)} that lie in one space; "
            f"{seated.entrant.name} has those of {' and '.join(sorted(seated.entrant.sides))}.",
            rule="wrong-side",
        )
    return tasks


def _can(seated: Seated, task: Task) -> bool:
    return all(side in seated.entrant.sides for side in SIDES[task.way])


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


# --- two models


def compare(
    results: Results,
    scores: Scores,
    others: Sequence[tuple[Results, Scores]],
    n_draws: int = 1000,
    n_flips: int = 10_000,
) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Compare a model with others on the queries of every protocol that both were asked.

    By primary measures alone: the others say much the same, and correcting for hundreds of tests
    would find nothing. p-values are of paired permutation tests over patients, corrected by Holm's
    method for all that are made. Findings that ask are no patients, so keywords are not compared.
    Where two models did
    not answer the same queries of a protocol, a note says so.

    Returns:
        The comparisons, and the notes.

    Raises:
        Mismatch: The other model was measured on other studies, or no query of any protocol was
            answered by both.
        InputError: Rule ``same-name``: two of the models have one name.
    """
    _check_comparable(results.model, results.reference, [other for other, _ in others])
    made: list[Comparison] = []
    notes: list[str] = []
    for other, theirs in others:
        shared = [
            key
            for key in scores
            if key in theirs and key[1] != "keyword_to_volume" and _is_primary(results, key)
        ]
        same = [key for key in shared if scores[key][0] == theirs[key][0]]
        if not same:
            raise Mismatch(
                f"{other.model} and {results.model} share no protocol and measure with the same "
                "queries. Measure both on the same studies under the same protocols."
            )
        notes += [
            f"Not compared with {other.model}: {key[0]}, {key[1]}, whose queries are not the same "
            f"({len(scores[key][0])} here, {len(theirs[key][0])} there)."
            for key in shared
            if key not in same
        ]
        made += [
            _compared(key, scores[key], theirs[key], other.model, n_draws, n_flips) for key in same
        ]
    corrected = holm({str(i): one.p for i, one in enumerate(made)})
    return (
        tuple(dataclasses.replace(one, p_holm=corrected[str(i)]) for i, one in enumerate(made)),
        tuple(notes),
    )


def _is_primary(results: Results, key: tuple[str, str, str]) -> bool:
    protocol, way, measure = key
    return results.protocols[protocol].ways[way].primary == measure


def _check_comparable(name: str, reference: str, others: Sequence[Results]) -> None:
    names = [name, *(other.model for other in others)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"Two of the models are called {twice!r}. Name one of them with --name.",
            rule="same-name",
        )
    for other in others:
        if other.reference != reference:
            raise Mismatch(
                f"{other.model} was measured on other studies (reference {other.reference}, this "
                f"run {reference}), so its numbers cannot be compared. Measure both on one table "
                "and one split."
            )


def _compared(
    key: tuple[str, str, str],
    mine: tuple[list[str], list[str], list[float]],
    theirs: tuple[list[str], list[str], list[float]],
    other: str,
    n_draws: int,
    n_flips: int,
) -> Comparison:
    protocol, way, measure = key
    values, others = np.array(mine[2]), np.array(theirs[2])
    low = high = None
    if len(set(mine[1])) > 1:
        found = bootstrap_interval(values - others, mine[1], n_draws=n_draws)
        low, high = found.low, found.high
    p = permutation_test(values, others, mine[1], n_draws=n_flips)
    difference = float(np.mean(values - others))
    return Comparison(protocol, way, measure, other, difference, low, high, p, p)


# --- the stage


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
        report: Whether to write the pages, with their pictures.

    Raises:
        InputError, Mismatch, UnknownName: As `benchmark` and `compare`; Mismatch where `out` is
            another stage's folder.
    """
    from medfinder.benchmark.page import LATEX, MARKDOWN, PAGE, write_pages

    start = time.monotonic()
    config = config or BenchmarkConfig()
    out = Path(out)
    if (out / MANIFEST).exists():
        read_manifest(out, "benchmark")  # another stage's folder is not written over
    # Read before anything is measured: what is wrong with them shows at once.
    others = [(read_results(folder), read_scores(folder)) for folder in compare_with]
    _check_comparable(entrant.name, reference.hash, [other for other, _ in others])
    results, rows = benchmark(entrant, reference, names, config, progress=progress)
    scores = _grouped(rows)
    if others:
        made, notes = compare(results, scores, others, config.n_draws, config.n_flips)
        results = dataclasses.replace(results, comparisons=made, notes=(*results.notes, *notes))
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    for old in (*out.glob("runs/*.run"), *out.glob("runs/*.qrels")):
        old.unlink()
    if config.depth:
        results = _with_runs(entrant, reference, results, out, config.depth)
    write_scores(out, rows)
    write_results(out, results)
    for page in (MARKDOWN, LATEX, PAGE):
        (out / page).unlink(missing_ok=True)
    if report:
        write_pages(out, [results, *(r for r, _ in others)], [scores, *(s for _, s in others)])
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


def _grouped(rows: Sequence[ScoreRow]) -> Scores:
    found: Scores = {}
    for row in rows:
        ids, patients, values = found.setdefault((row.protocol, row.way, row.measure), ([], [], []))
        ids.append(row.query)
        patients.append(row.patient)
        values.append(row.value)
    return found


def _with_runs(
    entrant: Entrant, reference: Reference, results: Results, out: Path, depth: int
) -> Results:
    """Write TREC run and qrels files, and name them in the results.

    Questions of the same queries and gallery share a run file. A protocol whose queries have pools
    of their own has none; nor has one whose qrels would pass `_MOST_QRELS` lines. A grade in [0, 1]
    is written in hundredths.
    """
    seated = seat(entrant, reference)
    written: dict[tuple[str, bytes, bytes], str] = {}
    protocols_ = dict(results.protocols)
    for name, judged in results.protocols.items():
        ways = dict(judged.ways)
        for way, task in _whole(ask(seated, protocols.get(name))):
            key = (way, task.queries.tobytes(), task.gallery.tobytes())
            stem = f"{name}.{way}"
            if key not in written:
                written[key] = f"runs/{stem}.run"
                _write_run(seated, task, out / written[key], depth)
            qrels = f"runs/{stem}.qrels"
            if not _write_qrels(reference, task, out / qrels):
                qrels = ""
            ways[way] = dataclasses.replace(ways[way], run=written[key], qrels=qrels)
        protocols_[name] = dataclasses.replace(judged, ways=ways)
    return dataclasses.replace(results, protocols=protocols_)


def _whole(tasks: Sequence[Task]) -> Iterator[tuple[str, Task]]:
    """Yield the tasks that are alone in their direction and rank the whole gallery."""
    ways = [task.way for task in tasks]
    for task in tasks:
        if ways.count(task.way) == 1 and task.excluded is None and task.n:
            yield task.way, task


def _trec(name: str) -> str:
    return "_".join(name.split())  # a column of a TREC file ends at white space


def _write_run(seated: Seated, task: Task, path: Path, depth: int) -> None:
    queries = [_trec(name) for name in task.query_ids]
    items = [seated.reference.ids[i] for i in task.gallery]
    name = _trec(seated.entrant.name) or "medfinder"
    asking, answering = SIDES[task.way]
    if seated.is_dense:
        made = Run.from_vectors(
            queries,
            seated.vectors(asking, task.queries),
            items,
            seated.vectors(answering, task.gallery),
            min(depth, len(items)),
        )
    else:
        scores = of_entrant(task, seated)(0, task.n)
        made = Run.from_scores(queries, items, scores, min(depth, len(items)))
    path.parent.mkdir(exist_ok=True)
    made.write(path, name)


def _write_qrels(reference: Reference, task: Task, path: Path) -> bool:
    items = [reference.ids[i] for i in task.gallery]
    if task.relevant is None and task.n * len(items) > _MOST_QRELS:
        return False
    if task.relevant is not None and sum(map(len, task.relevant)) > _MOST_QRELS:
        return False

    def judged() -> Iterator[tuple[str, str, int]]:
        for i, query in enumerate(task.query_ids):
            if task.relevant is not None:
                for j in task.relevant[i]:
                    yield _trec(query), items[int(j)], 1
            else:
                assert task.grades is not None
                grades = np.rint(100 * task.grades(i, i + 1)[0]).astype(int)
                for j in np.flatnonzero(grades):
                    yield _trec(query), items[int(j)], int(grades[j])

    path.parent.mkdir(exist_ok=True)
    Qrels(judged()).write(path)
    return True
