"""Our own protocols: one question each, each made the same way for every dataset."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from medfinder.benchmark.entrant import Seated
from medfinder.benchmark.protocol import (
    BOTH,
    Protocol,
    Tasks,
    absent,
    add,
    both_ways,
    by_key,
    cross_task,
    distinct_texts,
    jaccard,
    judged,
    judged_volumes,
    keyword_task,
    of_rows,
    own_item,
    volume_task,
)
from medfinder.benchmark.reference import Rows, lobe_of, side_of
from medfinder.benchmark.task import SIDES, Task, Way, without_empty
from medfinder.errors import InputError
from medfinder.records import Finding

POOL_SIZES = (32, 64, 128, 100, 500, 1000, 2000)
_RETRIEVAL = ("R@1", "R@5", "R@10", "R@50", "R@100", "RR", "MdR", "MnR")

add(
    Protocol(
        "one-to-one",
        1,
        "Does a report find its own volume, and a volume its own report?",
        "Only the study itself answers, though other reports may be the same to the letter.",
        BOTH,
        both_ways(_RETRIEVAL, lambda reference: own_item),
        ("R@10",),
    )
)
add(
    Protocol(
        "multi-positive",
        1,
        "Does a report find a volume that it describes, and a volume a report of its words?",
        "Every study whose report is the same answers; case and white space do not matter.",
        BOTH,
        both_ways((*_RETRIEVAL, "AP"), lambda reference: by_key(reference.text_key)),
        ("R@10",),
    )
)
add(
    Protocol(
        "deduplicated",
        1,
        "Does a report find its own volume, where no two reports are the same?",
        "One study for each distinct report, the first by study_id; only the study itself answers.",
        BOTH,
        both_ways(_RETRIEVAL, lambda reference: own_item, distinct_texts),
        ("R@10",),
    )
)


def _same_findings(seated: Seated, protocol: Protocol) -> list[Task]:
    reference = seated.reference
    measures = ("R@1", "R@5", "R@10", "P@10", "AP")
    tasks = both_ways(measures, lambda r: by_key(r.findings_key), judged)(seated, protocol)
    rows, left_out = judged_volumes(seated)
    tasks.append(
        volume_task(
            seated,
            protocol,
            measures,
            rows,
            rows,
            relevant=by_key(reference.findings_key),
            left_out=left_out,
        )
    )
    return tasks


add(
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
        left_out = absent(seated, way) | {"no-findings": int((~judged[queries]).sum())}
        queries, gallery = queries[judged[queries]], gallery[judged[gallery]]
        task = Task(
            way=way,
            queries=queries,
            query_ids=tuple(reference.ids[i] for i in queries),
            gallery=gallery,
            measures=measures,
            grades=of_rows(grades, queries, gallery),
            left_out={why: n for why, n in left_out.items() if n},
            ties=protocol.ties,
        )
        tasks.append(without_empty(task))
    rows, left_out = judged_volumes(seated)
    tasks.append(
        volume_task(
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


add(
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


_KEYWORD_MEASURES = ("P@20", "P@50", "P@100", "AP", "AUROC")
add(
    Protocol(
        "keyword",
        1,
        "Does the name of a finding find the volumes that have it?",
        "A study whose report affirms the finding, or a kind of it, answers. Findings that none or "
        "all affirm are not asked.",
        ("keyword_to_volume",),
        lambda seated, protocol: [keyword_task(_KEYWORD_MEASURES)(seated, protocol)],
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
    same_patient = by_key(reference.patient_key)
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
add(
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
add(
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
        task = cross_task(seated, way, (), protocol.ties, own_item)
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


add(
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
