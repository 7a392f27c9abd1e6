"""What is asked of vectors, by name and version: pool, positives, duplicates, ties, measures.

A protocol turns what is known of the studies into `Task`s; it never sees a score. Those called after
a published system ask what its evaluation asks, as far as its code or its paper says; `known` and
`assumed` tell the two apart.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfinder.benchmark.entrant import Seated
from medfinder.benchmark.reference import Reference, Rows, asked_for, lobe_of, side_of
from medfinder.benchmark.task import SIDES, Floats, Task, Ties, Way, without_empty
from medfinder.errors import InputError
from medfinder.records import Finding
from medfinder.registry import Registry

Tasks = Callable[[Seated, "Protocol"], list[Task]]
BOTH: tuple[Way, ...] = ("report_to_volume", "volume_to_report")
KEYWORDS = ("atelectasis", "consolidation", "adenopathy")
"""The keywords that the published MedFinder code names."""
POOL_SIZES = (32, 64, 128, 100, 500, 1000, 2000)
CT_CLIP_KS = (1, 5, 10, 50)


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


def _add(protocol: Protocol) -> None:
    protocols.register(protocol.name)(protocol)


def _cross(
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
    left_out = Counter(_absent(seated, way))
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


def _absent(seated: Seated, way: Way) -> dict[str, int]:
    """Count studies that cannot ask: without text, or without a vector."""
    asking, _ = SIDES[way]
    has = np.zeros(len(seated.reference), np.bool_)
    has[seated.rows(asking)] = True
    if asking == "text":
        text = seated.reference.has_text
        return {"no-text": int((~text).sum()), "no-vector": int((text & ~has).sum())}
    return {"no-vector": int((~has).sum())}


def _own(i: int, gallery: Rows) -> Rows:
    at = int(np.searchsorted(gallery, i))
    found = at < len(gallery) and gallery[at] == i
    return np.array([at] if found else [], np.int64)


def _same(key: Rows) -> Callable[[int, Rows], Rows]:
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


def _both_ways(
    measures: Sequence[str],
    answers: Callable[[Reference], Callable[[int, Rows], Rows]],
    among: Callable[[Reference], NDArray[np.bool_]] | None = None,
) -> Tasks:
    def tasks(seated: Seated, protocol: Protocol) -> list[Task]:
        some = None if among is None else among(seated.reference)
        return [
            _cross(seated, way, measures, protocol.ties, answers(seated.reference), some)
            for way in protocol.ways
            if way != "volume_to_volume"
        ]

    return tasks


def _first_of(key: Rows, order: Sequence[object]) -> NDArray[np.bool_]:
    """Return True at the first row of each key, in an order of the rows."""
    keep = np.zeros(len(key), np.bool_)
    seen: set[int] = set()
    for i in sorted(range(len(key)), key=lambda i: order[i]):  # type: ignore[arg-type, return-value]
        if int(key[i]) not in seen:
            seen.add(int(key[i]))
            keep[i] = True
    return keep


def _distinct_texts(reference: Reference) -> NDArray[np.bool_]:
    return _first_of(reference.text_key, reference.ids) & reference.has_text


def _volume_task(
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
        same = _same(reference.patient_key)
        excluded = [same(int(i), gallery) for i in queries]
    elif exclude == "self":
        excluded = [_own(int(i), gallery) for i in queries]
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


# --- ours

_RETRIEVAL = ("R@1", "R@5", "R@10", "R@50", "R@100", "RR", "MdR", "MnR")

_add(
    Protocol(
        "one-to-one",
        1,
        "Does a report find its own volume, and a volume its own report?",
        "Only the study itself answers, though other reports may be the same to the letter.",
        BOTH,
        _both_ways(_RETRIEVAL, lambda reference: _own),
        ("R@10",),
    )
)
_add(
    Protocol(
        "multi-positive",
        1,
        "Does a report find a volume that it describes, and a volume a report of its words?",
        "Every study whose report is the same answers; case and white space do not matter.",
        BOTH,
        _both_ways((*_RETRIEVAL, "AP"), lambda reference: _same(reference.text_key)),
        ("R@10",),
    )
)
_add(
    Protocol(
        "deduplicated",
        1,
        "Does a report find its own volume, where no two reports are the same?",
        "One study for each distinct report, the first by study_id; only the study itself answers.",
        BOTH,
        _both_ways(_RETRIEVAL, lambda reference: _own, _distinct_texts),
        ("R@10",),
    )
)


def _judged(reference: Reference) -> NDArray[np.bool_]:
    return reference.is_judged


def _judged_volumes(seated: Seated) -> tuple[Rows, dict[str, int]]:
    """Return the volumes of which it is known what they show, and why others are left out."""
    rows, judged = seated.rows("volume"), seated.reference.is_judged
    left_out = _absent(seated, "volume_to_volume") | {"no-findings": int((~judged[rows]).sum())}
    return rows[judged[rows]], left_out


def _same_findings(seated: Seated, protocol: Protocol) -> list[Task]:
    reference = seated.reference
    measures = ("R@1", "R@5", "R@10", "P@10", "AP")
    tasks = _both_ways(measures, lambda r: _same(r.findings_key), _judged)(seated, protocol)
    rows, left_out = _judged_volumes(seated)
    tasks.append(
        _volume_task(
            seated,
            protocol,
            measures,
            rows,
            rows,
            relevant=_same(reference.findings_key),
            left_out=left_out,
        )
    )
    return tasks


_add(
    Protocol(
        "same-findings-exact",
        1,
        "Does a query find studies with exactly its findings?",
        "Studies that affirm the same set of findings answer, the query's own included; having none "
        "is a set too. From volume to volume, no study of the same patient is ranked.",
        (*BOTH, "volume_to_volume"),
        _same_findings,
        ("AP",),
    )
)


def _graded(seated: Seated, protocol: Protocol) -> list[Task]:
    reference = seated.reference
    grades, judged = jaccard(reference.table, empty=1.0), reference.is_judged
    measures = ("nDCG@10", "nDCG@100", "Jaccard@10")
    tasks = []
    for way in BOTH:
        asking, answering = SIDES[way]
        queries, gallery = seated.rows(asking), seated.rows(answering)
        left_out = _absent(seated, way) | {"no-findings": int((~judged[queries]).sum())}
        queries, gallery = queries[judged[queries]], gallery[judged[gallery]]
        task = Task(
            way=way,
            queries=queries,
            query_ids=tuple(reference.ids[i] for i in queries),
            gallery=gallery,
            measures=measures,
            grades=_of_rows(grades, queries, gallery),
            left_out={why: n for why, n in left_out.items() if n},
            ties=protocol.ties,
        )
        tasks.append(without_empty(task))
    rows, left_out = _judged_volumes(seated)
    tasks.append(
        _volume_task(
            seated,
            protocol,
            measures,
            rows,
            rows,
            grades=grades,
            left_out=left_out,
        )
    )
    return tasks


def _of_rows(
    grades: Callable[[Rows, Rows], Floats], queries: Rows, gallery: Rows
) -> Callable[[int, int], Floats]:
    return lambda first, last: grades(queries[first:last], gallery)


_add(
    Protocol(
        "same-findings-graded",
        1,
        "Does a query find studies that share its findings?",
        "A study's grade is the Jaccard index of affirmed findings, those shared over those of "
        "either; of two without any it is 1. From volume to volume, no study of the same patient "
        "is ranked.",
        (*BOTH, "volume_to_volume"),
        _graded,
        ("nDCG@10",),
    )
)


def _keywords(
    measures: Sequence[str], wanted: Sequence[str] | None = None
) -> Callable[[Seated, Protocol], Task]:
    def task(seated: Seated, protocol: Protocol) -> Task:
        reference = seated.reference
        gallery, _ = _judged_volumes(seated)
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


_KEYWORD_MEASURES = ("P@20", "P@50", "P@100", "AP", "AUROC")
_add(
    Protocol(
        "keyword",
        1,
        "Does the name of a finding find the volumes that have it?",
        "A study whose report affirms the finding, or a kind of it, answers. Findings that none or "
        "all affirm are not asked.",
        ("keyword_to_volume",),
        lambda seated, protocol: [_keywords(_KEYWORD_MEASURES)(seated, protocol)],
        ("AP",),
    )
)


def _conditioned(where: Callable[[Finding], str | None], what: str) -> Tasks:
    def tasks(seated: Seated, protocol: Protocol) -> list[Task]:
        reference = seated.reference
        places = reference.places(where)
        if not any(places):
            raise InputError(
                f"No finding of any study has a {what}, so {protocol.name} has nothing to ask. Give "
                "reports that name places, in a column 'report' and without a column 'findings'.",
                rule=f"no-{what}s",
            )
        found = []
        names = sorted({name for own in places for name in own})
        for way in protocol.ways:
            asking, answering = SIDES[way]
            can_ask = np.zeros(len(reference), np.bool_)
            can_ask[seated.rows(asking)] = True
            answer = seated.rows(answering)
            for name in names:
                gallery = np.array([i for i in answer if name in places[i]], np.int64)
                queries = np.array(
                    [i for i in range(len(reference)) if can_ask[i] and name in places[i]], np.int64
                )
                if len(queries) and len(gallery):
                    found.append(_of_finding(seated, protocol, way, name, places, queries, gallery))
        return found

    return tasks


def _of_finding(
    seated: Seated,
    protocol: Protocol,
    way: Way,
    name: str,
    places: Sequence[dict[str, frozenset[str]]],
    queries: Rows,
    gallery: Rows,
) -> Task:
    """Ask for studies that have a finding where the query has it, among those that have it."""
    reference = seated.reference
    same_patient = _same(reference.patient_key)
    left_out: Counter[str] = Counter()
    chosen, relevant, excluded = [], [], []
    for i in queries.tolist():
        gone = same_patient(i, gallery)
        others = np.setdiff1d(np.arange(len(gallery)), gone, assume_unique=True)
        rows = np.array(
            [j for j in others if not places[i][name].isdisjoint(places[gallery[j]][name])],
            np.int64,
        )
        if len(rows) == len(others) and len(others):
            left_out["no-negative"] += 1
        elif len(rows) == 0:
            left_out["no-positive"] += 1
        else:
            chosen.append(i)
            relevant.append(rows)
            excluded.append(gone)
    return Task(
        way=way,
        queries=np.array(chosen, np.int64),
        query_ids=tuple(f"{reference.ids[i]}|{name}" for i in chosen),
        gallery=gallery,
        measures=("AUROC", "AP", "R@1"),
        relevant=relevant,
        excluded=excluded,
        left_out=dict(left_out),
        ties=protocol.ties,
    )


_PLACED: tuple[Way, ...] = ("report_to_volume", "volume_to_volume")
_add(
    Protocol(
        "same-lobe",
        1,
        "Among studies with a finding in a named lobe, do those with it in the same lobe come first?",
        "One query for each study and finding with a lobe; the pool is the other patients' studies "
        "with that finding in a named lobe, and those that share the lobe and its side answer. "
        "Knowing the finding alone scores an AUROC of 0.5.",
        _PLACED,
        _conditioned(lobe_of, "lobe"),
        ("AUROC",),
    )
)
_add(
    Protocol(
        "same-side",
        1,
        "Among studies with a finding on a named side, do those with it on the same side come first?",
        "As same-lobe, with the sides left, right and bilateral in the place of lobes.",
        _PLACED,
        _conditioned(side_of, "side"),
        ("AUROC",),
    )
)


def _pools(seated: Seated, protocol: Protocol) -> list[Task]:
    found = []
    for way in protocol.ways:
        task = _cross(seated, way, (), protocol.ties, _own)
        sizes = [size for size in POOL_SIZES if size <= len(task.gallery)]
        names = [
            f"R@{k} of {size}"
            for size in sizes
            for k in ((1, 8) if size in (32, 64, 128) else (1, 5, 10))
        ]
        if not names:
            raise InputError(
                f"The smallest pool holds {min(POOL_SIZES)} items, the gallery {len(task.gallery)}. "
                "Give more studies.",
                rule="pool-size",
            )
        found.append(dataclasses.replace(task, measures=tuple(names)))
    return found


_add(
    Protocol(
        "pools",
        1,
        "Does a report find its own volume in a small random pool, and a volume its report?",
        "Only the study itself answers, in a pool of 32, 64 or 128 (R@1, R@8) and of 100, 500, 1,000 "
        "or 2,000 (R@1, R@5, R@10). The value is the mean over all pools of that size, computed and "
        "not drawn: what repeated draws converge to. Sizes beyond the gallery are left out.",
        BOTH,
        _pools,
        ("R@1 of 128", "R@1 of 64", "R@1 of 32"),
        known="Merlin (Nature 2026) and its re-implementations in SPECTRE and RadFinder: disjoint "
        "pools of 32, 64 and 128 from a shuffled test set, R@1 and R@8, 100 repeats with seed 42; "
        "RadFinder drops the last, smaller pool, SPECTRE keeps it. M3D (eval_itr.py): fixed lists of "
        "100, 500, 1,000 and 2,000, R@1, R@5 and R@10 both ways, the diagonal alone counts.",
        assumed="Merlin's own evaluation code is not public. The interval is drawn over patients; "
        "the published one, over repeats of the same test set, tells how much the draws vary and "
        "not what other patients would give.",
    )
)

# --- after published systems


def _ct_clip(seated: Seated, protocol: Protocol) -> list[Task]:
    reference = seated.reference
    as_published = protocol.name == "ct-clip-published"
    own = (
        _cross(seated, "report_to_volume", ("R@5", "R@10", "R@50", "R@100"), protocol.ties, _own)
        if seated.rows("text").size
        else None
    )
    rows, left_out = _judged_volumes(seated)
    table = reference.labels
    gallery = rows[table[rows].any(axis=1)]
    listed = ",".join(map(str, CT_CLIP_KS))
    if as_published:
        measures = [f"MAP@{k} of {listed}" for k in CT_CLIP_KS]
    else:
        measures = [f"Jaccard@{k}" for k in CT_CLIP_KS]
    task = Task(
        way="volume_to_volume",
        queries=rows,
        query_ids=tuple(reference.ids[i] for i in rows),
        gallery=gallery,
        measures=tuple(measures),
        grades=_of_rows(jaccard(table, empty=0.0), rows, gallery),
        excluded=None if as_published else [_own(int(i), gallery) for i in rows],
        left_out={why: n for why, n in left_out.items() if n},
        ties=protocol.ties,
    )
    # As published, a query without any label stays, and scores 0 whatever is found.
    second = task if as_published else without_empty(task)
    return [second] if own is None else [own, second]


_CT_CLIP_KNOWN = (
    "scripts/report_to_volume_new.py and volume_to_volume_new.py of CT-CLIP: every reconstruction is "
    "an item of its own though several share a report; only item i counts for report i, at K = 5, 10, "
    "50, 100; a stable sort, so the earlier of two equal scores stands first. From volume to volume, "
    "the pool holds volumes with at least one of 18 labels, every volume asks, and the mean Jaccard "
    "index of the first K = 1, 5, 10, 50 is printed (it is called MAP there, and is not one)."
)
_add(
    Protocol(
        "ct-clip",
        1,
        "CT-CLIP's retrieval, with the two faults of its volume-to-volume code mended",
        "Report to volume: the item itself. Volume to volume: Jaccard of the 18 labels, among volumes "
        "with any label, the query left out of its own pool, each K on its own.",
        ("report_to_volume", "volume_to_volume"),
        _ct_clip,
        ("R@10", "Jaccard@10"),
        "row",
        _CT_CLIP_KNOWN,
        "Labels are the source's own where it gave any, else read from the reports; CT-CLIP uses the "
        "predictions of its text classifier. Volumes without any label do not ask. Other "
        "reconstructions of the query's scan stay in the pool, as there.",
    )
)
_add(
    Protocol(
        "ct-clip-published",
        1,
        "CT-CLIP's retrieval as its code computes it",
        "As ct-clip, but each volume finds itself first, and the value at K is the mean over every K "
        "up to it, because the list of ratios is not emptied in between.",
        ("report_to_volume", "volume_to_volume"),
        _ct_clip,
        ("R@10", "MAP@10 of 1,5,10,50"),
        "row",
        _CT_CLIP_KNOWN
        + " The query stays in its own pool; the list of ratios goes on from K to K.",
        "Labels as in ct-clip. Volumes without any label ask, and score 0.",
    )
)


def _first_reconstruction(reference: Reference) -> NDArray[np.bool_]:
    return np.array([number == 1 for _, number in reference.scan], np.bool_)


def _spectre(seated: Seated, protocol: Protocol) -> list[Task]:
    reference = seated.reference
    among = _first_reconstruction(reference)
    found = []
    if seated.rows("text").size:
        found.append(
            _cross(
                seated,
                "report_to_volume",
                ("R@5", "R@10", "R@50", "R@100"),
                protocol.ties,
                _own,
                among,
            )
        )
    rows, left_out = _judged_volumes(seated)
    left_out["not-in-the-pool"] = int((~among[rows]).sum())
    rows = rows[among[rows]]
    key = np.unique(reference.labels, axis=0, return_inverse=True)[1].reshape(-1)
    found.append(
        _volume_task(
            seated,
            protocol,
            ("AP@1", "AP@5", "AP@10", "AP@50"),
            rows,
            rows,
            relevant=_same(key),
            exclude="self",
            left_out=left_out,
        )
    )
    return found


_add(
    Protocol(
        "spectre",
        1,
        "SPECTRE's retrieval on CT-RATE",
        "Only reconstruction 1 of each scan. Report to volume: the item itself. Volume to volume: the "
        "same 18 labels to the last one, having none included; the query is not ranked, and one that "
        "shares its labels with no other is left out.",
        ("report_to_volume", "volume_to_volume"),
        _spectre,
        ("R@10", "AP@10"),
        "row",
        "eval/retrieval_ct_rate.py of SPECTRE: R@5, 10, 50, 100 from text to image; from image to "
        "image AP at K = 1, 5, 10, 50, the sum of precisions over the smaller of K and the number of "
        "positives.",
        "That only reconstruction 1 is used lies in the table it reads, not in the code. Ties are left "
        "to an unstable sort there; here the smaller study_id stands first. Labels as in ct-clip.",
    )
)


def _shares_a_label(table: NDArray[np.float32]) -> Callable[[int, Rows], Rows]:
    return lambda i, gallery: np.flatnonzero(table[gallery] @ table[i] > 0)


def _radfinder(among: Callable[[Reference], NDArray[np.bool_]] | None) -> Tasks:
    measures = ("R@1", "R@5", "R@10", "R@50", "R@100", "MdR", "MnR")

    def tasks(seated: Seated, protocol: Protocol) -> list[Task]:
        reference = seated.reference
        some = np.ones(len(reference), np.bool_) if among is None else among(reference)
        found = [_cross(seated, "report_to_volume", measures, protocol.ties, _own, some)]
        if "volume_to_volume" not in protocol.ways:
            return found
        table = reference.labels
        rows, left_out = _judged_volumes(seated)
        left_out["not-in-the-pool"] = int((~some[rows]).sum())
        rows = rows[some[rows]]
        left_out["no-label"] = int((~table[rows].any(axis=1)).sum())
        rows = rows[table[rows].any(axis=1)]
        found.append(
            _volume_task(
                seated,
                protocol,
                ("AP@5/k", "AP@10/k", "AP@50/k"),
                rows,
                rows,
                relevant=_shares_a_label(table),
                exclude="self",
                left_out=left_out,
                ties="row",
            )
        )
        return found

    return tasks


def _first_of_scan(reference: Reference) -> NDArray[np.bool_]:
    scans = {scan: i for i, scan in enumerate(dict.fromkeys(s for s, _ in reference.scan))}
    key = np.array([scans[scan] for scan, _ in reference.scan], np.int64)
    return _first_of(key, [(number, scan) for scan, number in reference.scan])


_RADFINDER_KNOWN = (
    "retrieval_task.py, volume_retrieval_task.py and ct_rate.py of RadFinder: text to image R@1, 5, "
    "10, 50, 100, median and mean rank, the diagonal alone counts; volume to volume among volumes with "
    "any of 18 labels, the query not ranked, any shared label answers, the sum of precisions at K = 5, "
    "10, 50 over K; 95 % bootstrap over queries."
)
_RADFINDER_ASSUMED = (
    "Ties are left to an unstable sort there, here the mean over their orders. The published median is "
    "the lower of two middle ranks, here their mean. From volume to volume the smaller study_id stands "
    "first. Intervals are drawn over patients."
)
_RADFINDER_WAYS: tuple[Way, ...] = ("report_to_volume", "volume_to_volume")
_add(
    Protocol(
        "radfinder-dup",
        1,
        "RadFinder's retrieval on all reconstructions",
        "Every reconstruction is an item, though several share a report; only the item itself answers "
        "its report. Volume to volume: any shared label.",
        _RADFINDER_WAYS,
        _radfinder(None),
        ("R@10", "AP@10/k"),
        "expected",
        _RADFINDER_KNOWN + " This is its filter mode dup_all, the default.",
        _RADFINDER_ASSUMED,
    )
)
_add(
    Protocol(
        "radfinder-first",
        1,
        "RadFinder's retrieval on one reconstruction of each scan",
        "As radfinder-dup, with the first reconstruction of each scan alone: 1,564 in CT-RATE's "
        "validation split.",
        _RADFINDER_WAYS,
        _radfinder(_first_of_scan),
        ("R@10", "AP@10/k"),
        "expected",
        _RADFINDER_KNOWN + " This is its filter mode first_all.",
        "As radfinder-dup.",
    )
)
_add(
    Protocol(
        "radfinder-dedup",
        1,
        "RadFinder's report-to-volume retrieval where no two texts are the same",
        "One item for each distinct report: the first by study_id.",
        ("report_to_volume",),
        _radfinder(_distinct_texts),
        ("R@10",),
        "expected",
        _RADFINDER_KNOWN,
        "The released code de-duplicates by scan (radfinder-first) and has no mode by text; that the "
        "first item of each text is kept is a guess. " + _RADFINDER_ASSUMED,
    )
)


def _colipri(reference: Reference) -> NDArray[np.bool_]:
    is_chest = np.array(
        [
            (study.body_part or "chest").casefold() in ("chest", "thorax")
            for study in reference.studies
        ],
        np.bool_,
    )
    among = _first_of_scan(reference) & is_chest & reference.has_text
    # The first of those that are left, so that a dropped study does not take its text's place.
    rows = np.flatnonzero(among)
    keep = _first_of(reference.section_key[rows], [reference.ids[i] for i in rows])
    among[rows[~keep]] = False
    return among


_add(
    Protocol(
        "colipri",
        1,
        "COLIPRI's retrieval on CT-RATE",
        "The first reconstruction of each scan, no body part but the chest, one for each distinct "
        "findings section (the first by study_id); only the study itself answers.",
        BOTH,
        _both_ways(("R@1", "R@5", "R@10", "MdR"), lambda reference: _own, _colipri),
        ("R@10",),
        known="The authors, in discussion 6 of the model's page on the Hub: 1,564 scans, 1,551 without "
        "those that show no chest, 1,493 once duplicates of Findings_EN are dropped; normalised vectors; "
        "an implementation after CXR-CLIP's.",
        assumed="The cut-offs, the tie rule, that both directions are measured, and that texts are "
        "compared without regard to case and white space.",
    )
)


def _medfinder_paper(seated: Seated, protocol: Protocol) -> list[Task]:
    tasks = _both_ways(("R@1", "R@5", "R@10", "MdR", "MnR"), lambda r: _own)(seated, protocol)
    if seated.keywords:
        task = _keywords(("P@20", "P@50", "P@100"), KEYWORDS)(seated, protocol)
        if task.n:
            tasks.append(task)
    return tasks


_add(
    Protocol(
        "medfinder-paper",
        1,
        "The retrieval of the MedFinder paper on BIMCV-R",
        "Only the study itself answers, both ways; and the keywords atelectasis, consolidation and "
        "adenopathy, answered by studies whose report affirms them or a kind of them.",
        BOTH,
        _medfinder_paper,
        ("R@10", "P@20"),
        known="The paper: R@1, R@5, R@10, median and mean rank both ways; precision at 20, 50 and 100 "
        "of keywords. The published code names the three keywords, and looks for a report's row in a "
        "full sort.",
        assumed="Ties are not spoken of. What answers a keyword is not defined: here, what the report "
        "affirms. The keywords are asked where their vectors are given.",
    )
)
