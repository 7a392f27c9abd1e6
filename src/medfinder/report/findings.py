"""Report → findings: what it states, denies or leaves open, on which side and where.

Sentence by sentence: phrases of the vocabulary are found, the sentence's cues judge each mention
(`assertion`), and the nearest words for side and place in its clause are attached. Mentions in
the clinical history, technique and comparison sections, and of a patient's past, are no findings.
"""

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
        if any(low <= start < high for low, high in skipped):
            continue
        tokens = tokenize(folded, language, start, end)
        if not tokens.words:
            continue
        if "\n" in text[previous_end:start] or '"' in text[previous_end:start]:
            is_outside = False
        previous_end = end
        is_outside = _is_outside(tokens.words, told, is_outside)
        found += _of_sentence(tokens, language, known, told, is_outside)
    return tuple(found)


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
        if judged == "past":
            continue
        status: Status = "absent" if mention.kind == "normal" else judged
        # "pleural" of "pleural effusion" says nothing of the consolidation beside it.
        free = [p for p in places if not _is_within_another(p, mention, mentions)]
        laterality, location = _where(words, mention, clauses, free, told, known)
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
        if label and label != concept.name:
            is_same = known.get(label).same_as == concept.name
            if status != "absent" or is_same:
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
    overlaps = a.start < b.end and b.start < a.end
    if not overlaps:
        return False
    contained = b.start <= a.start and a.end <= b.end
    if a.concept.name == b.concept.name:
        if a.kind != b.kind:
            return b.kind == "ignored" or a.kind == "normal"
        # Of two that overlap, such as "pleural effusion" and "effusion in the hemithorax", the
        # first; of two that start together, the longer.
        return b.start < a.start or (b.start == a.start and a.end < b.end)
    if b.kind != "stated":
        return False
    if a.concept.name in b.concept.covers:
        return True
    if not contained:
        return False
    return a.concept.name in known.ancestors(b.concept.name)


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
) -> tuple[Laterality | None, str | None]:
    """Return the side and place of a mention: the nearest words for them in its clause.

    A clause that names none of its own takes what the sentence says before it.
    """
    low, high = clauses.span(mention.start)
    high = max(high, mention.end)
    own = [p for p in places if p.end > low and p.start < high]
    place = _nearest(own, mention)
    location = place.key if place is not None else None
    side = known.get(location).side if location is not None else None
    if side is None:
        near = range(low, high)
        side = _side(words, near, mention, place, told)
    if side is None and low:
        side = _side(words, range(low), mention, place, told)
    return side, location


def _nearest(places: list[Match], mention: _Mention) -> Match | None:
    """Return the place fewest words away; at equal distance, and within the mention, the first."""
    best: tuple[int, int, int] | None = None
    chosen = None
    for place in places:
        if place.start >= mention.end:
            gap = place.start - mention.end
        elif place.end <= mention.start:
            gap = mention.start - place.end
        else:
            gap = 0
        # "lung" says less than "upper lobe", wherever it stands.
        rank = (_VAGUE.get(place.key, 0), gap, place.start)
        if best is None or rank < best:
            best, chosen = rank, place
    return chosen


def _side(
    words: list[str], where: range, mention: _Mention, place: Match | None, told: Cues
) -> Laterality | None:
    """Return the side named nearest the mention or its place; both sides make it bilateral."""
    anchors = [(mention.start, mention.end)]
    if place is not None:
        anchors.append((place.start, place.end))
    best: dict[Laterality, int] = {}
    for i in where:
        word = words[i]
        side: Laterality
        if word in told.both:
            side = "bilateral"
        elif word in told.left:
            side = "left"
        elif word in told.right:
            side = "right"
        else:
            continue
        gap = min(max(start - i, i - end + 1, 0) for start, end in anchors)
        best[side] = min(gap, best.get(side, gap))
    if not best:
        return None
    nearest = min(best, key=lambda s: best[s])
    if nearest != "bilateral" and {"left", "right"} <= best.keys():
        return "bilateral"
    return nearest
