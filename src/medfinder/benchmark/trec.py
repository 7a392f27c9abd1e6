"""A benchmark's ranked lists and answers → TREC run and qrels files, for other evaluators."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medfinder.benchmark.entrant import Entrant, Seated, seat
from medfinder.benchmark.protocols import ask, protocols
from medfinder.benchmark.reference import Reference
from medfinder.benchmark.results import Results
from medfinder.benchmark.task import SIDES, Task, of_entrant
from medfinder.ranking.qrels import Qrels
from medfinder.ranking.run import Run

_MOST_QRELS = 2_000_000


def with_runs(
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
    items = [_trec(seated.reference.ids[i]) for i in task.gallery]
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
    items = [_trec(reference.ids[i]) for i in task.gallery]
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
