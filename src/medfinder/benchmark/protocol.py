"""What a protocol is, and what protocols are made of: pools, answers, what is left out.

A protocol turns what is known of the studies into `Task`s; it never sees a score.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfinder.benchmark.entrant import Seated
from medfinder.benchmark.reference import Reference, Rows, asked_for
from medfinder.benchmark.task import SIDES, Floats, Task, Ties, Way, without_empty
from medfinder.errors import InputError
from medfinder.registry import Registry

Tasks = Callable[[Seated, "Protocol"], list[Task]]
BOTH: tuple[Way, ...] = ("report_to_volume", "volume_to_report")


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to judge retrieval.

    Attributes:
        name: The name a user types.
        version: Goes up whenever the same vectors may get another number.
        asks: In a sentence, for whoever reads the number.
        relevance: What counts as an answer, and what is in the pool.
        ways: What finds what.
        ties: See `Task`.
        tasks: Makes the questions for some studies and vectors.
        primary: Measures that speak for the protocol, in order: of each direction the first that it
            has is the one that models are compared by.
        known: What its source says, and where; "" for a protocol of our own.
        assumed: What its source leaves open, and what is done here.
    """

    name: str
    version: int
    asks: str
    relevance: str
    ways: tuple[Way, ...]
    tasks: Tasks
    primary: tuple[str, ...]
    ties: Ties = "expected"
    known: str = ""
    assumed: str = ""

    @property
    def tie_rule(self) -> str:
        """How items of one score are ordered, in words."""
        if self.ties == "row":
            return "of two items with one score, the one with the smaller study_id stands first"
        return "the mean over all orders that tied items can take"


protocols: Registry[Protocol] = Registry("protocol")


def add(protocol: Protocol) -> None:
    """File a protocol under its name."""
    protocols.register(protocol.name)(protocol)


def cross_task(
    seated: Seated,
    way: Way,
    measures: Sequence[str],
    ties: Ties,
    answers: Callable[[int, Rows], Rows],
    among: NDArray[np.bool_] | None = None,
) -> Task:
    """Ask for volumes by reports or the reverse.

    Args:
        answers: From a query's row and the gallery's rows to the gallery positions that answer.
        among: (N,) studies that take part; None for all.
    """
    asking, answering = SIDES[way]
    reference = seated.reference
    queries, gallery = seated.rows(asking), seated.rows(answering)
    left_out = Counter(absent(seated, way))
    if among is not None:
        left_out["not-in-the-pool"] += int((~among[queries]).sum())
        queries, gallery = queries[among[queries]], gallery[among[gallery]]
    task = Task(
        way=way,
        queries=queries,
        query_ids=tuple(reference.ids[i] for i in queries),
        gallery=gallery,
        measures=tuple(measures),
        relevant=[answers(int(i), gallery) for i in queries],
        left_out={why: n for why, n in left_out.items() if n},
        ties=ties,
    )
    return without_empty(task)


def absent(seated: Seated, way: Way) -> dict[str, int]:
    """Count studies that cannot ask: without text, or without a vector."""
    asking, _ = SIDES[way]
    has = np.zeros(len(seated.reference), np.bool_)
    has[seated.rows(asking)] = True
    if asking == "text":
        text = seated.reference.has_text
        return {"no-text": int((~text).sum()), "no-vector": int((text & ~has).sum())}
    return {"no-vector": int((~has).sum())}


def own_item(i: int, gallery: Rows) -> Rows:
    """Return the position of row i in a gallery of ascending rows, or none."""
    at = int(np.searchsorted(gallery, i))
    found = at < len(gallery) and gallery[at] == i
    return np.array([at] if found else [], np.int64)


def by_key(key: Rows) -> Callable[[int, Rows], Rows]:
    """Answer by equality of a key; an index is made once a gallery."""
    made: list[tuple[Rows, dict[int, Rows]]] = []

    def answers(i: int, gallery: Rows) -> Rows:
        if not made or made[0][0] is not gallery:
            order = np.argsort(key[gallery], kind="stable")
            kinds, starts = np.unique(key[gallery][order], return_index=True)
            parts = np.split(order, starts[1:]) if len(kinds) else []
            index = {int(kind): part for kind, part in zip(kinds, parts, strict=True)}
            made[:] = [(gallery, index)]
        return made[0][1].get(int(key[i]), np.empty(0, np.int64))

    return answers


def both_ways(
    measures: Sequence[str],
    answers: Callable[[Reference], Callable[[int, Rows], Rows]],
    among: Callable[[Reference], NDArray[np.bool_]] | None = None,
) -> Tasks:
    """Return the tasks of report to volume and volume to report, as far as a protocol has them.

    Args:
        answers: From the studies to what `cross_task` takes.
        among: From the studies to those that take part; None for all.
    """

    def tasks(seated: Seated, protocol: Protocol) -> list[Task]:
        some = None if among is None else among(seated.reference)
        return [
            cross_task(seated, way, measures, protocol.ties, answers(seated.reference), some)
            for way in protocol.ways
            if way != "volume_to_volume"
        ]

    return tasks


