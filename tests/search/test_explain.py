from medfinder.report.findings import extract_findings
from medfinder.search.explain import matched_sentences, matched_terms, query_terms

REPORT = (
    "Trachea is open. There is a left pleural effusion. No pneumothorax. "
    "Two nodules are seen in the right upper lobe. Derrame pleural, nódulo."
)


def test_terms_are_words_that_can_explain_in_order_once() -> None:
    assert query_terms("The nodule of the NÓDULO with a nodule") == ("nodule", "nodulo")


def test_a_term_matches_itself_its_plural_and_whatever_its_accents() -> None:
    assert matched_terms(["nodule", "nodulo", "mass", "tracheas"], REPORT) == (
        "nodule",
        "nodulo",
        "tracheas",
    )


def test_a_part_of_a_word_is_no_match() -> None:
    assert matched_terms(["pneumo", "eff"], REPORT) == ()


def test_the_sentence_with_most_terms_comes_first() -> None:
    shown = matched_sentences(["right", "upper", "nodule", "left"], REPORT)
    assert shown[0] == "Two nodules are seen in the right upper lobe."
    assert shown[1] == "There is a left pleural effusion."


def test_a_finding_counts_as_a_match() -> None:
    effusion = [f for f in extract_findings(REPORT) if f.name == "pleural effusion"][:1]
    assert matched_sentences([], REPORT, effusion) == ("There is a left pleural effusion.",)


def test_nothing_matches_nothing() -> None:
    assert matched_sentences([], REPORT) == ()
    assert matched_sentences(["nodule"], "") == ()
    assert matched_terms([], "") == ()
