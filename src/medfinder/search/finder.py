"""A query and an index → hits, each with its reasons.

The one way to search: the command line, the service and the benchmark all come through here.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.config import from_dict
from medfinder.embed import Embedder
from medfinder.errors import Incomplete, InputError, UnknownName
from medfinder.index import open as locations
from medfinder.index.interface import AnyIndex
from medfinder.index.query import Ranking
from medfinder.index.where import check_where, literal
from medfinder.model.encoder import EncoderEntry, encoders, find_encoder
from medfinder.place import Location
from medfinder.records import Hit, Study, Why
from medfinder.registry import unknown
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report
from medfinder.report.sentences import sentences
from medfinder.report.vocabulary import vocabulary
from medfinder.search import regions
from medfinder.search.explain import matched_sentences, matched_terms, query_terms
from medfinder.search.question import read_question
from medfinder.search.rankers import (
    MAX_K,
    SORTS,
    Parts,
    Query,
    Rankers,
    check_rankers,
    with_kinds,
)
from medfinder.search.refine import WEIGHTS, refined
from medfinder.search.regions import Box, Heat, RegionFeatures
from medfinder.volume.checks import CheckConfig
from medfinder.volume.volume import Volume

_EXPLAINED, _SENTENCES = 10, 2  # hits of a CT whose sentences are compared with it, and how many


class Finder:
    """Search over one index.

    Args:
        index: The index.
        encoders: Stream → embedder, for tests and for encoders of one's own; the index's own
            encoders are loaded on first need otherwise.

    Raises:
        Mismatch: An encoder is not the one that made the index's vectors.
    """

    def __init__(self, index: AnyIndex, encoders: Mapping[str, Embedder] | None = None) -> None:
        self.index = index
        self._rankers = Rankers(index)
        self._encoders = dict(encoders or {})
        for stream, embedder in self._encoders.items():
            index.check_model(stream, embedder.model_id)

    def seen_through(self, index: AnyIndex) -> "Finder":
        """Return a finder over another view of the same index; it shares what is loaded."""
        view = copy.copy(self)
        view.index = index
        view._rankers = Rankers(index)
        return view

    def search(
        self,
        text: str | None = None,
        *,
        volume: Volume | None = None,
        report: str | None = None,
        keyword: str | Sequence[str] | None = None,
        study_id: str | None = None,
        place: npt.NDArray[np.float32] | None = None,
        like: Sequence[str] = (),
        unlike: Sequence[str] = (),
        without: str | Sequence[str] | None = None,
        k: int = 10,
        offset: int = 0,
        sort: str = "score",
        where: str | None = None,
        exclude_same_patient: bool = True,
        by: str | Sequence[str] | None = None,
    ) -> list[Hit]:
        """Return the `k` studies that match best, best first.

        Give one of `text`, `volume`, `report`, `study_id` and `place`; `keyword` and `like` may
        stand alone or narrow any of them.

        Args:
            text: A sentence, in English or Spanish; "nodule without effusion" asks for the one
                and against the other.
            volume: A CT; its nearest neighbours in the volume encoder's space are returned, and
                in a joint space those whose reports lie nearest to it.
            report: A whole report.
            keyword: Findings that a hit's report must affirm; "no effusion" in a report is not
                an effusion. A finding includes its kinds: "nodule" finds "multiple nodules".
            study_id: More like this study of the index.
            place: A vector of the volumes' space, as `place_of` and `region_place` return it.
            like: Studies of the index that are right: hits are to resemble them too.
            unlike: Studies that are wrong: hits are to differ from them, and they are no hits.
            without: Findings that a hit's report must not affirm; a study without a report passes.
            k: 1 to 1000, together with `offset`.
            offset: Hits to leave out: those of the pages before.
            sort: One of `SORTS`. By date or age, the hundred best (of keywords alone: all that
                affirm them, up to a thousand) are put in that order, those without one last.
            where: SQL condition over the index's facets, such as ``"sex = 'F' AND age >= 50"``.
            exclude_same_patient: With `study_id`, leave out all studies of its patient.
            by: Compare by these `RANKERS` alone; None for all that the query allows. By "volume"
                alone a text or keyword is sought in the CTs, whatever their reports say.

        Raises:
            InputError: No query or several, a `k` out of range, a `where` that is not SQL over
                the facets, or a query that the index has no vectors for.
            UnknownName: A keyword outside the vocabulary, no such study, ranker or order.
        """
        by = check_rankers(by)
        if sort not in SORTS:
            raise UnknownName(unknown("order", sort, list(SORTS)))
        given = [
            n
            for n, v in (
                ("text", text),
                ("volume", volume),
                ("report", report),
                ("study_id", study_id),
                ("place", place),
            )
            if v is not None
        ]
        if len(given) > 1:
            raise InputError(f"Give one query, got {len(given)}: {', '.join(given)}.")
        keywords = _keywords(keyword)
        if not given and not keywords and not like:
            raise InputError("Give a query: a text, a keyword, a report, a volume or a study.")
        if not 1 <= k <= MAX_K:
            raise InputError(f"k must lie between 1 and {MAX_K}, got {k}.")
        if not 0 <= offset <= MAX_K - k:
            raise InputError(
                f"offset must lie between 0 and {MAX_K} less k, got {offset} with k = {k}. "
                "Narrow the query to see others."
            )
        text, where = _storable(text), _storable(where)
        where = None if where is None else check_where(where)
        if volume is not None:
            query = self._volume_query(volume)
        elif study_id is not None:
            query, where = self._study_query(study_id, where, exclude_same_patient)
        elif place is not None:
            query = self._place_query(place)
        elif report is not None:
            query = self._report_query(report)
        elif text is not None:
            query = self._text_query(text)
        elif keywords and by is not None and "findings" not in by:
            query = self._text_query(" ".join(map(_sentence, keywords)))
            keywords = ()  # asked, not required of the reports
        else:
            query = Query()
        query = dataclasses.replace(query, keywords=keywords)
        if like or unlike:
            is_words = text is not None or report is not None or not given
            query = self._refine(query, like, unlike, WEIGHTS["words" if is_words else "ct"])
        where = self._narrow(where, keywords, _keywords(without), unlike)
        ranking, parts = self._rankers.rank(query, offset + k, where, by)
        if sort != "score":
            ranking = self._rankers.sorted(query, ranking, where, by, sort)
        return self._hits(query, ranking[offset : offset + k], parts, offset)

    def place_of(
        self,
        text: str | None = None,
        *,
        report: str | None = None,
        keyword: str | Sequence[str] | None = None,
        study_id: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return where in the volumes' space a CT would lie that answers: what `explain` asks.

        Args:
            text: As in `search`, as are the others; one of them.

        Returns:
            (dim,) of length 1.

        Raises:
            InputError: None is given, or this index has no such place: of a text where the volume
                encoder does not read text, of a study without a volume (rule ``no-explanation``).
            UnknownName: A keyword outside the vocabulary, or no such study.
        """
        if study_id is not None:
            place = self._stored("volume", study_id)
        else:
            words = text if text is not None else report
            if words is None:
                words = " ".join(_sentence(name) for name in _keywords(keyword))
            if not words.strip():
                raise InputError("Give a query: a text, a keyword, a report or a study.")
            place = self._place(words, is_report=text is None and report is not None)
        if place is None:
            raise InputError(
                "This query has no place among this index's CTs. Index with an encoder that reads "
                "text too, such as 'medfinder', or ask by a study that has a volume.",
                rule="no-explanation",
            )
        return place

    def check_explains(self) -> None:
        """Refuse an index whose volume encoder cannot tell regions' parts; loads it at most.

        Raises:
            InputError: Rule ``no-explanation``.
        """
        self._volume_embedder().check_contributions()

    def read_regions(self, volume: Volume) -> RegionFeatures:
        """Encode a volume by region, for `explain` and `region_place`.

        Raises:
            InputError: The encoder cannot tell regions' parts (rule ``no-explanation``).
        """
        return regions.read_regions(volume, self._volume_embedder())

    def explain(self, features: RegionFeatures, place: npt.NDArray[np.float32]) -> Heat:
        """Map where a volume resembles what is asked; see `medfinder.search.regions`."""
        return regions.explain(features, place, self._volume_embedder())

    def region_place(self, features: RegionFeatures, box: Box) -> npt.NDArray[np.float32]:
        """Return the query that a part of a CT makes, (dim,).

        Raises:
            InputError: The part is empty or lies outside of what the encoder sees.
        """
        return regions.region_place(features, box, self._volume_embedder())

    def embed_volume(self, volume: Volume) -> npt.NDArray[np.float32]:
        """Return a CT's vector, (dim,), for `search` by `place`.

        Raises:
            InputError: The index has no volume vectors, or the volume cannot be encoded.
        """
        return self._volume_embedder().embed_volume(volume)

    def embedders(self) -> dict[str, Embedder]:
        """Return stream → encoder, all of them loaded.

        Raises:
            UnknownName: One is of somebody's own, which is not registered.
            Incomplete: It was a checkpoint that is no longer where it was.
        """
        found = {stream: self._embedder(stream) for stream in self.index.model_ids}
        return {stream: embedder for stream, embedder in found.items() if embedder is not None}

    def over(self, index: AnyIndex) -> "Finder":
        """Return a finder over another index, with the encoders loaded here that made its vectors."""
        ours = {
            stream: embedder
            for stream, embedder in self._encoders.items()
            if index.model_ids.get(stream) == embedder.model_id
        }
        return Finder(index, ours)

    @cached_property
    def check(self) -> CheckConfig:
        """What a sound volume is, as the studies of this index were curated."""
        config = self.index.manifest().config
        return from_dict(CheckConfig, config.get("check", {}))

    def status(self) -> dict[str, Any]:
        """Return counts and encoders, for a page or a health check."""
        return {"n_studies": self.index.count(), "encoders": dict(self.index.model_ids)}

    # -- queries -----------------------------------------------------------------

    def _text_query(self, text: str) -> Query:
        if not text.strip():
            raise InputError("The query is empty. Write a sentence or a finding.")
        return Query(
            text=text,
            wanted=extract_findings(text),
            report_vector=self._embed_text("report", text),
            volume_vector=self._place(text),
        )

    def _report_query(self, report: str) -> Query:
        parsed = parse_report(report)
        return Query(
            text=parsed.text,
            is_report=True,
            wanted=extract_findings(parsed),
            report_vector=self._embed_text("report", parsed.text),
            volume_vector=self._place(parsed.text, is_report=True),
        )

    def _volume_query(self, volume: Volume) -> Query:
        return self._place_query(self._volume_embedder().embed_volume(volume))

    def _place_query(self, place: npt.NDArray[np.float32]) -> Query:
        return Query(volume_vector=place, joint_vector=self._in_joint(place))

    def _in_joint(self, vector: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
        """Return a volume's vector where reports can be compared with it, else None."""
        return vector if "joint" in self.index.model_ids and self.has_joint_space else None

    def _study_query(
        self, study_id: str, where: str | None, exclude_same_patient: bool
    ) -> tuple[Query, str | None]:
        (study,) = self.index.studies([study_id])
        excluded = (
            f"patient_id != {literal(study.patient_id)}"
            if exclude_same_patient
            else f"study_id != {literal(study_id)}"
        )
        vector = self._stored("volume", study_id)
        query = Query(
            text=study.words,
            is_report=True,
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

    def _refine(
        self,
        query: Query,
        like: Sequence[str],
        unlike: Sequence[str],
        weights: tuple[float, float],
    ) -> Query:
        """Move the query's vectors; where it has none, the liked studies are the query."""
        moved: dict[str, npt.NDArray[np.float32] | None] = {}
        for stream in ("volume", "report"):
            near, far = self._stored_of(stream, like), self._stored_of(stream, unlike)
            place = query.volume_vector if stream == "volume" else query.report_vector
            moved[f"{stream}_vector"] = refined(place, near, far, weights)
        if query.joint_vector is not None:
            moved["joint_vector"] = self._in_joint(moved["volume_vector"])
        return dataclasses.replace(query, **moved)  # type: ignore[arg-type]

    def _stored_of(self, stream: str, ids: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        if not ids or stream not in self.index.model_ids:
            return []
        return [v for v in self.index.vectors(stream, list(ids)) if v is not None]

    # -- encoders ----------------------------------------------------------------

    def _volume_embedder(self) -> Embedder:
        embedder = self._embedder("volume")
        if embedder is None:
            raise InputError(
                "This index has no volume vectors. Build one with 'medfinder index --encoder NAME'.",
                rule="no-volumes",
            )
        return embedder

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

    def _narrow(
        self,
        where: str | None,
        keywords: tuple[str, ...],
        without: tuple[str, ...],
        unlike: Sequence[str],
    ) -> str | None:
        parts = [f"({where})"] if where else []
        for name in keywords:
            kinds = ", ".join(literal(n) for n in with_kinds([name]))
            parts.append(f"array_has_any(findings_present, [{kinds}])")
        if without:
            kinds = ", ".join(literal(n) for n in with_kinds(without))
            parts.append(f"(array_has_any(findings_present, [{kinds}]) IS NOT TRUE)")
        if unlike:
            parts.append(f"study_id NOT IN ({', '.join(map(literal, unlike))})")
        return " AND ".join(parts) or None

    def _hits(self, query: Query, ranking: Ranking, parts: Parts, offset: int) -> list[Hit]:
        studies = {s.study_id: s for s in self.index.studies([i for i, _ in ranking])}
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
            for rank, (study_id, score) in enumerate(ranking, start=offset + 1)
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


def open_index(location: Location) -> Finder:
    """Open the index that ``medfinder index`` wrote, ready to search.

    Args:
        location: A folder, ``s3://…`` or ``postgresql://…``.

    Raises:
        InputError: There is none.
        Incomplete: The index is not finished; run ``medfinder index`` again.
    """
    return Finder(locations.open_index(location))


def _sentence(finding: str) -> str:
    return f"{finding.capitalize()}."


def _affirms(sentence: str) -> bool:
    return any(finding.status == "present" for finding in extract_findings(sentence))


def _storable(text: str | None) -> str | None:
    """Return the text with what UTF-8 cannot say (bytes of another encoding) as marks."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _keywords(keyword: str | Sequence[str] | None) -> tuple[str, ...]:
    if keyword is None:
        return ()
    words = [keyword] if isinstance(keyword, str) else list(keyword)
    return tuple(dict.fromkeys(vocabulary().resolve(word) for word in words))


def _why(query: Query, study: Study, parts: Mapping[str, float]) -> Why:
    names = {f.name for f in query.wanted if f.status != "absent"} | set(query.keywords)
    wide = names | {n for name in names for n in vocabulary().descendants(name)}
    found = [f for f in study.findings if f.status == "present" and f.name in wide]
    # Reports share half of their words, whatever they say: a shared finding says why, if there is one.
    is_told = query.is_report and bool(found)
    words = query_terms(query.text) if study.words and not is_told else ()
    terms = tuple(dict.fromkeys([*matched_terms(words, study.words), *(f.name for f in found)]))
    shown = matched_sentences(words, study.words, found) if words or found else ()
    return Why(parts=dict(parts), terms=terms, sentences=shown)
