"""Our dictionary around Debian's apertium."""

import shutil
from pathlib import Path

import pytest

from medfinder.errors import InputError
from medfinder.phantom.case import sample_case
from medfinder.phantom.pairs import spanish, word_pair
from medfinder.phantom.wording import plain
from medfinder.report.apertium import Apertium
from medfinder.report.glossary import glossary
from medfinder.report.translation_checks import check_translation

needs_apertium = pytest.mark.skipif(
    shutil.which("apertium-wblank-mode") is None, reason="apertium is not installed"
)


@pytest.fixture(scope="module")
def dictionary() -> Apertium:
    return Apertium("")


def said(translator: Apertium, text: str) -> str:
    ((_, made),) = translator.translate([text])
    assert isinstance(made, str)
    return made


@pytest.mark.parametrize(
    ("spanish", "english"),
    [
        ("derrame pleural derecho moderado .", "Moderate right pleural effusion."),
        ("Derrame pleural derecho moderado.", "Moderate right pleural effusion."),
        ("nodulo de 1,5 cm en lsd .", "Nodule of 1.5 cm in the right upper lobe."),
        (
            "sin adenopatias mediastinicas ni hiliares .",
            "Without mediastinal or hilar adenopathies.",
        ),
        ("aplastamiento vertebral leve de t11 .", "Mild vertebral compression of t11."),
        (
            "altura de los cuerpos vertebrales conservada .",
            "Height of the vertebral bodies preserved.",
        ),
        ("no se observan nodulos ni masas pulmonares .", "No nodules or pulmonary masses."),
        ("no se puede descartar derrame pericardico .", "Cannot exclude pericardial effusion."),
        ("metastasis hepaticas .", "Hepatic metastasis."),
    ],
)
def test_our_terms_are_put_in_the_order_of_english(
    dictionary: Apertium, spanish: str, english: str
) -> None:
    assert said(dictionary, spanish) == english


def test_sentences_and_lines_stay_apart(dictionary: Apertium) -> None:
    text = "tecnica: tc de torax .\nhallazgos: sin nodulos . bazo normal ."
    assert said(dictionary, text).split("\n") == [
        "Technique: chest CT.",
        "Findings: without nodules.",
        "Normal spleen.",
    ]


def test_numbers_keep_their_order(dictionary: Apertium) -> None:
    assert said(dictionary, "nodulos de 3, 5 y 12 mm .") == "Nodules of 3, 5 and 12 mm."


@needs_apertium
def test_apertium_reads_what_our_dictionary_lacks() -> None:
    translator = Apertium()
    assert said(translator, "el paciente camina .") == "The patient walks."


@needs_apertium
def test_one_row_of_processes_serves_many_reports() -> None:
    translator = Apertium()
    said(translator, "el paciente camina .")
    first = translator._engine._process  # type: ignore[union-attr]
    said(translator, "la casa es verde .")
    assert translator._engine._process is first  # type: ignore[union-attr]
    translator._engine.close()  # type: ignore[union-attr]


@needs_apertium
def test_a_row_of_processes_that_died_is_started_again() -> None:
    translator = Apertium()
    said(translator, "el paciente camina .")
    translator._engine._process.kill()  # type: ignore[union-attr]
    translator._engine._process.wait()  # type: ignore[union-attr]
    assert said(translator, "el paciente camina .") == "The patient walks."


@needs_apertium
@pytest.mark.parametrize(
    "text", ["[el] {paciente} <camina> ^ $ \\ / @ # ~ * \0", "xqaz el perro xqbz", "¿?", "()"]
)
def test_marks_of_apertiums_own_do_no_harm(text: str) -> None:
    assert isinstance(said(Apertium(), text), str)


@needs_apertium
def test_phantom_reports_pass_every_check() -> None:
    translator = Apertium()
    for seed in range(20):
        text = plain(spanish(word_pair(sample_case(seed), seed)))
        assert check_translation(text, said(translator, text)) == ()


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(
        InputError, match=r"'apertiumm' is not installed.*apt-get install"
    ) as caught:
        Apertium("apertiumm")
    assert caught.value.rule == "translator"


@needs_apertium
def test_a_program_without_its_pair_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("apertium", "apertium-wblank-mode"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InputError, match="lacks its pair spa-eng"):
        Apertium()


def test_the_glossary_knows_plurals_and_genders() -> None:
    terms = dict(glossary().terms("nódulos calcificados y adenopatías hiliares con atelectasias"))
    assert terms["nodulos"] == "nodules"
    assert terms["adenopatias"] == "adenopathies"
    assert terms["atelectasias"] == "atelectasis"


def test_the_glossary_leaves_out_words_of_grammar() -> None:
    assert glossary().terms("el de la con sin y") == []


def test_the_glossary_is_large_enough() -> None:
    assert len(glossary()) > 2000
