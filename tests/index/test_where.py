"""Filters: what passes, what is refused, and in which words."""

import re
from pathlib import Path

import pytest

from medfinder.errors import InputError
from medfinder.index.store import Index
from medfinder.index.where import FUNCTIONS, check_where, conjuncts, literal
from medfinder.studies import FACETS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "it is empty"),
        ("sex = 'F'; DROP TABLE studies", "';'"),
        ("sex = 'F' -- and more", "an SQL comment"),
        ("sex = /* x */ 'F'", "an SQL comment"),
        ("study_id IN (SELECT study_id FROM studies)", "subqueries are not supported"),
        ("sex = 'F", "a quote is not closed"),
        ("(sex = 'F'", "brackets do not match"),
        ("sex = 'F') OR (true", "brackets do not match"),
        ("colour = 'red'", "there is no column 'colour'"),
        ("age >=", "Expected"),
        ("sleep(9)", "there is no function 'sleep'"),
        ("age = 'old'", "a value has the wrong type; the column holds Int32"),
        ("findings_present = 'nodule'", "use array_has(column, 'name')"),
        ("age", "not a condition that is true or false"),
    ],
)
def test_a_filter_that_cannot_be_used_says_why_and_names_the_columns(
    filled: Index, where: str, said: str
) -> None:
    for ask in (
        lambda: filled.count(where),
        lambda: filled.search_text("nodule", 3, where),
        lambda: filled.search_vector("report", [1.0] * 8, 3, where),  # type: ignore[arg-type]
        lambda: filled.search_findings(["nodule"], where=where),
        lambda: filled.facets("sex", where),
        lambda: filled.ids(where),
    ):
        with pytest.raises(InputError, match="The filter cannot be used: ") as error:
            ask()
        assert said in str(error.value)
        assert "study_id, patient_id, sex, age, study_date" in str(error.value)
        assert error.value.rule == "bad-filter"


@pytest.mark.parametrize(
    ("where", "n"),
    [
        ("sex = 'F' AND age < 30", 3),
        ("sex IS NULL", 20),
        ("array_has(findings_present, 'nodule')", 20),
        ("array_has_all(findings_absent, ['nodule'])", 20),
        ("study_date >= '2015-01-01' AND study_date < '2016-01-01'", 6),
        ("manufacturer LIKE 'maker%' AND (n_slices > 150)", 9),
        ("manufacturer = 'a; -- (SELECT'", 0),
        ("spacing_mm_d BETWEEN 1 AND 2", 60),
        ("language = 'es' OR language IS NULL", 40),
    ],
)
def test_sql_over_the_facets_keeps_the_right_studies(filled: Index, where: str, n: int) -> None:
    assert filled.count(where) == len(filled.ids(where)) == n


@pytest.mark.parametrize("value", ["it's", "a'b''c", "'; DROP TABLE studies; --", 'ñ "x"'])
def test_a_literal_is_data_whatever_it_holds(filled: Index, value: str) -> None:
    where = f"study_id = 's0001' OR patient_id = {literal(value)}"
    assert check_where(where) == where
    assert filled.ids(where) == ["s0001"]


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ("sex = 'F'", ["sex = 'F'"]),
        ("sex = 'F' AND age > 3 and true", ["sex = 'F'", "age > 3", "true"]),
        ("(a OR b AND c) AND (d)", ["(a OR b AND c)", "(d)"]),
        ("x = 'rock AND roll' AND y = 'it''s (AND'", ["x = 'rock AND roll'", "y = 'it''s (AND'"]),
        ("a AND b OR c", ["a AND b OR c"]),
        ("age BETWEEN 1 AND 2", ["age BETWEEN 1 AND 2"]),
        ("CASE WHEN a AND b THEN c END", ["CASE WHEN a AND b THEN c END"]),
        ("(age BETWEEN 1 AND 2) AND band = 'x'", ["(age BETWEEN 1 AND 2)", "band = 'x'"]),
    ],
)
def test_a_filter_is_cut_only_where_and_joins_conditions(where: str, parts: list[str]) -> None:
    assert conjuncts(where) == parts


