"""Reports of a batch -> single sentences, each with the studies it is true of and false of.

A report says what is there; a finding it does not mention is taken as absent, as radiologists write.
Everything comes from the words: `extract_findings` and `medfinder.report.swap`, no label table.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medfinder.records import Finding
from medfinder.report.findings import extract_findings
from medfinder.report.sentences import sentences
from medfinder.report.swap import swapped
from medfinder.train.labels import prompt_of

TRUE, FALSE, FALSE_BY_ATTRIBUTE, UNKNOWN = 1, 0, 2, -1

_Place = tuple[str | None, str | None]  # side, lobe
_Places = frozenset[_Place]


@dataclass(frozen=True, eq=False)
class Statements:
    """Sentences to be judged against every volume of a batch.

    Attributes:
        sentences: S sentences: first those told, then their changed versions.
        truth: (B, S) int8, as `medfinder.model.losses.statements` reads it.
        told: (K,) rows of `sentences`.
        changed: (K,) rows of the same sentences with one attribute changed.
        owner: (K,) the study of the batch that told it.
    """

    sentences: tuple[str, ...]
    truth: npt.NDArray[np.int8]
    told: npt.NDArray[np.int64]
    changed: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]


def claims(sentence: str) -> tuple[Finding, ...]:
    """Return the findings that a sentence asserts or denies; uncertain ones are left out."""
    return tuple(f for f in extract_findings(sentence) if f.status != "uncertain")


def make_statements(
    reports: Sequence[str], chooser: random.Random, n_told: int = 2, n_denied: int = 1
) -> Statements:
    """Choose sentences of each report and judge them against every other report.

    A sentence is true of the study that tells it. It is false of a study that has none of the
    findings it asserts, or has one of those it denies; false by one attribute where the study has
    the finding on the other side or in another lobe, and, for its own study, where one of its
    words is changed. What cannot be told from words is unknown.

    Args:
        reports: The whole reports, one a study.
        n_told: Sentences with a present finding, each with one changed version, at most, a study.
        n_denied: Sentences that only deny, at most, a study.
    """
    having: dict[str, dict[int, _Places]] = {}  # finding -> study -> where it has it
    chosen: list[tuple[int, str]] = []
    for i, report in enumerate(reports):
        said = _said(report)
        for name, places in said.present.items():
            having.setdefault(name, {})[i] = places
        told, denied = list(said.told), list(said.denied)
        chooser.shuffle(told)
        chooser.shuffle(denied)
        chosen += [(i, s) for s in told[:n_told] + denied[:n_denied]]
    texts = [sentence for _, sentence in chosen]
    columns = [_judge(sentence, having, len(reports)) for sentence in texts]
    told_at, changed_at, owners = [], [], []
    for k, (i, sentence) in enumerate(chosen):
        columns[k][i] = TRUE
        if not _claimed(sentence).asserted:
            continue
        other = swapped(sentence, chooser)
        if other is None:
            continue
        column = np.full(len(reports), UNKNOWN, np.int8)
        column[i] = FALSE_BY_ATTRIBUTE
        told_at.append(k)
        changed_at.append(len(texts))
        owners.append(i)
        texts.append(other)
        columns.append(column)
    truth = np.stack(columns, 1) if columns else np.zeros((len(reports), 0), np.int8)
    at = (np.array(rows, np.int64) for rows in (told_at, changed_at, owners))
    return Statements(tuple(texts), truth, *at)


def with_prompts(
    made: Statements,
    labels: Sequence[str],
    truth: npt.NDArray[np.int8],
    chooser: random.Random,
    n: int,
) -> Statements:
    """Add labels as sentences, so that a keyword is understood as it will be asked.

    Args:
        made: Of the same B reports.
        labels: L names of `medfinder.train.labels.fit_labels`.
        truth: (B, L) of `medfinder.train.labels.encode_labels`. An attribute that a study's
            finding does not have makes the sentence false by one attribute.
        n: Labels drawn, all where there are fewer.
    """
    drawn = sorted(chooser.sample(range(len(labels)), min(n, len(labels))))
    if not drawn:
        return made
    place = {label: i for i, label in enumerate(labels)}
    asked = truth[:, drawn].copy()
    for k, i in enumerate(drawn):
        name, _, value = labels[i].partition("|")
        if value and name in place:
            asked[(asked[:, k] == FALSE) & (truth[:, place[name]] == TRUE), k] = FALSE_BY_ATTRIBUTE
    return replace(
        made,
        sentences=made.sentences + tuple(prompt_of(labels[i]) for i in drawn),
        truth=np.concatenate([made.truth, asked], 1),
    )


class _Said(NamedTuple):
    """What a report says.

    Attributes:
        told: Its sentences that assert a finding.
        denied: Its sentences that only deny.
        present: Finding -> where it is said to be.
    """

    told: tuple[str, ...]
    denied: tuple[str, ...]
    present: dict[str, _Places]


class _Claimed(NamedTuple):
    """What a sentence claims: findings with their place, and names that it denies."""

    asserted: tuple[tuple[str, _Place], ...]
    denied: tuple[str, ...]


@lru_cache(maxsize=200_000)
def _said(report: str) -> _Said:
    told: list[str] = []
    denied: list[str] = []
    present: dict[str, set[_Place]] = {}
    for a, b in sentences(report):
        claimed = _claimed(report[a:b])
        for name, place in claimed.asserted:
            present.setdefault(name, set()).add(place)
        if claimed.asserted:
            told.append(report[a:b])
        elif claimed.denied:
            denied.append(report[a:b])
    return _Said(
        tuple(told), tuple(denied), {name: frozenset(places) for name, places in present.items()}
    )


@lru_cache(maxsize=200_000)
def _claimed(sentence: str) -> _Claimed:
    asserted, denied = [], []
    for f in claims(sentence):
        if f.status == "present":
            lobe = f.location if f.location and "lobe" in f.location else None
            asserted.append((f.name, (f.laterality, lobe)))
        else:
            denied.append(f.name)
    return _Claimed(tuple(asserted), tuple(denied))


def _judge(sentence: str, having: dict[str, dict[int, _Places]], n: int) -> npt.NDArray[np.int8]:
    """Tell of each of `n` studies whether what a sentence claims holds, (n,)."""
    claimed = _claimed(sentence)
    if not claimed.asserted:
        column = np.full(n, TRUE, np.int8)
        for name in claimed.denied:
            column[list(having.get(name, ()))] = FALSE
        return column
    column = np.full(n, FALSE, np.int8)
    for name, place in claimed.asserted:
        for i, places in having.get(name, {}).items():
            if column[i] != UNKNOWN:
                column[i] = FALSE_BY_ATTRIBUTE if _differs(place, places) else UNKNOWN
    return column


@lru_cache(maxsize=100_000)
def _differs(place: _Place, places: _Places) -> bool:
    """Tell whether a place excludes all the others: the other side, or another lobe."""
    return all(
        {place[0], other[0]} == {"left", "right"}
        or (place[1] and other[1] and place[1] != other[1])
        for other in places
    )
