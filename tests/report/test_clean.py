"""Raw text → text as it was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfinder.report.clean import clean
from medfinder.report.sentences import sentences


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        ("n&oacute;dulo &lt; 5&nbsp;mm", "nódulo < 5 mm"),
        ("&amp;lt; 5 mm", "< 5 mm"),
        ("nÃ³dulo en lÃ³bulo", "nódulo en lóbulo"),
        ("the patientâ€™s chest", "the patient's chest"),
        ("a\x00b\x07c\u200bd", "abcd"),
        ("half \ud800a character", "half a character"),
        ("“free” ‘fluid’", "\"free\" 'fluid'"),
        ("derrame pleural . nodulo .", "derrame pleural. nodulo."),
        ("one  two\t three", "one two three"),
        ("one\r\n\r\n two", "one\ntwo"),
        ("one<br/>two", "one\ntwo"),
        ("<p>one</p>", "one"),
        ("no\u0301dulo", "nódulo"),
        ("size < 5 mm and > 3 mm", "size < 5 mm and > 3 mm"),
    ],
)
def test_damage_is_undone(raw, meant):
    assert clean(raw) == meant


def test_mojibake_beside_sound_letters_is_mended_in_place():
    assert clean("ñandú nÃ³dulo €Ω") == "ñandú nódulo €Ω"


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text):
    once = clean(clean(text))
    assert clean(once) == once


@given(st.text())
def test_no_control_character_is_left(text):
    assert not any(ord(c) < 32 and c != "\n" for c in clean(text))


def test_a_free_point_after_a_unit_stays_free_and_ends_the_sentence() -> None:
    text = "consolidacion de 60 mm . glandulas suprarrenales normales ."
    assert clean(text) == "consolidacion de 60 mm . glandulas suprarrenales normales."
    assert len(sentences(clean(text))) == 2
