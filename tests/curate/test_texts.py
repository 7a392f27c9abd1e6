from medfinder.curate.texts import ReadText, TextConfig, Words, read_text, read_texts
from medfinder.phantom.case import sample_case
from medfinder.phantom.wording import word
from medfinder.scale.here import Here
from medfinder.scale.processes import Processes

CONFIG = TextConfig()
LONG = (
    "se observa derrame pleural izquierdo de 3 cm . no se observan adenopatias mediastinicas . "
    "cardiomegalia . sin otros hallazgos de interes ."
)
ENGLISH = (
    "Left pleural effusion of 3 cm is seen. No mediastinal adenopathies are seen. Cardiomegaly. "
    "No other findings of interest."
)


def rules(read: ReadText) -> list[str]:
    return [rule for rule, _ in read.doubts]


def test_a_clean_report_becomes_findings_without_a_doubt() -> None:
    read = read_text(Words(LONG, labels=("pleural effusion", "cardiomegaly")), CONFIG)
    assert read.report is not None
    assert read.report.language == "es"
    assert {f.name for f in read.findings if f.status == "present"} >= {
        "pleural effusion",
        "cardiomegaly",
    }
    assert rules(read) == []


def test_english_that_says_the_same_is_kept_as_translation() -> None:
    read = read_text(Words(LONG, translation=ENGLISH), CONFIG)
    assert (read.translation, read.refused, rules(read)) == (ENGLISH, None, [])
    assert read.translation_key


def test_english_that_says_otherwise_is_refused_and_doubted() -> None:
    wrong = ENGLISH.replace("Left", "Right")
    read = read_text(Words(LONG, translation=wrong), CONFIG)
    assert read.translation is None
    assert read.refused == wrong
    assert "translation-side" in rules(read)


def test_the_published_placeholder_is_no_translation_and_the_original_stays() -> None:
    wrong = "Something wrong with the data! #################"
    read = read_text(Words(LONG, translation=wrong), CONFIG)
    assert read.report is not None
    assert read.translation is None
    assert "translation-placeholder" in rules(read)


def test_placeholders_of_two_studies_are_no_shared_text() -> None:
    wrong = "Something wrong with the data! #################"
    assert read_text(Words(LONG, translation=wrong), CONFIG).translation_key == ""


def test_marks_of_what_was_taken_out_are_no_spanish_words() -> None:
    text = LONG + " paciente: maria lopez garcia , telefono 612 345 678 ."
    english = ENGLISH + " Patient: Maria Lopez Garcia, phone 612 345 678."
    read = read_text(Words(text, translation=english), CONFIG)
    assert rules(read) == []
    assert read.translation is not None
    assert "[NAME]" in read.translation


def test_a_placeholder_in_the_report_s_place_is_no_report() -> None:
    read = read_text(Words("Something wrong with the data! ####"), CONFIG)
    assert read.report is None
    assert rules(read) == ["placeholder-report"]


def test_nothing_legible_is_a_study_without_a_report_or_a_doubt() -> None:
    for text in ("", "-", "<br>", "&nbsp;"):
        assert read_text(Words(text), CONFIG) == ReadText()


def test_labels_that_the_text_denies_or_does_not_mention_are_doubted() -> None:
    read = read_text(Words(LONG, labels=(" adenopathy", "hiatal hernia")), CONFIG)
    assert rules(read)[:2] == ["label-negated", "label-unmentioned"]
    assert "label-missing" in rules(read)


def test_a_source_with_labels_but_none_for_this_study_is_doubted() -> None:
    assert rules(read_text(Words(LONG, labels=("", " ")), CONFIG)) == ["no-labels"]
    assert rules(read_text(Words(LONG, labels=None), CONFIG)) == []


def test_who_is_named_in_the_source_or_the_text_is_in_neither_language() -> None:
    text = LONG + " paciente: maria lopez garcia . dni 12345678z ."
    words = Words(text, translation=ENGLISH + " Patient: ZURBANO.", known=("ZURBANO^ANA",))
    read = read_text(words, CONFIG)
    assert read.report is not None
    for said in (read.report.text, read.translation or read.refused or ""):
        assert not any(name in said.lower() for name in ("lopez", "12345678", "zurbano"))
    assert sum(read.removed.values()) >= 3


def test_no_identity_of_the_source_is_left_in_any_words() -> None:
    read = read_text(
        Words(
            "Paciente Xanthippe Ruiz, 4711991 (47-11-991), TC ses-E99887766 del 12/03/2020. Derrame.",
            translation="Dr. Xanthippe, 12/03/2020. Effusion.",
            labels=("pleural effusion", "Dr. Xanthippe"),
            known=("4711991", "ses-E99887766"),
        ),
        CONFIG,
    )
    written = read.to_json().lower()
    for canary in ("xanthippe", "4711991", "ses-e99887766", "12/03/2020", "47-11"):
        assert canary not in written
    assert read.report is not None
    assert "Derrame." in read.report.text
    assert read.labels[0] == "pleural effusion"
    assert read.removed["name"] == 3


def test_bimcvs_free_standing_points_and_entities_hide_no_name() -> None:
    text = (
        LONG
        + " informe firmado por la dra . wenceslao olazabal garrigosa garc&iacute;a . bazo normal ."
    )
    read = read_text(Words(text), CONFIG)
    assert read.report is not None
    assert "olazabal" not in read.report.text
    assert "garrigosa" not in read.report.text
    assert "garc" not in read.report.text
    assert "bazo normal." in read.report.text


def test_texts_are_left_alone_where_that_is_asked() -> None:
    text = LONG + " informado por dr. perez ruiz ."
    read = read_text(Words(text), TextConfig(deidentify=False))
    assert read.report is not None
    assert "perez ruiz" in read.report.text
    assert read.removed == {}


def test_short_reports_and_those_of_another_language_are_doubted() -> None:
    assert rules(read_text(Words("derrame pleural"), CONFIG)) == ["short-report"]
    assert rules(read_text(Words(ENGLISH, language="es"), CONFIG)) == ["language-mismatch"]


def test_what_was_read_survives_json() -> None:
    read = read_text(Words(LONG, translation=ENGLISH, labels=("adenopathy",)), CONFIG)
    assert ReadText.from_json(read.to_json()) == read


def test_many_processes_read_what_one_does_in_the_same_order() -> None:
    items = [
        (str(seed), Words(word(sample_case(seed), seed, "es" if seed % 2 else "en")))
        for seed in range(400)
    ]
    one = list(read_texts(items, CONFIG, Here()))
    assert list(read_texts(iter(items), CONFIG, Processes(2))) == one
    assert [name for name, _ in one] == [name for name, _ in items]
