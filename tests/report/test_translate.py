"""Translations that are checked, asked for again, kept, and queued when no attempt is right."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from medfinder.errors import ConfigError, InputError, UnknownName
from medfinder.report.translate import (
    Failed,
    Price,
    TranslateConfig,
    Translator,
    estimate,
    translate_all,
    translator,
)

ES = "derrame pleural derecho de 12 mm ."
EN = "Right pleural effusion of 12 mm."
WRONG = "Left pleural effusion of 12 mm."


class Told:
    """A translator that says what it was told to, one answer an attempt."""

    name = "told"

    def __init__(self, *answers: str | Failed) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    def translate(
        self, texts: Sequence[str], hints: Sequence[str] = ()
    ) -> Iterator[tuple[int, str | Failed]]:
        for i, text in enumerate(texts):
            n = sum(t == text for t, _ in self.asked)
            self.asked.append((text, hints[i]))
            yield i, self.answers[min(n, len(self.answers) - 1)]

    def price(self, texts: Sequence[str]) -> Price | None:
        return Price(len(texts), 10 * len(texts), 5 * len(texts), 1.0)


def test_a_right_translation_is_passed_on(tmp_path: Path) -> None:
    (made,) = translate_all([("a", ES)], Told(EN), tmp_path / "c")
    assert (made.id, made.text, made.problems, made.attempts) == ("a", EN, (), 1)


def test_a_wrong_one_is_asked_for_again_with_what_was_wrong(tmp_path: Path) -> None:
    told = Told(WRONG, EN)
    (made,) = translate_all([("a", ES)], told, tmp_path / "c")
    assert made.text == EN
    assert made.attempts == 2
    assert "side" not in told.asked[0][1]
    assert "The Spanish says left nowhere, the English once" in told.asked[1][1]


def test_one_that_stays_wrong_is_queued_with_its_last_text(tmp_path: Path) -> None:
    (made,) = translate_all(
        [("a", ES)], Told(WRONG), tmp_path / "c", config=TranslateConfig(attempts=3)
    )
    assert made.text is None
    assert made.rejected_text == WRONG
    assert [p.rule for p in made.problems] == ["translation-side"]
    assert made.attempts == 3


def test_one_that_never_came_is_queued_as_missing(tmp_path: Path) -> None:
    (made,) = translate_all([("a", ES)], Told(Failed("HTTP 500, 6 times")), tmp_path / "c")
    assert made.text is None
    assert made.problems[0].rule == "translation-missing"
    assert made.problems[0].reason == "The translator gave no translation: HTTP 500, 6 times."


def test_one_that_never_came_is_asked_for_in_the_next_run(tmp_path: Path) -> None:
    list(translate_all([("a", ES)], Told(Failed("HTTP 500")), tmp_path / "c"))
    (made,) = translate_all([("a", ES)], Told(EN), tmp_path / "c")
    assert made.text == EN


def test_a_later_failure_keeps_the_text_that_was_rejected_before(tmp_path: Path) -> None:
    (made,) = translate_all([("a", ES)], Told(WRONG, Failed("HTTP 500")), tmp_path / "c")
    assert made.rejected_text == WRONG
    assert [p.rule for p in made.problems] == ["translation-missing", "translation-side"]


def test_a_kept_translation_is_not_asked_for_again(tmp_path: Path) -> None:
    list(translate_all([("a", ES)], Told(EN), tmp_path / "c"))
    told = Told("never")
    (made,) = translate_all([("b", ES)], told, tmp_path / "c")
    assert made.text == EN
    assert told.asked == []


def test_a_queued_one_is_not_asked_for_again_unless_wanted(tmp_path: Path) -> None:
    list(translate_all([("a", ES)], Told(WRONG), tmp_path / "c"))
    told = Told(EN)
    (made,) = translate_all([("a", ES)], told, tmp_path / "c")
    assert made.text is None
    assert told.asked == []
    (made,) = translate_all(
        [("a", ES)], told, tmp_path / "c", config=TranslateConfig(asks_again=True)
    )
    assert made.text == EN


def test_another_translator_is_asked_afresh(tmp_path: Path) -> None:
    list(translate_all([("a", ES)], Told(WRONG), tmp_path / "c"))
    other = Told(EN)
    other.name = "other"
    (made,) = translate_all([("a", ES)], other, tmp_path / "c")
    assert made.text == EN


def test_the_same_text_is_asked_for_once(tmp_path: Path) -> None:
    told = Told(EN)
    made = list(translate_all([("a", ES), ("b", ES), ("a", ES)], told, tmp_path / "c"))
    assert [m.id for m in made] == ["a", "b", "a"]
    assert [m.text for m in made] == [EN] * 3
    assert len(told.asked) == 1


def test_translations_come_in_the_order_of_the_reports(tmp_path: Path) -> None:
    items = [(str(n), f"nodulo de {n} mm .") for n in range(200)]

    class Backwards(Told):
        def translate(
            self, texts: Sequence[str], hints: Sequence[str] = ()
        ) -> Iterator[tuple[int, str | Failed]]:
            for i in reversed(range(len(texts))):
                yield i, f"Nodule of {texts[i].split()[2]} mm."

    made = list(translate_all(items, Backwards(), tmp_path / "c"))
    assert [m.id for m in made] == [i for i, _ in items]
    assert all(m.text == f"Nodule of {m.id} mm." for m in made)


def test_reports_are_read_as_they_are_needed(tmp_path: Path) -> None:
    read = 0

    def endless() -> Iterator[tuple[str, str]]:
        nonlocal read
        while True:
            read += 1
            yield str(read), f"nodulo de {read} mm ."

    stream = translate_all(endless(), Told(EN), tmp_path / "c", config=TranslateConfig(window=8))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert read == 8


def test_a_given_translation_that_passes_is_kept_and_nobody_is_asked(tmp_path: Path) -> None:
    told = Told("never")
    (made,) = translate_all([("a", ES, EN)], told, tmp_path / "c")
    assert (made.text, made.is_given, made.attempts) == (EN, True, 0)
    assert told.asked == []


def test_a_given_translation_that_fails_is_made_anew(tmp_path: Path) -> None:
    given = "Something wrong with the data! #################"
    (made,) = translate_all([("a", ES, given)], Told(EN), tmp_path / "c")
    assert (made.text, made.is_given) == (EN, False)


def test_without_a_translator_given_ones_are_checked_only(tmp_path: Path) -> None:
    good, bad = translate_all([("a", ES, EN), ("b", ES, WRONG)], None, tmp_path / "c")
    assert good.text == EN
    assert (bad.text, bad.rejected_text) == (None, WRONG)
    assert [p.rule for p in bad.problems] == ["translation-side"]


def test_a_report_without_text_is_not_asked_for(tmp_path: Path) -> None:
    told = Told("never")
    (made,) = translate_all([("a", "  ")], told, tmp_path / "c")
    assert made.problems[0].reason == "The report has no text."
    assert told.asked == []


def test_a_translator_that_gives_nothing_ends_the_run(tmp_path: Path) -> None:
    items = [(str(n), f"nodulo de {n} mm .") for n in range(100)]
    config = TranslateConfig(window=10, max_missing=20)
    with pytest.raises(InputError, match="gave nothing for 20 reports in a row") as caught:
        list(translate_all(items, Told(Failed("HTTP 503")), tmp_path / "c", config=config))
    assert caught.value.rule == "translator"
    assert "HTTP 503" in str(caught.value)
    assert "nodulo" not in str(caught.value)


def test_a_second_answer_to_one_question_is_ignored(tmp_path: Path) -> None:
    class Twice(Told):
        def translate(
            self, texts: Sequence[str], hints: Sequence[str] = ()
        ) -> Iterator[tuple[int, str | Failed]]:
            yield 0, EN
            yield 0, WRONG
            yield 7, WRONG

    (made,) = translate_all([("a", ES)], Twice(), tmp_path / "c")
    assert made.text == EN


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match="file of kept translations cannot be used") as caught:
        list(translate_all([("a", ES)], Told(EN), tmp_path / "c"))
    assert caught.value.rule == "translation-cache"


def test_a_cache_that_cannot_grow_is_named_and_keeps_what_it_had(tmp_path: Path) -> None:
    cache = tmp_path / "c"
    list(translate_all([("a", ES)], Told(EN), cache))
    with sqlite3.connect(cache) as file:
        file.execute(
            "CREATE TRIGGER full BEFORE INSERT ON translations BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
    file.close()
    with pytest.raises(InputError, match="disk is full"):
        list(translate_all([("a", ES), ("b", "nodulo .")], Told("Nodule."), cache))
    (made,) = translate_all([("a", ES)], None, cache)
    assert made.text is None  # nobody's name, so another key
    (made,) = translate_all([("a", ES)], Told("never"), cache)
    assert made.text == EN


def test_an_estimate_counts_what_is_not_kept_and_asks_nobody(tmp_path: Path) -> None:
    list(translate_all([("a", ES)], Told(EN), tmp_path / "c"))
    told = Told("never")
    items = [("a", ES), ("b", "nodulo ."), ("c", "nodulo ."), ("d", "masa .", "Mass.")]
    price, n_asked = estimate(items, told, tmp_path / "c")
    assert n_asked == 1
    assert price == Price(1, 10, 5, 1.0)
    assert told.asked == []


def test_an_estimate_writes_no_cache(tmp_path: Path) -> None:
    estimate([("a", ES)], Told(EN), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_an_unknown_translator_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"Unknown translator 'deepl'.*apertium, chat"):
        translator("deepl")


def test_an_option_it_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match=r"translator 'apertium' does not take that.*colour"):
        translator("apertium", colour="blue")


@pytest.mark.parametrize("name", ["attempts", "window", "max_missing"])
def test_a_setting_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Setting {name} of a translation must be at least 1"):
        TranslateConfig(**{name: 0})


def test_a_told_translator_is_a_translator() -> None:
    assert isinstance(Told(), Translator)


CHILD = """
import sys, time
from pathlib import Path
from medfinder.report.translate import translate_all
log = Path(sys.argv[2])
class Slow:
    name = "slow"
    def translate(self, texts, hints=()):
        for i, text in enumerate(texts):
            with log.open("a") as file:
                file.write(text + "\\n")
            time.sleep(0.02)
            yield i, f"Nodule of {text.split()[2]} mm."
    def price(self, texts):
        return None
items = [(str(n), f"nodulo de {n} mm .") for n in range(1, 41)]
for made in translate_all(items, Slow(), Path(sys.argv[1])):
    assert made.text
print("all done")
"""


def test_a_killed_run_goes_on_without_asking_twice(tmp_path: Path) -> None:
    cache, log = tmp_path / "c", tmp_path / "asked"
    command = [sys.executable, "-c", CHILD, str(cache), str(log)]
    first = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().split("\n")) < 15:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "all done"
    asked = log.read_text().split("\n")[:-1]
    assert len(set(asked)) == 40
    assert len(asked) <= 41  # the one under way when it was killed