@pytest.mark.parametrize(
    "where",
    [
        "sex = 'F' AND age > 25 AND patient_id != 'p0002'",
        "(sex = 'F') AND patient_id <> 'p0002'",
        "study_id != 's0001'",
        "split != 'val' AND NOT (age < 30)",
        "sex = 'F' OR sex = 'M' AND age > 25",
        "age BETWEEN 25 AND 45 AND sex != 'M'",
        "sex IS NULL AND array_has(findings_present, 'nodule')",
    ],
)
def test_a_filter_cut_into_conditions_keeps_what_the_whole_keeps(filled: Index, where: str) -> None:
    whole = filled._table.search().where(where).select(["study_id"]).limit(100).to_arrow()
    assert filled.ids(where) == sorted(whole["study_id"].to_pylist())


def test_no_column_but_the_facets_can_be_named(filled: Index) -> None:
    hidden = set(filled._table.schema.names) - set(FACETS)
    assert hidden >= {"volume_path", "series_id", "volume_hash", "report_text", "row_digest"}
    assert hidden >= {"volume", "key_volume"}
    for name in (*hidden, "_rowid", "_rowaddr"):
        for form in (name, name.upper(), f'"{name}"', f"`{name}`", f"lower({name})", f"1.{name}"):
            for where in (f"{form} IS NOT NULL", f"sex = 'F' OR {form} LIKE '/%'"):
                with pytest.raises(InputError, match="there is no column") as error:
                    filled.count(where)
                assert error.value.rule == "bad-filter"


@pytest.mark.parametrize(
    "where",
    [
        "\"'\" = volume_path OR \"'\" = ''",
        "`'` = volume_path OR `'` = ''",
        "sex = 'it''s' OR volume_path = ''",
        "sex = 'a\\' OR volume_path LIKE '/%'",
        "sex = E'\\'' OR volume_path LIKE '\\''",
        "sex = $$'$$ OR volume_path LIKE $$'$$",
        "sex/**/= 'F' OR volume_path = ''",
        "sex = 'F' OR volume_path--\n = ''",
        "CASE WHEN volume_path = '' THEN true END",
        "array_has([volume_path], 'x')",
        "studies.volume_path = ''",
        "1e5volume_path",
        '"sleep"(9)',
    ],
)
def test_no_spelling_hides_a_column(filled: Index, where: str) -> None:
    with pytest.raises(InputError, match="The filter cannot be used") as error:
        filled.count(where)
    assert "Valid fields" not in str(error.value)


@pytest.mark.parametrize(
    "where",
    [
        "sex = 'volume_path' OR manufacturer = 'sleep(9)'",
        "\"sex\" = 'F' OR `age` > 3",
        "spacing_mm_d > 1e0",
        "abs(age) > 3 AND round(spacing_mm_d) > 0",
        "lower(sex) = 'f' AND upper(sex) = 'F' AND length(sex) = 1 AND coalesce(sex, 'M') = 'F'",
        "array_has_any(findings_present, ['nodule']) OR array_contains(findings_present, 'x')",
        "array_length (findings_present) > 1 and SEX in ('F')",
        "starts_with(sex, 'F') OR ends_with(sex, 'F') OR contains(sex, 'F')",
        "regexp_like(manufacturer, '^maker')",
        "NOT (sex IS NULL) AND study_date >= date '2012-01-01'",
        "CAST(age AS float) > 30",
    ],
)
def test_conditions_over_facets_are_evaluated(filled: Index, where: str) -> None:
    assert filled.count(where) >= 0


def test_the_documented_examples_are_evaluated(filled: Index) -> None:
    text = (DOCS / "reference" / "facets.md").read_text(encoding="utf-8")
    examples = text.split("```")[1].strip().splitlines()
    examples += re.findall(r"`(study_date >= [^`]+|array_has[^`]+\))`", text)
    assert len(examples) >= 5
    for where in examples:
        assert filled.count(where) >= 0
    assert all(f"`{name}`" in text for name in FACETS)


def test_a_function_that_is_not_listed_is_refused(filled: Index) -> None:
    assert "repeat" not in FUNCTIONS
    with pytest.raises(InputError, match="there is no function 'repeat'"):
        filled.count("repeat(sex, 1000000000) = 'F'")
