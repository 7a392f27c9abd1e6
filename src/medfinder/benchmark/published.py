"""Protocols after published systems: what their evaluation asks, as far as it is known.

Each says what its code or its authors tell (`Protocol.known`) and what they leave open
(`Protocol.assumed`). Learnt from what they do; no line of theirs is here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medfinder.benchmark.entrant import Seated
from medfinder.benchmark.protocol import (
    BOTH,
    Protocol,
    Tasks,
    add,
    both_ways,
    by_key,
    cross_task,
    distinct_texts,
    first_of,
    jaccard,
    judged_volumes,
    keyword_task,
    of_rows,
    own_item,
    volume_task,
)
from medfinder.benchmark.reference import Reference, Rows
from medfinder.benchmark.task import Task, Way, without_empty

KEYWORDS = ("atelectasis", "consolidation", "adenopathy")
"""The keywords that the published MedFinder code names."""
CT_CLIP_KS = (1, 5, 10, 50)


def _ct_clip(seated: Seated, protocol: Protocol) -> list[Task]:
    reference = seated.reference
    as_published = protocol.name == "ct-clip-published"
    own = (
        cross_task(
            seated, "report_to_volume", ("R@5", "R@10", "R@50", "R@100"), protocol.ties, own_item
        )
        if seated.rows("text").size
        else None
    )
    rows, left_out = judged_volumes(seated)
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
        grades=of_rows(jaccard(table, empty=0.0), rows, gallery),
        excluded=None if as_published else [own_item(int(i), gallery) for i in rows],
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
add(
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
add(
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
            cross_task(
                seated,
                "report_to_volume",
                ("R@5", "R@10", "R@50", "R@100"),
                protocol.ties,
                own_item,
                among,
            )
        )
    rows, left_out = judged_volumes(seated)
    left_out["not-in-the-pool"] = int((~among[rows]).sum())
    rows = rows[among[rows]]
    key = np.unique(reference.labels, axis=0, return_inverse=True)[1].reshape(-1)
    found.append(
        volume_task(
            seated,
            protocol,
            ("AP@1", "AP@5", "AP@10", "AP@50"),
            rows,
            rows,
            relevant=by_key(key),
            exclude="self",
            left_out=left_out,
        )
    )
    return found


add(
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
        found = [cross_task(seated, "report_to_volume", measures, protocol.ties, own_item, some)]
        if "volume_to_volume" not in protocol.ways:
            return found
        table = reference.labels
        rows, left_out = judged_volumes(seated)
        left_out["not-in-the-pool"] = int((~some[rows]).sum())
        rows = rows[some[rows]]
        left_out["no-label"] = int((~table[rows].any(axis=1)).sum())
        rows = rows[table[rows].any(axis=1)]
        found.append(
            volume_task(
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
    return first_of(key, [(number, scan) for scan, number in reference.scan])


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
add(
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
add(
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
add(
    Protocol(
        "radfinder-dedup",
        1,
        "RadFinder's report-to-volume retrieval where no two texts are the same",
        "One item for each distinct report: the first by study_id.",
        ("report_to_volume",),
        _radfinder(distinct_texts),
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
    keep = first_of(reference.section_key[rows], [reference.ids[i] for i in rows])
    among[rows[~keep]] = False
    return among


add(
    Protocol(
        "colipri",
        1,
        "COLIPRI's retrieval on CT-RATE",
        "The first reconstruction of each scan, no body part but the chest, one for each distinct "
        "findings section (the first by study_id); only the study itself answers.",
        BOTH,
        both_ways(("R@1", "R@5", "R@10", "MdR"), lambda reference: own_item, _colipri),
        ("R@10",),
        known="The authors, in discussion 6 of the model's page on the Hub: 1,564 scans, 1,551 without "
        "those that show no chest, 1,493 once duplicates of Findings_EN are dropped; normalised vectors; "
        "an implementation after CXR-CLIP's.",
        assumed="The cut-offs, the tie rule, that both directions are measured, and that texts are "
        "compared without regard to case and white space.",
    )
)


def _medfinder_paper(seated: Seated, protocol: Protocol) -> list[Task]:
    tasks = both_ways(("R@1", "R@5", "R@10", "MdR", "MnR"), lambda r: own_item)(seated, protocol)
    if seated.keywords:
        task = keyword_task(("P@20", "P@50", "P@100"), KEYWORDS)(seated, protocol)
        if task.n:
            tasks.append(task)
    return tasks


add(
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
