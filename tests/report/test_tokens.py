"""Folding and words."""

from hypothesis import given
from hypothesis import strategies as st

from medfinder.report.tokens import fold, tokenize


@given(st.text())
def test_folding_keeps_the_length(text):
    assert len(fold(text)) == len(text)


def test_folding_removes_case_and_accents():
    assert fold("NÓDULO İzquierdo ñ") == "nodulo izquierdo n"


def test_plurals_articles_and_hyphens_do_not_matter():
    one = tokenize(fold("the ground-glass opacities of lungs"), "en").words
    assert one == tokenize(fold("Ground glass opacity lung"), "en").words


def test_spanish_gender_and_number_do_not_matter():
    one = tokenize(fold("las lesiones calcificadas"), "es").words
    assert one == tokenize(fold("lesión calcificado"), "es").words


@given(st.text())
def test_offsets_cut_words_out_of_the_text(text):
    tokens = tokenize(fold(text), "en")
    assert all(0 <= a < b <= len(text) for a, b in zip(tokens.starts, tokens.ends, strict=True))
