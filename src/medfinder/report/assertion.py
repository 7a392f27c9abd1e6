"""Cue words of a sentence → whether each mention in it is denied, doubted, past or plain.

ConText-like rules: a cue reaches forward or backward until its clause ends. A clause ends at a
colon or semicolon, at words such as "but" and "pero", and where "and" or a comma joins two
statements that each have a verb. A cue inside brackets reaches only inside them. Phrases that
merely contain a cue ("no change in", "cannot be excluded") are told apart by being longer.
"""

import tomllib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from medfinder.records import Language
from medfinder.report.phrases import Phrases
from medfinder.report.tokens import fold, stem

Assertion = Literal["present", "absent", "uncertain", "past"]

_KINDS = (
    "deny_before",
    "deny_after",
    "deny_not",
    "doubt_before",
    "doubt_after",
    "doubt_around",
    "doubt_not",
    "past_before",
    "stop",
)
_HARD_STOPS = frozenset(";:")
_PAST_REACH = 8
_NO = frozenset(
    ["no", "none", "absent", "negative", "nil", "not", "ninguno", "ausente", "negativo"]
)


@dataclass(frozen=True, slots=True)
class _Cue:
    start: int
    end: int
    kinds: frozenset[str]


@dataclass(frozen=True, slots=True)
class Cues:
    """The cue words of one language, ready to match.

    Attributes:
        phrases: All cue phrases; a key is a kind of cue.
        verbs: Finite verbs.
        joins: Words that can join two statements.
        outside: Words for organs other than the lungs.
        inside: Words that only the lungs have.
        weakly_inside: Words of the lungs that other organs share.
        left, right, both: Words for sides.
    """

    phrases: Phrases
    verbs: frozenset[str]
    joins: frozenset[str]
    outside: frozenset[str]
    inside: frozenset[str]
    weakly_inside: frozenset[str]
    left: frozenset[str]
    right: frozenset[str]
    both: frozenset[str]


@cache
def cues(language: Language) -> Cues:
    """Return the packaged cues of a language, read once a process."""
    text = resources.files(__package__).joinpath("cues.toml").read_text(encoding="utf-8")
    lists = tomllib.loads(text)[language]
    phrases = Phrases(language)
    for kind in _KINDS:
        phrases.add(kind, lists[kind])

    def stems(name: str) -> frozenset[str]:
        return frozenset(stem(fold(word), language) for word in lists[name])

    return Cues(
        phrases=phrases,
        verbs=stems("verb"),
        joins=stems("join"),
        outside=stems("outside"),
        inside=stems("inside"),
        weakly_inside=stems("weakly_inside"),
        left=stems("left"),
        right=stems("right"),
        both=stems("both"),
    )


