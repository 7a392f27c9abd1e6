"""A query and an index → hits, each with its reasons.

The one way to search: the command line, the service and the benchmark all come through here.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.artifact import read_manifest
from medfinder.config import from_dict
from medfinder.embed import Embedder
from medfinder.errors import Incomplete, InputError, UnknownName
from medfinder.index.store import Index
from medfinder.index.where import check_where, literal
from medfinder.model.encoder import EncoderEntry, encoders, find_encoder
from medfinder.records import Finding, Hit, Study, Why
from medfinder.registry import unknown
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report
from medfinder.report.sentences import sentences
from medfinder.report.vocabulary import vocabulary
from medfinder.search.explain import matched_sentences, matched_terms, query_terms
from medfinder.search.hybrid import reciprocal_rank_fusion
from medfinder.search.question import read_question
from medfinder.volume.checks import CheckConfig
from medfinder.volume.volume import Volume

MAX_K = 1000
RANKERS = ("volume", "joint", "report", "bm25", "findings")
"""What a query may be compared with: CTs, the reports' places in the CTs' space, the reports' places
in the sentence encoder's space, their words, and the findings read from them."""
_SCORED = 2000  # up to this many studies with a wanted finding are all compared, one by one
_EXPLAINED, _SENTENCES = 10, 2  # hits of a CT whose sentences are compared with it, and how many
_DEPTH = 100  # how far each ranker is read before fusing; measured recall hardly grows beyond

