import pytest
from pydantic import ValidationError

from medfinder.errors import InputError, UnknownName
from medfinder.serve.filters import to_where
from medfinder.serve.schemas import Filters


def test_no_filter_is_no_condition():
    assert to_where(Filters()) is None


def test_all_filters_must_hold():
    where = to_where(Filters(sex=["F"], age_min=50, age_max=70, split=["train", "val"]))
    assert where == "sex IN ('F') AND split IN ('train', 'val') AND age >= 50 AND age <= 70"


def test_a_date_range_is_text_in_the_iso_form():
    where = to_where(Filters(date_from="2020-01-01"))
    assert where == "study_date >= '2020-01-01'"


def test_a_quote_in_a_value_stays_a_value():
    where = to_where(Filters(manufacturer=["x') OR 1=1 --"]))
    assert where == "manufacturer IN ('x'') OR 1=1 --')"


def test_a_finding_includes_its_kinds():
    where = to_where(Filters(findings=["pleural effusion"]))
    assert where is not None
    assert where.startswith("array_has_any(findings_present, [")
    assert "'pleural effusion'" in where


def test_a_finding_that_is_no_finding_is_refused():
    with pytest.raises(UnknownName):
        to_where(Filters(findings=["wombat"]))


def test_a_free_condition_is_closed_in_parentheses():
    where = to_where(Filters(sex=["M"]), "age > 3 OR age < 2")
    assert where == "sex IN ('M') AND (age > 3 OR age < 2)"


@pytest.mark.parametrize(
    "where",
    [
        "1=1) OR (1=1",
        "(age > 3",
        "sex = 'F",
        "age > 3; drop table x",
        "age > 3 -- x",
        "age /* x",
        '"age',
    ],
)
def test_a_condition_that_reaches_out_of_itself_is_refused(where):
    with pytest.raises(InputError, match="filter cannot be used") as error:
        to_where(Filters(), where)
    assert error.value.rule == "bad-filter"


@pytest.mark.parametrize("where", ["source = 'a;b--c)'", "manufacturer = 'O''Brien (x'"])
def test_what_stands_in_quotes_is_a_value(where):
    assert to_where(Filters(), where) == f"({where})"


def test_a_range_that_ends_before_it_begins_is_refused():
    with pytest.raises(InputError, match="range of age is empty"):
        to_where(Filters(age_min=9, age_max=5))


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValidationError, match="colour"):
        Filters.model_validate({"colour": "red"})
