"""Patterns and their matcher, against a slow and obvious reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfinder.report.phrases import Match, Phrases


def _phrases(**patterns: str) -> Phrases:
    made = Phrases("en")
    for key, pattern in patterns.items():
        made.add(key, [pattern])
    return made


def test_a_choice_matches_each_of_its_options():
    made = _phrases(x="(left|right) (lower |)lobe")
    assert made.matches(["right", "lobe"]) == [Match("x", 0, 2)]
    assert made.matches(["left", "lower", "lobe"]) == [Match("x", 0, 3)]
    assert made.matches(["lower", "lobe"]) == []


def test_a_gap_spans_at_most_its_number_of_words():
    made = _phrases(x="pleural ~2 effusion")
    assert made.matches(["pleural", "or", "pericardial", "effusion"]) == [Match("x", 0, 4)]
    assert made.matches(["pleural", "a1", "a2", "a3", "effusion"]) == []


def test_a_gap_ends_with_the_clause():
    made = _phrases(x="pleural ~2 effusion")
    assert made.matches(["pleural", ";", "effusion"]) == []
    assert made.matches(["pleural", "but", "effusion"]) == []


def test_the_longest_match_of_a_key_wins():
    made = _phrases(x="node (~2 mediastinum|)")
    assert made.matches(["node", "in", "mediastinum"]) == [Match("x", 0, 3)]


@pytest.mark.parametrize("pattern", ["(a|b", "x(a|b)"])
def test_a_broken_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="Phrase pattern"):
        Phrases("en").add("x", [pattern])


def _reference(elements: list[str], words: list[str], start: int) -> int | None:
    """Return the longest end of a match of words and gaps, by trying everything."""
    if not elements:
        return start
    first, rest = elements[0], elements[1:]
    ends = []
    if first.startswith("~"):
        ends += [
            _reference(rest, words, start + n)
            for n in range(int(first[1:]) + 1)
            if start + n <= len(words) and ";" not in words[start : start + n]
        ]
    elif start < len(words) and words[start] == first:
        ends.append(_reference(rest, words, start + 1))
    found = [end for end in ends if end is not None]
    return max(found) if found else None


@given(
    st.lists(st.sampled_from(["a1", "b1", "~1", "~2"]), max_size=3),
    st.lists(st.sampled_from(["a1", "b1", "c1", ";"]), max_size=9),
)
def test_the_automaton_agrees_with_trying_everything(middle, words):
    elements = ["a1", *middle, "b1"]
    found = {m.start: m.end for m in _phrases(x=" ".join(elements)).matches(words)}
    slow = {i: _reference(elements, words, i) for i in range(len(words))}
    assert found == {i: end for i, end in slow.items() if end is not None}
