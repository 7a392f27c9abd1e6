"""A query in the forms that rankers understand → studies in order, fused from what each ranker says."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import InputError, UnknownName
from medfinder.index.interface import AnyIndex
from medfinder.index.query import Ranking
from medfinder.index.where import literal
from medfinder.records import Finding
from medfinder.registry import unknown
from medfinder.report.vocabulary import vocabulary
from medfinder.search.hybrid import reciprocal_rank_fusion

MAX_K = 1000
RANKERS = ("volume", "joint", "report", "bm25", "findings")
"""What a query may be compared with: CTs, the reports' places in the CTs' space, the reports' places
in the sentence encoder's space, their words, and the findings read from them."""
_SCORED = 2000  # up to this many studies with a wanted finding are all compared, one by one
_DEPTH = 100  # how far each ranker is read before fusing; measured recall hardly grows beyond

SORTS = {"score": "", "date": "study_date", "-date": "study_date", "age": "age", "-age": "age"}
"""Orders of hits: the best first; the oldest or newest study first; the youngest or oldest patient."""
Parts = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """What is asked, in the forms that rankers understand."""

    text: str = ""
    is_report: bool = False  # the text is a whole report
    keywords: tuple[str, ...] = ()
    wanted: tuple[Finding, ...] = ()
    volume_vector: npt.NDArray[np.float32] | None = None
    report_vector: npt.NDArray[np.float32] | None = None
    joint_vector: npt.NDArray[np.float32] | None = None  # compared with reports' places there

    @property
    def is_set(self) -> bool:
        """Whether it asks for findings alone, so that all answers are equally right."""
        vectors = (self.volume_vector, self.report_vector, self.joint_vector)
        return not self.text and not self.wanted and all(v is None for v in vectors)


class Rankers:
    """What compares queries with the studies of one index.

    Args:
        index: The index.
    """

    def __init__(self, index: AnyIndex) -> None:
        self.index = index

    def rank(
        self, query: Query, n: int, where: str | None, by: tuple[str, ...] | None
    ) -> tuple[Ranking, Parts]:
        """Return the `n` best, fused, and what each ranker said.

        The first hundred are the same however many are asked for, so that pages follow each other.
        """
        fused, parts = self._rank_to(query, _DEPTH, where, by)
        if n <= _DEPTH or len(fused) < _DEPTH:
            return fused[:n], parts
        first = fused[:_DEPTH]
        deeper, more = self._rank_to(query, MAX_K, where, by)
        known = {study_id for study_id, _ in first}
        rest = [(i, score) for i, score in deeper if i not in known]
        return [*first, *rest][:n], more

    def _rank_to(
        self, query: Query, depth: int, where: str | None, by: tuple[str, ...] | None
    ) -> tuple[Ranking, Parts]:
        rankers: dict[str, Callable[[], Ranking]] = {}
        if query.text:
            rankers["bm25"] = lambda: self.index.search_text(query.text, depth, where)
        if query.report_vector is not None:
            vector = query.report_vector
            rankers["report"] = lambda: self.index.search_vector("report", vector, depth, where)
        if query.volume_vector is not None:
            place = query.volume_vector
            rankers["volume"] = lambda: self.index.search_vector("volume", place, depth, where)
        if query.joint_vector is not None:
            ours = query.joint_vector
            rankers["joint"] = lambda: self.index.search_vector("joint", ours, depth, where)
        rankings = {name: rank() for name, rank in rankers.items() if by is None or name in by}
        if query.wanted and (by is None or "findings" in by):
            others = {i for ranking in rankings.values() for i, _ in ranking}
            rankings["findings"] = self._rank_findings(query.wanted, others, depth, where)
        if not rankings and by is not None and not (query.keywords and "findings" in by):
            able = [*rankers, *(["findings"] if query.wanted else [])]
            raise InputError(
                f"This query cannot be compared by {' or '.join(by)} in this index, but by "
                f"{', '.join(able) or 'nothing'}. A text finds CTs where their encoder reads text "
                "too, such as 'medfinder'."
            )
        if not rankings:  # keywords alone
            names = with_kinds(query.keywords)
            affirming = self.index.search_findings(names, k=depth, where=where)
            rankings["findings"] = [(i, 1.0) for i, _ in affirming]  # `where` asks for every one
        if len(rankings) == 1:
            ((_, fused),) = rankings.items()
        else:
            fused = reciprocal_rank_fusion({n: [i for i, _ in r] for n, r in rankings.items()})
        return fused, {name: dict(ranking) for name, ranking in rankings.items()}

    def sorted(
        self,
        query: Query,
        ranking: Ranking,
        where: str | None,
        by: tuple[str, ...] | None,
        sort: str,
    ) -> Ranking:
        """Put the best in another order; of equals and those without a value, the better first."""
        n = max(len(ranking), MAX_K if query.is_set else _DEPTH)
        if len(ranking) < n:
            ranking, _ = self.rank(query, n, where, by)
        studies = {s.study_id: s for s in self.index.studies([i for i, _ in ranking])}
        known: list[tuple[Any, tuple[str, float]]] = []
        others: Ranking = []
        for one in ranking:
            value = getattr(studies[one[0]], SORTS[sort]) if one[0] in studies else None
            if value is None:
                others.append(one)
            else:
                known.append((value, one))
        known.sort(key=lambda pair: pair[0], reverse=sort.startswith("-"))
        return [one for _, one in known] + others

    def _rank_findings(
        self, wanted: Iterable[Finding], others: set[str], depth: int, where: str | None
    ) -> Ranking:
        """Rank by agreement of findings: affirmed ones sought, denied ones shunned.

        Ranked are all studies that affirm or suspect a wanted finding while those are few;
        otherwise, and for what is only shunned, the `others` that the other rankers brought.
        """
        present = tuple(f for f in wanted if f.status != "absent")
        absent = tuple(dict.fromkeys(f.name for f in wanted if f.status == "absent"))
        ids = set(others)
        if present:
            names = ", ".join(literal(name) for name in with_kinds(f.name for f in present))
            asked = (
                f"(array_has_any(findings_present, [{names}])"
                f" OR array_has_any(findings_uncertain, [{names}]))"
            )
            asked = f"{asked} AND ({where})" if where else asked
            if self.index.count(asked) <= _SCORED:
                ids |= set(self.index.ids(asked))
        found = self.index.findings(sorted(ids)) if ids else {}
        scored = [(i, _agreement(present, absent, has)) for i, has in found.items()]
        if present:  # what agrees in nothing is no answer; for a query that only shuns, it is
            scored = [(i, score) for i, score in scored if score > 0]
        return sorted(scored, key=lambda item: (-item[1], item[0]))[:depth]


