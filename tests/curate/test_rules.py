import tomllib
from importlib import resources

import pytest

from medfinder.curate import rules
from medfinder.curate.rules import Choice, choose_series


@pytest.mark.parametrize(
    "text",
    [
        "Something wrong with the data! #################",
        "N/A",
        "nan",
        "  Pendiente. ",
        "informe no disponible",
        "Lorem ipsum dolor sit amet",
    ],
)
def test_a_placeholder_is_named(text: str) -> None:
    assert "placeholder" in (rules.placeholder_report(text) or "")


@pytest.mark.parametrize("text", ["", "Pending biopsy of the nodule.", "Test dose given. Normal."])
def test_a_report_that_holds_such_words_is_no_placeholder(text: str) -> None:
    assert rules.placeholder_report(text) is None


def test_a_short_report_is_named_with_its_words() -> None:
    assert rules.short_report("Sin hallazgos de 3 mm", 10) == (
        "The report has 4 words, expected at least 10. See whether it was cut off."
    )
    assert rules.short_report("uno dos tres", 3) is None


def test_a_report_in_another_language_than_the_source_s_is_named() -> None:
    english = "No pleural effusion. The heart is of normal size."
    assert "reads as English, the source calls it Spanish" in (
        rules.language_mismatch(english, "es") or ""
    )
    assert rules.language_mismatch("no se observa derrame pleural", "es") is None


@pytest.mark.parametrize(("said", "is_other"), [("ABDOMEN", True), ("TORAX", False), (None, False)])
def test_a_scan_of_another_body_part_is_named(said: str | None, is_other: bool) -> None:
    assert bool(rules.other_body_part(said, ("chest", "torax"))) == is_other
    assert rules.other_body_part(said, ()) is None


@pytest.mark.parametrize(
    "kernel", ["B60f", "Br64", "B70s", "LUNG", "BONEPLUS", "FC51", "YA", "I70f"]
)
def test_a_kernel_of_lung_or_bone_is_sharp(kernel: str) -> None:
    assert rules.is_sharp(kernel)


@pytest.mark.parametrize("kernel", ["B30f", "Br40", "STANDARD", "FC08", "SOFT", "B", "", "I31f"])
def test_a_kernel_of_soft_tissue_is_smooth(kernel: str) -> None:
    assert not rules.is_sharp(kernel)


LONG = Choice("long", 60, 300.0, "B70f")


def test_the_series_that_shows_more_of_the_body_represents_the_study() -> None:
    best, reasons = choose_series([Choice("short", 300, 120.0, "B30f"), LONG])
    assert best is LONG
    assert reasons == {
        "short": "Another series represents this study: long, with 300 mm of the body against 120."
    }


def test_of_equal_length_the_series_with_more_slices_represents_the_study() -> None:
    best, reasons = choose_series([Choice("thick", 40, 300.0, "B30f"), LONG])
    assert best is LONG
    assert "60 slices against 40" in reasons["thick"]


def test_of_equal_slices_the_smooth_kernel_represents_the_study() -> None:
    smooth = Choice("z", 59, 295.0, "B30f")
    best, reasons = choose_series([LONG, smooth])
    assert best is smooth
    assert "this one is sharp (B70f)" in reasons["long"]


def test_of_equal_series_the_first_by_name_represents_the_study() -> None:
    best, _ = choose_series([Choice("b", 10, 50.0), Choice("a", 10, 50.0)])
    assert best.item == "a"


def test_every_doubt_has_a_weight_and_a_meaning() -> None:
    text = resources.files("medfinder.curate").joinpath("meanings.toml").read_text(encoding="utf-8")
    assert set(rules.WEIGHTS) == set(tomllib.loads(text)["doubt"])
    assert all(0 < weight <= 1 for weight in rules.WEIGHTS.values())
