"""Two models on the same queries → differences with intervals and p-values."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from medfinder.benchmark.results import Comparison, Results, ScoreRow, Scores
from medfinder.errors import InputError, Mismatch
from medfinder.ranking.significance import bootstrap_interval, holm, permutation_test


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
    check_comparable(results.model, results.reference, [other for other, _ in others])
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


def check_comparable(name: str, reference: str, others: Sequence[Results]) -> None:
    """Refuse models of one name, or measured on other studies.

    Raises:
        InputError, Mismatch: As `compare`.
    """
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


def grouped(rows: Sequence[ScoreRow]) -> Scores:
    """Return rows of values by what was measured, in order."""
    found: Scores = {}
    for row in rows:
        ids, patients, values = found.setdefault((row.protocol, row.way, row.measure), ([], [], []))
        ids.append(row.query)
        patients.append(row.patient)
        values.append(row.value)
    return found