def check_rankers(by: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names of some of `RANKERS`; None for no choice.

    Raises:
        UnknownName: One is none of them.
    """
    if by is None:
        return None
    names = (by,) if isinstance(by, str) else tuple(by)
    for name in names:
        if name not in RANKERS:
            raise UnknownName(unknown("ranker", name, list(RANKERS)))
    return names or None


def with_kinds(names: Iterable[str]) -> list[str]:
    """Return the findings and all their kinds, sorted."""
    known = vocabulary()
    return sorted({kind for name in names for kind in (name, *known.descendants(name))})


def _agreement(
    present: Iterable[Finding], absent: Iterable[str], findings: Iterable[Finding]
) -> float:
    """Return how well a study's findings answer the wanted ones, about -1 to 1.

    A wanted finding counts 1 when affirmed and ½ when uncertain; ¼ is added or taken for a side
    or place that agrees or contradicts; a shunned finding that is affirmed counts -1. The sum is
    divided by the number asked for.
    """
    by_name: dict[str, list[Finding]] = {}
    for finding in findings:
        for name in (finding.name, *vocabulary().ancestors(finding.name)):
            by_name.setdefault(name, []).append(finding)
    total, n = 0.0, 0
    for want in present:
        n += 1
        best = 0.0
        for have in by_name.get(want.name, ()):
            if have.status == "absent":
                continue
            score = 1.0 if have.status == "present" else 0.5
            for asked, got in ((want.laterality, have.laterality), (want.location, have.location)):
                if asked and got:
                    agrees = asked == got or "bilateral" in (asked, got)
                    score += 0.25 if agrees else -0.25
            best = max(best, score)
        total += best
    for name in absent:
        n += 1
        if any(f.status == "present" for f in by_name.get(name, ())):
            total -= 1.0
    return total / n