def first_of(key: Rows, order: Sequence[object]) -> NDArray[np.bool_]:
    """Return True at the first row of each key, in an order of the rows."""
    keep = np.zeros(len(key), np.bool_)
    seen: set[int] = set()
    for i in sorted(range(len(key)), key=lambda i: order[i]):  # type: ignore[arg-type, return-value]
        if int(key[i]) not in seen:
            seen.add(int(key[i]))
            keep[i] = True
    return keep


def distinct_texts(reference: Reference) -> NDArray[np.bool_]:
    """Return True at the first study, by study_id, of each text, (N,)."""
    return first_of(reference.text_key, reference.ids) & reference.has_text


def volume_task(
    seated: Seated,
    protocol: Protocol,
    measures: Sequence[str],
    queries: Rows,
    gallery: Rows,
    *,
    relevant: Callable[[int, Rows], Rows] | None = None,
    grades: Callable[[Rows, Rows], Floats] | None = None,
    exclude: str = "patient",
    left_out: dict[str, int] | None = None,
    ties: Ties | None = None,
) -> Task:
    """Ask for volumes by a volume.

    Args:
        grades: From rows of queries and of the gallery to grades, (B, G).
        exclude: What a query does not rank: "patient", "self" or "nothing".
    """
    reference = seated.reference
    excluded: list[Rows] | None = None
    if exclude == "patient":
        same = by_key(reference.patient_key)
        excluded = [same(int(i), gallery) for i in queries]
    elif exclude == "self":
        excluded = [own_item(int(i), gallery) for i in queries]
    found = None
    if relevant is not None:
        gone = excluded or [np.empty(0, np.int64)] * len(queries)
        found = [
            np.setdiff1d(relevant(int(i), gallery), rows, assume_unique=True)
            for i, rows in zip(queries, gone, strict=True)
        ]
    given = grades
    return without_empty(
        Task(
            way="volume_to_volume",
            queries=queries,
            query_ids=tuple(reference.ids[i] for i in queries),
            gallery=gallery,
            measures=tuple(measures),
            relevant=found,
            grades=None if given is None else lambda a, b: given(queries[a:b], gallery),
            excluded=excluded,
            left_out={why: n for why, n in (left_out or {}).items() if n},
            ties=ties or protocol.ties,
        )
    )


def jaccard(table: NDArray[np.float32], empty: float) -> Callable[[Rows, Rows], Floats]:
    """Return the Jaccard index of rows of a table of zeros and ones: shared / held by either.

    Args:
        empty: Of two rows without any one.
    """
    sizes = table.sum(axis=1, dtype=np.float64)

    def grades(queries: Rows, gallery: Rows) -> Floats:
        shared = np.asarray(table[queries] @ table[gallery].T, np.float64)
        either = sizes[queries][:, None] + sizes[gallery] - shared
        return np.where(either > 0, shared / np.maximum(either, 1), empty)

    return grades


def judged(reference: Reference) -> NDArray[np.bool_]:
    """Return `Reference.is_judged`."""
    return reference.is_judged


def judged_volumes(seated: Seated) -> tuple[Rows, dict[str, int]]:
    """Return the volumes of which it is known what they show, and why others are left out."""
    rows, judged = seated.rows("volume"), seated.reference.is_judged
    left_out = absent(seated, "volume_to_volume") | {"no-findings": int((~judged[rows]).sum())}
    return rows[judged[rows]], left_out


def of_rows(
    grades: Callable[[Rows, Rows], Floats], queries: Rows, gallery: Rows
) -> Callable[[int, int], Floats]:
    """Return the grades of a task's queries and gallery by blocks of queries, as `Task` takes them."""
    return lambda first, last: grades(queries[first:last], gallery)


def keyword_task(
    measures: Sequence[str], wanted: Sequence[str] | None = None
) -> Callable[[Seated, Protocol], Task]:
    """Return what asks for volumes by names of findings.

    Args:
        wanted: Names to ask, of those that have a vector; None for all.
    """

    def task(seated: Seated, protocol: Protocol) -> Task:
        reference = seated.reference
        gallery, _ = judged_volumes(seated)
        names = seated.keywords
        left_out: Counter[str] = Counter()
        chosen, relevant = [], []
        if wanted is not None:
            left_out["no-vector"] += len(set(wanted) - set(names))
        for number, name in enumerate(names):
            if wanted is not None and name not in wanted:
                continue
            rows = np.flatnonzero(asked_for(reference, name)[gallery])
            if len(rows) == len(gallery):
                left_out["no-negative"] += 1
                continue
            chosen.append(number)
            relevant.append(rows)
        return without_empty(
            Task(
                way="keyword_to_volume",
                queries=np.array(chosen, np.int64),
                query_ids=tuple(names[i] for i in chosen),
                gallery=gallery,
                measures=tuple(measures),
                relevant=relevant,
                left_out={why: n for why, n in left_out.items() if n},
                ties=protocol.ties,
            )
        )

    return task


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
