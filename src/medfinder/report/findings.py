"""Report → findings: what it states, denies or leaves open, on which side and where.

Sentence by sentence: phrases of the vocabulary are found, the sentence's cues judge each mention
(`assertion`), and the nearest words for side and place in its clause are attached. Mentions in
the clinical history, technique and comparison sections, and of a patient's past, are no findings.
"""

import sys
from bisect import bisect_right
from dataclasses import dataclass

from medfinder.records import Finding, Language, Laterality, Report, Status
from medfinder.report.assertion import Clauses, Cues, cues
from medfinder.report.language import detect_language
from medfinder.report.parse import sections
from medfinder.report.phrases import Match
from medfinder.report.sentences import sentences
from medfinder.report.tokens import Tokens, fold, tokenize
from medfinder.report.vocabulary import Concept, Vocabulary, vocabulary

__all__ = ["extract_findings", "sentences"]

_NO_FINDINGS_IN = ("history", "technique", "comparison")
_NOT = frozenset(["not", "no"])
# A longer "sentence" is a table or no prose; it is read in pieces, so that time stays linear.
_MAX_WORDS = 128
# Places that hold for almost any mention; a better one in the clause is preferred.
_VAGUE = {"lung field": 2, "hemithorax": 2, "bone": 1, "bronchi": 1, "pleural": 1, "cardiac": 1}
_VAGUE |= {"peripheral": 1, "central": 1, "subpleural": 1}


@dataclass(frozen=True, slots=True)
class _Mention:
    concept: Concept
    start: int
    end: int
    kind: str  # "stated", or "normal" or "ignored": its words, without stating it


def extract_findings(report: Report | str, language: Language | None = None) -> tuple[Finding, ...]:
    """Return what a report states of each finding it mentions, in order of appearance.

    Every mention counts, so a name can occur more than once and with different statuses.
    A mention that falls under one of the 18 labels (`Vocabulary.labels`) and is present or
    uncertain also yields a finding with the label's name, over the same characters.

    Args:
        report: A parsed report, or text, which is taken as it is: offsets refer to it.
        language: Of the text; a report's own, or told from the text's words, when None.

    Returns:
        Findings whose `start` and `end` cut the mention out of the report's text. Any string is
        accepted; one without findings yields an empty tuple. Time grows linearly with its length.
    """
    text = report if isinstance(report, str) else report.text
    if language is None:
        language = detect_language(text) if isinstance(report, str) else report.language
    known = vocabulary()
    told = cues(language)
    folded = fold(text)
    skipped = [(s.start, s.end) for s in sections(text) if s.name in _NO_FINDINGS_IN]
    found: list[Finding] = []
    is_outside = False
    previous_end = 0
    for start, end in sentences(text):
        tokens = tokenize(folded, language, start, end)
        if "\n" in text[previous_end:start] or '"' in text[previous_end:start]:
            is_outside = False
        previous_end = end
        is_outside = _is_outside(tokens.words, told, is_outside)
        for k in range(0, len(tokens.words), _MAX_WORDS):
            part = tokens.part(k, k + _MAX_WORDS)
            found += _of_sentence(part, language, known, told, is_outside)
    return tuple(f for f in found if not _is_within(f.start, skipped))


def _is_within(at: int, spans: list[tuple[int, int]]) -> bool:
    """Tell whether an offset lies in one of the spans, which are in order and apart."""
    k = bisect_right(spans, (at, sys.maxsize)) - 1
    return k >= 0 and at < spans[k][1]


def _is_outside(words: list[str], told: Cues, was_outside: bool) -> bool:
    """Tell whether a sentence is about an organ outside the lungs; one about none goes on."""
    if any(word in told.inside for word in words):
        return False
    if any(word in told.outside for word in words):
        return True
    return was_outside and not any(word in told.weakly_inside for word in words)


def _of_sentence(
    tokens: Tokens, language: Language, known: Vocabulary, told: Cues, is_outside: bool
) -> list[Finding]:
    words = tokens.words
    matches = known.phrases(language, "finding").matches(words)
    if not matches:
        return []
    mentions = _mentions(matches, known, is_outside)
    clauses = Clauses(words, language, [(m.start, m.end) for m in mentions])
    places = _longest_places(known.phrases(language, "location").matches(words))
    found: list[Finding] = []
    for mention in mentions:
        judged = clauses.judge(mention.start, mention.end)
        # "Heart size is not normal" does not say which way.
        is_unclear = mention.kind == "normal" and not _NOT.isdisjoint(
            words[mention.start : mention.end]
        )
        if judged == "past" or is_unclear:
            continue
        status: Status = "absent" if mention.kind == "normal" else judged
        # "pleural" of "pleural effusion" says nothing of the consolidation beside it.
        free = [p for p in places if not _is_within_another(p, mention, mentions)]
        others = [m.start for m in mentions if not _overlap(m, mention)]
        laterality, location = _where(words, mention, clauses, free, told, known, others)
        concept = mention.concept
        finding = Finding(
            name=concept.name,
            cui=concept.cui,
            status=status,
            laterality=laterality,
            location=location,
            start=tokens.starts[mention.start],
            end=tokens.ends[mention.end - 1],
        )
        found.append(finding)
        label = concept.label
        if label and label != concept.name and (status != "absent" or concept.denies_label):
            found.append(
                Finding(
                    name=label,
                    cui=known.get(label).cui,
                    status=status,
                    laterality=laterality,
                    location=location,
                    start=finding.start,
                    end=finding.end,
                )
            )
    unique: dict[tuple[str, Status, int, int], Finding] = {}
    for finding in found:
        unique.setdefault((finding.name, finding.status, finding.start, finding.end), finding)
    stated = list(unique.values())
    # "Nodes, not pathological": the label's convention counts the nodes, so it is not denied too.
    kept = [f for f in stated if f.status != "absent" or not any(_overrules(o, f) for o in stated)]
    return sorted(kept, key=lambda f: f.start)