class Clauses:
    """One sentence's clauses and cues; judges spans of its words.

    Args:
        words: The sentence, tokenized.
        language: Whose cues to use.
        mentions: The words (start, end) of every mention in the sentence.
    """

    def __init__(
        self, words: list[str], language: Language, mentions: Sequence[tuple[int, int]] = ()
    ) -> None:
        self._words = words
        self._starts = sorted(start for start, _ in mentions)
        known = cues(language)
        self._cues = _longest(known.phrases, words)
        self.bracket = _brackets(words)
        self.breaks = self._find_breaks(known)

    def span(self, at: int) -> tuple[int, int]:
        """Return the words (start, end) of the clause that holds word `at`."""
        k = bisect_right(self.breaks, at)
        start = self.breaks[k - 1] if k else 0
        end = self.breaks[k] if k < len(self.breaks) else len(self._words)
        return start, end

    def judge(self, start: int, end: int) -> Assertion:
        """Return what the sentence says of the mention in words `start` to `end`."""
        following = self._words[end : end + 4]
        if following[:1] == [":"] and len(following) in (2, 3) and following[1] in _NO:
            return "absent"  # a form's line: "Pleural effusion: none."
        low, high = self.span(start)
        high = max(high, end)
        inside = self.bracket[start]
        denied = doubted = past = False
        for cue in self._cues:
            mine = self.bracket[cue.start]
            if mine and mine != inside:
                continue
            kinds = cue.kinds
            overlaps = cue.start < end and start < cue.end
            before = cue.start < start and cue.start >= low
            after = cue.end > end and cue.start < high and cue.start >= start
            if start < cue.start < end:
                # "nodes, not pathological", "effusion was not seen in either hemithorax": the
                # mention spans its own denial.
                denied |= bool(kinds & {"deny_before", "deny_after", "deny_not"})
            elif "deny_not" in kinds and overlaps and before:
                # "no density increase" denies the increase; "no increase in nodules" does not.
                denied = True
            elif before:
                denied |= "deny_before" in kinds
                doubted |= bool(kinds & {"doubt_before", "doubt_around"})
                if "past_before" in kinds and start - cue.end < _PAST_REACH:
                    past |= "," not in self._words[cue.end : start]
            elif after:
                # "no se observa" denies what follows; what stands before, only if nothing does.
                has_object = self._has_object(cue)
                if "deny_after" in kinds:
                    denied |= "deny_before" not in kinds or not has_object
                doubted |= "doubt_around" in kinds
                if "doubt_after" in kinds:
                    doubted |= "doubt_before" not in kinds or not has_object
        if past:
            return "past"
        if denied:
            return "absent"
        return "uncertain" if doubted else "present"

    def _has_object(self, cue: _Cue) -> bool:
        _, high = self.span(cue.start)
        return _any_between(self._starts, cue.end, high)

    def _find_breaks(self, known: Cues) -> list[int]:
        words = self._words
        breaks = [i for i, w in enumerate(words) if w in _HARD_STOPS and not self.bracket[i]]
        breaks += [c.start for c in self._cues if "stop" in c.kinds and not self.bracket[c.start]]
        verbs = [i for i, w in enumerate(words) if w in known.verbs and not self.bracket[i]]
        if len(verbs) > 1:
            joins = [i for i, w in enumerate(words) if w in known.joins and not self.bracket[i]]
            hard = sorted(breaks)
            last = 0
            for k, join in enumerate(joins):
                following = joins[k + 1] if k + 1 < len(joins) else len(words)
                reach = len(words) if words[join] == "," else following
                ended = bisect_right(hard, join)
                last = max(last, hard[ended - 1] if ended else 0)
                if _any_between(verbs, last, join) and _any_between(verbs, join + 1, reach):
                    breaks.append(join)
                    last = join
        return sorted(set(breaks))


def _any_between(places: list[int], low: int, high: int) -> bool:
    k = bisect_left(places, low)
    return k < len(places) and places[k] < high


def _longest(phrases: Phrases, words: list[str]) -> list[_Cue]:
    """Return the cues left to right, the longest at each place, none overlapping another."""
    at: dict[int, dict[int, set[str]]] = {}
    for match in phrases.matches(words):
        at.setdefault(match.start, {}).setdefault(match.end, set()).add(match.key)
    found: list[_Cue] = []
    covered = 0
    for start, by_end in at.items():
        end = max(by_end)
        if start < covered:
            continue
        found.append(_Cue(start, end, frozenset(by_end[end])))
        covered = end
    return found


def _brackets(words: list[str]) -> list[int]:
    """Return for each word the number of the bracket it stands in; 0 outside all."""
    numbers = [0] * len(words)
    n = 0
    here = 0
    for i, word in enumerate(words):
        if word == "(":
            n += 1
            here = n
        numbers[i] = here
        if word == ")":
            here = 0
    if here:
        # Never closed: the text after it is not a remark in brackets.
        for i in range(len(words) - 1, -1, -1):
            if numbers[i] != here:
                break
            numbers[i] = 0
    return numbers
