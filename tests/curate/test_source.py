from pathlib import Path

import pytest

from medfinder.curate.pseudonym import pseudonym, safe_id
from medfinder.curate.sources.folder import FolderSource
from medfinder.curate.sources.source import Facts, parse_age, parse_date, parse_sex
from medfinder.volume.read import VolumeRef


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("53", 53),
        ("053Y", 53),
        ("53.0", 53),
        ("18M", 1),
        (" 7 y", 7),
        ("130", None),
        ("?", None),
        (None, None),
    ],
)
def test_an_age_is_read_in_years(text: str | None, years: int | None) -> None:
    assert parse_age(text) == years


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("20200301", "2020-03-01"),
        ("2020-03-01", "2020-03-01"),
        ("1/3/2020", "2020-03-01"),
        ("2020-03-01T10:00:00", "2020-03-01"),
        ("20201301", None),
        ("", None),
    ],
)
def test_a_date_is_read_as_iso(text: str, iso: str | None) -> None:
    assert parse_date(text) == iso


@pytest.mark.parametrize(
    ("text", "sex"), [("F", "F"), ("mujer", "F"), ("Male", "M"), ("H", "M"), ("O", None)]
)
def test_sex_is_read_in_both_languages(text: str, sex: str | None) -> None:
    assert parse_sex(text) == sex


def test_the_table_wins_over_the_file() -> None:
    facts = Facts.merge(
        {"age": "40", "sex": "", "split": "Validation"}, {"age": 50, "sex": "F"}, "x"
    )
    assert (facts.age, facts.sex, facts.split) == (40, "F", "val")


def test_a_pseudonym_is_stable_and_follows_kind_and_key() -> None:
    assert pseudonym("P", "123") == pseudonym("P", " 123 ")
    assert len({pseudonym("P", "123"), pseudonym("S", "123"), pseudonym("P", "123", "k")}) == 3
    assert "123" not in pseudonym("P", "123")


@pytest.mark.parametrize(
    ("text", "safe"), [("a b/c", "a_b_c"), ("../../x", "x"), ("", "id-e3b0c442"), ("ñandú", "and")]
)
def test_an_id_is_fit_for_a_file_name_and_a_url(text: str, safe: str) -> None:
    assert safe_id(text) == safe


@pytest.mark.parametrize("text", ["2020-02-31", "2020-13-01", "31/02/2020", "1800-01-01"])
def test_a_day_that_is_in_no_calendar_is_unknown(text: str) -> None:
    assert parse_date(text) is None


def test_a_folder_s_table_tells_formulas_and_volumes_it_does_not_list(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "c.txt").write_text("nodule")
    table = tmp_path / "reports.csv"
    table.write_text('file,text\na.nii.gz,"=HYPERLINK(""http://x"",""y"")"\n')
    source = FolderSource(tmp_path, table)
    refs = [item for item in source.items() if isinstance(item, VolumeRef)]
    facts = [source.facts(ref, {}) for ref in refs]
    assert [[rule for rule, _ in f.doubts] for f in facts] == [["formula-cell"], ["not-listed"], []]
    assert facts[0].text == 'HYPERLINK("http://x","y")'