def _overrules(other: Finding, denied: Finding) -> bool:
    return (
        other.name == denied.name
        and other.status == "present"
        and other.start < denied.end
        and denied.start < other.end
    )


def _mentions(matches: list[Match], known: Vocabulary, is_outside: bool) -> list[_Mention]:
    """Return the mentions that mean something: the most specific, the longest, in the lungs."""
    mentions = []
    for match in matches:
        kind, _, name = match.key.rpartition(":")
        mentions.append(_Mention(known.get(name), match.start, match.end, kind or "stated"))
    kept = [
        mention
        for mention in mentions
        if not any(_replaces(other, mention, known) for other in mentions if other is not mention)
    ]
    return [m for m in kept if m.kind != "ignored" and not (is_outside and m.concept.needs_lung)]


def _replaces(other: _Mention, mention: _Mention, known: Vocabulary) -> bool:
    """Tell whether `other` says all that `mention` says, and more."""
    a, b = mention, other
    if not _overlap(a, b):
        return False
    if a.concept.name == b.concept.name:
        if a.kind != b.kind:
            return b.kind == "ignored" or a.kind == "normal"
        # Of two that overlap, such as "pleural effusion" and "effusion in the hemithorax", the
        # first; of two that start together, the longer.
        return b.start < a.start or (b.start == a.start and a.end < b.end)
    if b.kind != "stated":
        return False
    contained = b.start <= a.start and a.end <= b.end
    if (contained or a.start == b.start) and known.covers(b.concept.name, a.concept.name):
        return True
    return contained and a.concept.name in known.ancestors(b.concept.name)


def _overlap(a: _Mention, b: _Mention) -> bool:
    return a.start < b.end and b.start < a.end


def _is_within_another(place: Match, mention: _Mention, mentions: list[_Mention]) -> bool:
    if mention.start < place.end and place.start < mention.end:
        return False
    return any(m.start <= place.start and place.end <= m.end for m in mentions)


def _longest_places(matches: list[Match]) -> list[Match]:
    kept: list[Match] = []
    covered = 0
    for match in sorted(matches, key=lambda m: (m.start, -m.end)):
        if match.start >= covered:
            kept.append(match)
            covered = match.end
    return kept


def _where(
    words: list[str],
    mention: _Mention,
    clauses: Clauses,
    places: list[Match],
    told: Cues,
    known: Vocabulary,
    others: list[int],
) -> tuple[Laterality | None, str | None]:
    """Return the side and place of a mention: the nearest words for them in its clause.

    A clause that names no side takes the last one named before it in the sentence. `others` are
    the words at which other mentions start: what lies behind one of them is that one's.
    """
    low, high = clauses.span(mention.start)
    high = max(high, mention.end)

    def is_anothers(start: int, end: int, reach: int) -> bool:
        """Tell "left" of "right effusion and left lower lobe atelectasis" from the effusion's."""
        ahead = start >= mention.end and any(
            words[i] in told.joins for i in range(mention.end, start)
        )
        return ahead and any(
            end <= other <= end + reach and not any(w in told.joins for w in words[end:other])
            for other in others
        )

    def distance(start: int, end: int) -> int:
        if start >= mention.end:
            between = range(mention.end, start)
        elif end <= mention.start:
            between = range(end, mention.start)
        else:
            return 0
        joins = sum(words[i] in told.joins for i in between)
        crossed = sum(between.start <= other < between.stop for other in others)
        return len(between) + 3 * joins + 10 * crossed

    location, place = None, None
    best = None
    for candidate in places:
        in_clause = candidate.end > low and candidate.start < high
        if in_clause and not is_anothers(candidate.start, candidate.end, 1):
            # "lung" says less than "upper lobe", wherever it stands.
            rank = (_VAGUE.get(candidate.key, 0), distance(candidate.start, candidate.end))
            if best is None or rank < best:
                best, place, location = rank, candidate, candidate.key
    if location is not None and known.get(location).side is not None:
        return known.get(location).side, location
    sides = [s for s in _sides(words, told) if not is_anothers(s[0], s[0] + 1, 3)]
    own = [s for s in sides if low <= s[0] < high] or [s for s in sides[-1:] if s[0] < low]
    if not own:
        return None, location
    at, side = min(own, key=lambda s: distance(s[0], s[0] + 1))
    if place is not None and side != "bilateral":
        # The side of "upper lobe of the left lung" stands beside the place, not the mention.
        near = [s for s in own if place.start - 2 <= s[0] <= place.end + 2]
        at, side = near[0] if near and (at, side) not in near else (at, side)
    for other_at, other in own:
        first, last = sorted((at, other_at))
        parted = first < mention.start < last or any(first < o < last for o in others)
        if {side, other} == {"left", "right"} and not parted:
            return "bilateral", location
    return side, location


def _sides(words: list[str], told: Cues) -> list[tuple[int, Laterality]]:
    """Return the words that name a side, in order."""
    sides: list[tuple[int, Laterality]] = []
    for i, word in enumerate(words):
        if word in told.both:
            sides.append((i, "bilateral"))
        elif word in told.left:
            sides.append((i, "left"))
        elif word in told.right and words[i + 1 : i + 2] != ["pcr"]:  # RT-PCR is no side
            sides.append((i, "right"))
    return sides
