"""Clauses, and how far a cue reaches."""

from medfinder.report.assertion import Clauses


def _judge(sentence: str, mention: str, language="en") -> str:
    words = sentence.split()
    at = words.index(mention)
    return Clauses(words, language, [(at, at + 1)]).judge(at, at + 1)


def test_a_denial_reaches_forward_to_a_but():
    assert _judge("no nodule but effusion", "nodule") == "absent"
    assert _judge("no nodule but effusion", "effusion") == "present"


def test_a_denial_reaches_no_further_than_a_semicolon():
    assert _judge("no nodule ; effusion", "effusion") == "present"


def test_two_statements_with_a_verb_each_are_two_clauses():
    sentence = "nodule is seen and effusion was not seen"
    assert _judge(sentence, "nodule") == "present"
    assert _judge(sentence, "effusion") == "absent"


def test_a_denial_beats_a_doubt():
    assert _judge("no suspicious nodule", "nodule") == "absent"


def test_a_cue_in_brackets_stays_in_brackets():
    sentence = "nodule ( cyst ? )"
    assert _judge(sentence, "nodule") == "present"
    assert _judge(sentence, "cyst") == "uncertain"


def test_a_bracket_that_is_never_closed_is_ignored():
    assert _judge("no ( nodule", "nodule") == "absent"


def test_what_follows_history_of_is_past():
    assert _judge("history pneumonia", "pneumonia") == "past"


def test_spanish_no_se_observa_denies_what_follows_it():
    words = ["nodulo", "en", "lsi", ",", "no", "se", "observa", "derrame"]
    clauses = Clauses(words, "es", [(0, 1), (7, 8)])
    assert clauses.judge(0, 1) == "present"
    assert clauses.judge(7, 8) == "absent"