Ranking = list[tuple[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Query:
    """What is asked, in the forms that rankers understand."""

    text: str = ""
    keywords: tuple[str, ...] = ()
    wanted: tuple[Finding, ...] = ()
    volume_vector: npt.NDArray[np.float32] | None = None
    report_vector: npt.NDArray[np.float32] | None = None
    joint_vector: npt.NDArray[np.float32] | None = None  # compared with reports' places there


class Finder:
    """Search over one index.

    Args:
        index: The index.
        encoders: Stream → embedder, for tests and for encoders of one's own; the index's own
            encoders are loaded on first need otherwise.

    Raises:
        Mismatch: An encoder is not the one that made the index's vectors.
    """

    def __init__(self, index: Index, encoders: Mapping[str, Embedder] | None = None) -> None:
        self.index = index
        self._encoders = dict(encoders or {})
        for stream, embedder in self._encoders.items():
            index.check_model(stream, embedder.model_id)

    def search(
        self,
        text: str | None = None,
        *,
        volume: Volume | None = None,
        report: str | None = None,
        keyword: str | Sequence[str] | None = None,
        study_id: str | None = None,
        k: int = 10,
        where: str | None = None,
        exclude_same_patient: bool = True,
        by: str | Sequence[str] | None = None,
    ) -> list[Hit]:
        """Return the `k` studies that match best, best first.

        Give one of `text`, `volume`, `report` and `study_id`; `keyword` may stand alone or
        narrow any of them.

        Args:
            text: A sentence, in English or Spanish; "nodule without effusion" asks for the one
                and against the other.
            volume: A CT; its nearest neighbours in the volume encoder's space are returned, and
                in a joint space those whose reports lie nearest to it.
            report: A whole report.
            keyword: Findings that a hit's report must affirm; "no effusion" in a report is not
                an effusion. A finding includes its kinds: "nodule" finds "multiple nodules".
            study_id: More like this study of the index.
            k: 1 to 1000.
            where: SQL condition over the index's facets, such as ``"sex = 'F' AND age >= 50"``.
            exclude_same_patient: With `study_id`, leave out all studies of its patient.
            by: Compare by these `RANKERS` alone; None for all that the query allows. By "volume"
                alone a text or keyword is sought in the CTs, whatever their reports say.

        Raises:
            InputError: No query or several, a `k` out of range, a `where` that is not SQL over
                the facets, or a query that the index has no vectors for.
            UnknownName: A keyword outside the vocabulary, no such study, or no such ranker.
        """
        by = _rankers(by)
        given = [
            n
            for n, v in (
                ("text", text),
                ("volume", volume),
                ("report", report),
                ("study_id", study_id),
            )
            if v is not None
        ]
        if len(given) > 1:
            raise InputError(f"Give one query, got {len(given)}: {', '.join(given)}.")
        keywords = _keywords(keyword)
        if not given and not keywords:
            raise InputError("Give a query: a text, a keyword, a report, a volume or a study.")
        if not 1 <= k <= MAX_K:
            raise InputError(f"k must lie between 1 and {MAX_K}, got {k}.")
        text, where = _storable(text), _storable(where)
        where = None if where is None else check_where(where)
        if volume is not None:
            query = self._volume_query(volume)
        elif study_id is not None:
            query, where = self._study_query(study_id, where, exclude_same_patient)
        elif report is not None:
            query = self._report_query(report)
        elif text is not None:
            query = self._text_query(text)
        elif by is not None and "findings" not in by:
            query = self._text_query(" ".join(f"{name.capitalize()}." for name in keywords))
            keywords = ()  # asked, not required of the reports
        else:
            query = _Query()
        query = dataclasses.replace(query, keywords=keywords)
        return self._rank(query, k, self._narrow(where, keywords), by)

    @cached_property
    def check(self) -> CheckConfig:
        """What a sound volume is, as the studies of this index were curated."""
        config = read_manifest(self.index.folder, "index").config
        return from_dict(CheckConfig, config.get("check", {}))

    def status(self) -> dict[str, Any]:
        """Return counts and encoders, for a page or a health check."""
        return {"n_studies": self.index.count(), "encoders": dict(self.index.model_ids)}

    # -- queries -----------------------------------------------------------------

    def _text_query(self, text: str) -> _Query:
        if not text.strip():
            raise InputError("The query is empty. Write a sentence or a finding.")
        return _Query(
            text=text,
            wanted=extract_findings(text),
            report_vector=self._embed_text("report", text),
            volume_vector=self._place(text),
        )

    def _report_query(self, report: str) -> _Query:
        parsed = parse_report(report)
        return _Query(
            text=parsed.text,
            wanted=extract_findings(parsed),
            report_vector=self._embed_text("report", parsed.text),
            volume_vector=self._place(parsed.text, is_report=True),
        )

    def _volume_query(self, volume: Volume) -> _Query:
        embedder = self._embedder("volume")
        if embedder is None:
            raise InputError(
                "This index has no volume vectors. Build one with 'medfinder index --encoder NAME'."
            )
        vector = embedder.embed_volume(volume)
        return _Query(volume_vector=vector, joint_vector=self._in_joint(vector))

    def _in_joint(self, vector: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
        """Return a volume's vector where reports can be compared with it, else None."""
        return vector if "joint" in self.index.model_ids and self.has_joint_space else None

    def _study_query(
        self, study_id: str, where: str | None, exclude_same_patient: bool
    ) -> tuple[_Query, str | None]:
        (study,) = self.index.studies([study_id])
        excluded = (
            f"patient_id != {literal(study.patient_id)}"
            if exclude_same_patient
            else f"study_id != {literal(study_id)}"
        )
        vector = self._stored("volume", study_id)
        query = _Query(
            text=study.words,
            wanted=tuple(study.findings),
            volume_vector=vector,
            report_vector=self._stored("report", study_id),
            joint_vector=None if study.report else self._in_joint(vector),
        )
        return query, f"({where}) AND {excluded}" if where else excluded

    def _stored(self, stream: str, study_id: str) -> npt.NDArray[np.float32] | None:
        if stream not in self.index.model_ids:
            return None
        (vector,) = self.index.vectors(stream, [study_id])
        return vector

    # -- encoders ----------------------------------------------------------------

    def _embedder(self, stream: str) -> Embedder | None:
        if stream not in self.index.model_ids:
            return None
        if stream not in self._encoders:
            embedder = Embedder(self._entry(stream).load())
            self.index.check_model(stream, embedder.model_id)
            self._encoders[stream] = embedder
        return self._encoders[stream]

    def _entry(self, stream: str) -> EncoderEntry:
        """Return the stream's encoder by what loads it, or another name of the same model.

        Raises:
            UnknownName: It is an encoder of somebody's own, which is not registered.
            Incomplete: It was a checkpoint that is no longer where it was.
        """
        name, model_id = self.index.encoder_names[stream], self.index.model_ids[stream]
        try:
            return find_encoder(name)
        except Incomplete as error:
            for entry in map(encoders.get, encoders):
                if entry.info.model_id == model_id:
                    return entry
            raise Incomplete(
                f"{error} It made the {stream} vectors of this index: put it back, or say where it "
                "lies now with 'medfinder index STUDIES INDEX --encoder FOLDER', which embeds nothing "
                "again."
            ) from None

    def _embed_text(self, stream: str, text: str) -> npt.NDArray[np.float32] | None:
        embedder = self._embedder(stream)
        return None if embedder is None else embedder.embed_texts([text]).vectors[0]

    def _place(self, text: str, is_report: bool = False) -> npt.NDArray[np.float32] | None:
        """Return where the volumes that answer lie, where their encoder reads text too."""
        embedder = self._embedder("volume") if self.has_joint_space else None
        if embedder is None:
            return None
        question = read_question(text, embedder.info.languages, is_report)
        return question.place(lambda texts: embedder.embed_texts(texts).vectors)

    @cached_property
    def has_joint_space(self) -> bool:
        """Whether the volume encoder of this index embeds text into the same space.

        Told by what the encoder declares: it is not loaded for this.
        """
        if "volume" not in self.index.model_ids:
            return False
        if "volume" in self._encoders:
            return "text" in self._encoders["volume"].info.streams
        try:
            return "text" in self._entry("volume").info.streams
        except UnknownName:
            return False

    # -- ranking -----------------------------------------------------------------

    def _narrow(self, where: str | None, keywords: tuple[str, ...]) -> str | None:
        parts = [f"({where})"] if where else []
        for name in keywords:
            kinds = ", ".join(literal(n) for n in _with_kinds([name]))
            parts.append(f"array_has_any(findings_present, [{kinds}])")
        return " AND ".join(parts) or None

    def _rank(
        self, query: _Query, k: int, where: str | None, by: tuple[str, ...] | None = None
    ) -> list[Hit]:
        depth = max(_DEPTH, k)
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
            names = _with_kinds(query.keywords)
            affirming = self.index.search_findings(names, k=depth, where=where)
            rankings["findings"] = [(i, 1.0) for i, _ in affirming]  # `where` asks for every one
        if len(rankings) == 1:
            ((_, fused),) = rankings.items()
        else:
            fused = reciprocal_rank_fusion({n: [i for i, _ in r] for n, r in rankings.items()})
        fused = fused[:k]
        parts = {name: dict(ranking) for name, ranking in rankings.items()}
        studies = {s.study_id: s for s in self.index.studies([i for i, _ in fused])}
        hits = [
            Hit(
                rank=rank,
                study_id=study_id,
                score=float(score),
                why=_why(
                    query,
                    studies[study_id],
                    {n: p[study_id] for n, p in parts.items() if study_id in p},
                ),
                study=studies[study_id],
            )
            for rank, (study_id, score) in enumerate(fused, start=1)
            if study_id in studies
        ]
        if query.joint_vector is not None:
            self._explain(query.joint_vector, hits)
        return hits

    def _explain(self, place: npt.NDArray[np.float32], hits: list[Hit]) -> None:
        """Give the first hits those sentences of their reports that lie nearest to a volume.

        Sentences that affirm a finding go before those that only deny, which are true of most.
        """
        embedder = self._embedder("volume")
        assert embedder is not None
        told = {}
        for hit in hits[:_EXPLAINED]:
            text = hit.study.text
            lines = [s for a, b in sentences(text) if (s := text[a:b].strip())]
            told[hit.rank] = [s for s in lines if _affirms(s)] or lines
        distinct = list(dict.fromkeys(s for lines in told.values() for s in lines))
        scores = embedder.embed_texts(distinct).vectors @ place
        score = dict(zip(distinct, scores.tolist(), strict=True))
        for i, hit in enumerate(hits[:_EXPLAINED]):
            nearest = sorted(dict.fromkeys(told[hit.rank]), key=lambda s: -score[s])[:_SENTENCES]
            hits[i] = dataclasses.replace(
                hit, why=dataclasses.replace(hit.why, sentences=tuple(nearest))
            )

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
            names = ", ".join(literal(name) for name in _with_kinds(f.name for f in present))
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


def open_index(folder: str | Path) -> Finder:
    """Open the index that ``medfinder index`` wrote to `folder`, ready to search.

    Raises:
        InputError: No such folder.
        Incomplete: The index is not finished; run ``medfinder index`` again.
    """
    return Finder(Index.open(Path(folder)))


def _affirms(sentence: str) -> bool:
    return any(finding.status == "present" for finding in extract_findings(sentence))


def _rankers(by: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if by is None:
        return None
    names = (by,) if isinstance(by, str) else tuple(by)
    for name in names:
        if name not in RANKERS:
            raise UnknownName(unknown("ranker", name, list(RANKERS)))
    return names or None


def _storable(text: str | None) -> str | None:
    """Return the text with what UTF-8 cannot say (bytes of another encoding) as marks."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _keywords(keyword: str | Sequence[str] | None) -> tuple[str, ...]:
    if keyword is None:
        return ()
    words = [keyword] if isinstance(keyword, str) else list(keyword)
    return tuple(dict.fromkeys(vocabulary().resolve(word) for word in words))


def _with_kinds(names: Iterable[str]) -> list[str]:
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


def _why(query: _Query, study: Study, parts: Mapping[str, float]) -> Why:
    names = {f.name for f in query.wanted if f.status != "absent"} | set(query.keywords)
    wide = names | {n for name in names for n in vocabulary().descendants(name)}
    found = [f for f in study.findings if f.status == "present" and f.name in wide]
    words = query_terms(query.text) if study.words else ()
    terms = tuple(dict.fromkeys([*matched_terms(words, study.words), *(f.name for f in found)]))
    shown = matched_sentences(words, study.words, found) if words or found else ()
    return Why(parts=dict(parts), terms=terms, sentences=shown)
