"""What a check of a translation finds, and what it lets pass."""

import pytest

from medfinder.phantom.case import sample_case
from medfinder.phantom.pairs import english, spanish, word_pair
from medfinder.phantom.wording import plain
from medfinder.report.translation_checks import RULES, check_translation

ES = (
    "se observa derrame pleural derecho de 12 mm . nodulo calcificado en lobulo superior izquierdo de "
    "1,5 cm . no se observa neumotorax ni consolidaciones . sin adenopatias . corazon de tamano normal ."
)
EN = (
    "There is a right pleural effusion of 12 mm. Calcified nodule in the left upper lobe of 1.5 cm. "
    "No pneumothorax or consolidations are seen. No adenopathies. Heart of normal size."
)


def rules(spanish: str, english: str) -> list[str]:
    return [problem.rule for problem in check_translation(spanish, english)]


def test_a_right_translation_has_no_problem() -> None:
    assert check_translation(ES, EN) == ()


@pytest.mark.parametrize("seed", range(25))
def test_phantom_reports_and_their_exact_english_have_no_problem(seed: int) -> None:
    pair = word_pair(sample_case(seed), seed)
    assert check_translation(plain(spanish(pair)), english(pair)) == ()


@pytest.mark.parametrize(
    "text",
    [
        "Something wrong with the data! #################",
        "I'm sorry, but I can't help with that.",
        "As an AI language model, I cannot translate medical reports.",
        "<!DOCTYPE html><html><body>Bad gateway</body></html>",
        "nan",
        "Error 502",
        "####",
        "",
        " . ",
    ],
)
def test_a_placeholder_is_told_as_one_and_as_nothing_else(text: str) -> None:
    assert rules(ES, text) == ["translation-placeholder"]


@pytest.mark.parametrize("wrong", ["13 mm", "120 mm", "21 mm"])
def test_a_changed_number_is_found(wrong: str) -> None:
    assert "translation-number" in rules(ES, EN.replace("12 mm", wrong))


def test_a_lost_number_is_found() -> None:
    assert "translation-number" in rules(ES, EN.replace(" of 12 mm", ""))


def test_numbers_that_changed_places_are_found() -> None:
    swapped = EN.replace("12 mm", "@").replace("1.5 cm", "12 mm").replace("@", "1.5 cm")
    assert "translation-number" in rules(ES, swapped)


def test_the_message_names_both_numbers() -> None:
    (problem,) = check_translation(ES, EN.replace("12 mm", "13 mm"))
    assert problem.reason == "The Spanish says 12, the English 13."


@pytest.mark.parametrize(
    ("spanish", "english"),
    [
        ("nodulo de 1,5 cm .", "Nodule of 1.5 cm."),
        ("nodulo de 1.5 cm .", "Nodule of 1.5 cm."),
        ("nodulo de 12 mm .", "Nodule of 1.2 cm."),
        ("masa de 2 x 3 x 4 cm .", "Mass of 2 cm x 3 cm x 4 cm."),
        ("nodulos de 3-5 mm .", "Nodules of 3 to 5 mm."),
        ("dos nodulos de 5 mm .", "Two nodules of 5 mm."),
        ("dos nodulos de 5 mm .", "2 nodules of 5 mm."),
        ("control en tres meses .", "Follow-up in 3 months."),
        ("fractura de la septima costilla .", "Fracture of the 7th rib."),
        ("estudio previo de 12/03/2020 .", "Previous study of 12 March 2020."),
        ("neumonia covid 19 .", "COVID pneumonia."),
        ("volumen de 1.200 ml .", "Volume of 1200 ml."),
        ("volumen de 1.200 ml .", "Volume of 1,200 ml."),
    ],
)
def test_a_number_may_be_written_otherwise(spanish: str, english: str) -> None:
    assert check_translation(spanish, english) == ()


def test_a_changed_number_word_is_found() -> None:
    assert rules("dos nodulos de 5 mm .", "Three nodules of 5 mm.") == ["translation-number"]


def test_a_changed_unit_is_found() -> None:
    assert rules("nodulo de 8 mm .", "Nodule of 8 cm.") == ["translation-unit"]


def test_a_lost_unit_is_found() -> None:
    assert rules("control en 3 meses .", "Follow-up in 3.") == ["translation-unit"]


def test_a_dropped_denial_is_found() -> None:
    dropped = EN.replace(
        "No pneumothorax or consolidations are seen", "Pneumothorax and consolidations"
    )
    assert rules(ES, dropped) == ["translation-negation"]


def test_an_added_denial_is_found() -> None:
    assert rules(ES, EN.replace("There is a right", "There is no right")) == [
        "translation-negation"
    ]


