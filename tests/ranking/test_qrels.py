"""Qrels: what they hold comes back from rows and from files; what is unsound is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.errors import InputError
from medfinder.ranking.qrels import Qrels
from medfinder.ranking.ranks import rank_scores

JUDGED = [("q1", "b", 2), ("q2", "a", 1), ("q1", "a", 0), ("q2", "c", 3), ("q1", "c", 1)]


def test_pairs_are_grouped_by_query_in_the_order_they_came() -> None:
    qrels = Qrels(JUDGED)
    assert list(qrels) == ["q1", "q2"]
    assert len(qrels) == 2
    assert qrels["q1"] == {"b": 2, "a": 0, "c": 1}
    assert qrels["q2"] == {"a": 1, "c": 3}
    assert "q2" in qrels
    assert "q3" not in qrels
    assert repr(qrels) == "<Qrels 2 queries, 3 items, 4 of 5 pairs above 0>"


def test_a_pair_without_a_grade_has_grade_1() -> None:
    assert Qrels.from_pairs([("q", "a"), ("q", "b")])["q"] == {"a": 1, "b": 1}


def test_the_order_of_pairs_makes_no_other_qrels() -> None:
    assert Qrels(JUDGED) == Qrels(JUDGED[::-1])
    assert Qrels(JUDGED) != Qrels(JUDGED[1:])
    assert Qrels(JUDGED) != Qrels([*JUDGED[1:], ("q1", "b", 1)])


def test_every_study_with_the_same_report_answers_it() -> None:
    qrels = Qrels.from_keys(["s1", "s2", "s3"], ["x", "y", "x"])
    assert {query: list(qrels[query]) for query in qrels} == {
        "s1": ["s1", "s3"],
        "s2": ["s2"],
        "s3": ["s1", "s3"],
    }


def test_queries_and_items_may_be_two_lists_of_keys() -> None:
    qrels = Qrels.from_keys(["r1"], ["x"], ["s1", "s2", "s3"], ["x", "y", "x"])
    assert qrels["r1"] == {"s1": 1, "s3": 1}


def test_rows_are_found_by_id_in_whatever_order_ids_stand() -> None:
    random = np.random.default_rng(0)
    queries, items = [f"q{i}" for i in range(6)], [f"i{i}" for i in range(9)]
    table = random.integers(-2, 4, (6, 9)).clip(0)
    table[:, 4] = 1
    qrels = Qrels((q, i, table[a, b]) for a, q in enumerate(queries) for b, i in enumerate(items))
    scores = random.integers(5, size=(6, 9))
    plain = rank_scores(scores, qrels.among(queries, items))
    assert plain.grades.tolist() == rank_scores(scores, table).grades.tolist()
    a, b = random.permutation(6), random.permutation(9)
    moved = qrels.among([queries[i] for i in a], [items[i] for i in b])
    ranks = rank_scores(scores[a][:, b], moved)
    for new, old in enumerate(a):
        mine = slice(*ranks.starts[new : new + 2])
        theirs = slice(*plain.starts[old : old + 2])
        assert ranks.better[mine].tolist() == plain.better[theirs].tolist()
        assert ranks.grades[mine].tolist() == plain.grades[theirs].tolist()


def test_a_gallery_of_the_queries_own_studies_needs_no_second_list() -> None:
    found = Qrels.from_keys(["s1", "s2", "s3"], ["x", "y", "x"]).among(["s3", "s2", "s1"])
    assert found.starts.tolist() == [0, 2, 3, 5]
    assert found.rows.tolist() == [2, 0, 1, 2, 0]
    assert len(found) == 3


def test_a_file_holds_what_the_qrels_hold(tmp_path: Path) -> None:
    path = Qrels(JUDGED).write(tmp_path / "qrels.txt")
    assert path.read_text() == "q1 0 b 2\nq1 0 a 0\nq1 0 c 1\nq2 0 a 1\nq2 0 c 3\n"
    assert Qrels.read(path) == Qrels(JUDGED)


def test_tabs_blank_lines_a_mark_and_any_order_are_read(tmp_path: Path) -> None:
    path = tmp_path / "qrels.txt"
    path.write_bytes(b"\xef\xbb\xbfq1\t0\tb\t2\r\n\n q2 Q0 a 1\nq1 0 \xc3\xa9 01 \n")
    assert Qrels.read(path) == Qrels([("q1", "b", 2), ("q1", "é", 1), ("q2", "a", 1)])


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        (b"q 0 a\n", "columns", "Line 1 of the qrels has 3 columns, expected 4"),
        (b"q 0 a 1\nq 0 b c 1\n", "columns", "Line 2 of the qrels has 5 columns, expected 4"),
        (b"q 0 a 1\nq 0 b -1\n", "grade", "The grade in line 2 of the qrels is '-1'"),
        (b"q 0 a 1.0\n", "grade", "The grade in line 1 of the qrels is '1.0'"),
        (b"q 0 a 1_0\n", "grade", "The grade in line 1 of the qrels is '1_0'"),
        (b"q 0 a 4294967296\n", "grade", "The grade in line 1 of the qrels is 4294967296"),
        (
            b"q 0 a 1\nq 0 b 1\nq 0 a 1\n",
            "repeated-pair",
            "of line 3 of the qrels are those of line 1",
        ),
        (b"\n\n", "empty", "The qrels are empty"),
        (b"q 0 \xff 1\n", "unreadable", "cannot be read: it is not text in UTF-8"),
    ],
)
def test_a_line_that_is_no_judgement_is_named(
    text: bytes, rule: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "qrels.txt").write_bytes(text)
    with pytest.raises(InputError, match=message) as error:
        Qrels.read(tmp_path / "qrels.txt")
    assert error.value.rule == rule


def test_a_file_that_is_not_there_is_named_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The qrels file cannot be read: No such file") as error:
        Qrels.read(tmp_path / "patient-name.txt")
    assert error.value.rule == "unreadable"
    assert "patient-name" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "rule", "message"),
    [
        (lambda: Qrels([]), "empty", "The qrels are empty; name at least one pair"),
        (lambda: Qrels([("q", "a", -1)]), "grade", "The grade in pair 1 is -1; .* whole number"),
        (lambda: Qrels([("q", "a", True)]), "grade", "The grade in pair 1 is True"),
        (lambda: Qrels([("q", "a", 0.5)]), "grade", "The grade in pair 1 is 0.5"),
        (lambda: Qrels([("q", "a", 1), ("q", "b b", 1)]), "id", "The id in pair 2 is no text"),
        (lambda: Qrels([("", "a", 1)]), "id", "The id in pair 1 is no text without white space"),
        (lambda: Qrels([(7, "a", 1)]), "id", "The id in pair 1 is no text"),
        (
            lambda: Qrels([("q", "a", 1), ("q", "b", 1), ("q", "a", 2)]),
            "repeated-pair",
            "The query and the item of pair 3 are those of pair 1 too; judge each pair once",
        ),
        (lambda: Qrels.from_keys(["a"], ["x", "y"]), "shape", "1 query ids and 2 keys"),
        (lambda: Qrels.from_keys(["a", "a"], ["x", "y"]), "repeated-id", "row 1 is that of row 0"),
        (lambda: Qrels.from_keys(["a", "b"], ["x", ""]), "no-key", "The key of query 1 is empty"),
        (
            lambda: Qrels.from_keys(["a", "b"], ["x", "y"], ["c"], ["x"]),
            "no-positive",
            "No item has the key of query 1, nor those of 1 in all",
        ),
        (lambda: Qrels.from_keys([], []), "empty", "There are no query ids"),
        (lambda: Qrels(JUDGED).only(queries=["q9"]), "empty", "The qrels are empty"),
    ],
)
def test_unsound_qrels_are_refused(make: Callable[[], Any], rule: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert error.value.rule == rule


@pytest.mark.parametrize(
    ("queries", "items", "rule", "message"),
    [
        (["q1", "q2", "q3"], ["a", "b", "c"], "no-relevance", "say nothing of query 2, nor of 1"),
        (["q2"], ["a", "c"], "no-query", "Query 0 of the qrels is not asked, nor are 1 in all"),
        (["q1", "q2"], ["a", "b"], "unknown-item", "answers query 0 is not in the .* 2 answers"),
        (["q1", "q2", "q1"], ["a"], "repeated-id", "query row 2 is that of row 0 too"),
        (["q1", "q2"], ["a", "a"], "repeated-id", "item row 1 is that of row 0 too"),
        (["q1", "q2"], ["a b"], "id", "The id in item row 0 is no text without white space"),
        ([], ["a"], "empty", "There are no query ids"),
        (["q1"], [], "empty", "There are no item ids"),
    ],
)
def test_ids_that_do_not_fit_the_qrels_are_named(
    queries: list[str], items: list[str], rule: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        Qrels(JUDGED).among(queries, items)
    assert error.value.rule == rule


def test_a_query_that_nothing_answers_is_named_until_it_is_left_out() -> None:
    qrels = Qrels([("q1", "a", 0), ("q2", "a", 1)])
    with pytest.raises(InputError, match="Nothing answers query 0, nor 1 queries in all") as error:
        qrels.among(["q1", "q2"], ["a"])
    assert error.value.rule == "no-positive"
    answered = qrels.only(answered=True)
    assert list(answered) == ["q2"]
    assert answered.among(["q2"], ["a"]).rows.tolist() == [0]


def test_only_keeps_queries_and_items_by_name() -> None:
    qrels = Qrels(JUDGED).only(queries=["q1"], items=["a", "b"])
    assert qrels == Qrels([("q1", "b", 2), ("q1", "a", 0)])


def test_grades_may_come_from_an_array() -> None:
    assert Qrels([("q", "a", np.int64(3))])["q"] == {"a": 3}