def test_a_dropped_denial_of_what_no_vocabulary_has_is_found() -> None:
    assert rules("sin otras lesiones .", "Other lesions.") == ["translation-negation"]


@pytest.mark.parametrize(
    ("spanish", "english"),
    [
        (
            "sin cambios respecto al estudio previo .",
            "Unchanged with respect to the previous study.",
        ),
        ("no se puede descartar neumonia .", "Pneumonia cannot be ruled out."),
        ("sin alteraciones .", "Unremarkable."),
        ("tc de torax sin contraste .", "Unenhanced chest CT."),
        ("multiples nodulos que no superan 9 mm .", "Multiple nodules not exceeding 9 mm."),
        ("ausencia de derrame pleural .", "No pleural effusion."),
    ],
)
def test_a_denial_may_be_worded_otherwise(spanish: str, english: str) -> None:
    assert check_translation(spanish, english) == ()


def test_a_swapped_side_is_found() -> None:
    assert "translation-side" in rules(ES, EN.replace("right", "left", 1))


def test_sides_that_changed_places_are_found() -> None:
    swapped = EN.replace("right", "@").replace("left", "right").replace("@", "left")
    assert rules(ES, swapped) == ["translation-side"]


def test_a_lost_side_is_found() -> None:
    assert rules(ES, EN.replace("right ", "")) == ["translation-side"]


def test_an_added_side_is_found() -> None:
    assert "translation-side" in rules("derrame pleural .", "Bilateral pleural effusion.")


@pytest.mark.parametrize(
    ("spanish", "english"),
    [
        ("nodulo en lsd .", "Nodule in the RUL."),
        ("nodulo en lsd .", "Nodule in the right upper lobe."),
        ("nodulo en lobulo medio .", "Nodule in the right middle lobe."),
        ("derrame pleural bilateral .", "Pleural effusion on both sides."),
        ("derrame pleural bilateral .", "Left and right pleural effusion."),
        ("los dos pulmones con enfisema .", "Both lungs with emphysema."),
    ],
)
def test_a_side_may_be_worded_otherwise(spanish: str, english: str) -> None:
    assert check_translation(spanish, english) == ()


@pytest.mark.parametrize(
    "left", ["derrame", "neumotorax", "pulmon", "engrosamiento", "TAC", "deslustrado", "espiculada"]
)
def test_spanish_words_that_are_left_are_found(left: str) -> None:
    spanish, english = f"se observa {left} de la pared .", f"There is {left} of the wall."
    assert "translation-residue" in rules(spanish, english)


def test_a_report_left_in_spanish_is_found() -> None:
    assert "translation-residue" in rules(ES, ES)


def test_latin_and_shared_words_are_no_residue() -> None:
    spanish = "la carina , la pleura y la vena cava son normales . hernia de hiato ."
    english = "The carina, the pleura and the vena cava are normal. Hiatal hernia."
    assert check_translation(spanish, english) == ()


def test_a_name_is_no_residue() -> None:
    assert (
        check_translation("Signo de Golden, según Fleischner.", "Golden sign, by Fleischner.") == ()
    )


def test_a_lost_half_is_found() -> None:
    half = EN[: len(EN) // 2]
    assert {"translation-length", "translation-findings"} & set(rules(ES, half))


def test_an_invented_second_half_is_found() -> None:
    assert "translation-length" in rules(ES, EN + " The chest is unremarkable in every way." * 8)


def test_a_lost_finding_is_found() -> None:
    assert "translation-findings" in rules(ES, EN.replace("pleural effusion", "abnormality"))


def test_an_invented_finding_is_found() -> None:
    assert "translation-findings" in rules("torax normal .", "Emphysema of the chest.")


def test_a_lost_doubt_is_found() -> None:
    assert rules("posible hernia de hiato .", "Hiatal hernia.") == ["translation-findings"]


def test_a_translator_may_cut_sentences_otherwise() -> None:
    joined = EN.replace("12 mm. Calcified", "12 mm and calcified").replace(
        "are seen. No adenopathies", "are seen, no adenopathies"
    )
    assert check_translation(ES, joined) == ()


def test_problems_come_in_the_order_of_the_rules() -> None:
    found = rules(ES, "Derrame pleural izquierdo de 13 cm. Pneumothorax.")
    assert found == sorted(found, key=RULES.index)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    "text", ["", " ", ".", "\0", "1", "¿?", "a" * 50_000, "1 . " * 3000, "( " * 5000]
)
def test_any_text_is_taken(text: str) -> None:
    check_translation(text, "Normal chest.")
    check_translation(ES, text)
    check_translation(text, text)
