"""Spanish reports → English ones that passed every check, or a place in an expert's queue.

Who translates is a `Translator`: a chat endpoint (`chat`), Debian's apertium with our dictionary
(`apertium`), or a neural network (`medfinder.model.marian`). What it gives is checked, asked for
again with what was wrong, and kept in a SQLite file by content, so that a run which was killed
goes on without asking twice. Nothing that failed a check is passed on as a translation.
"""

import hashlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from medfinder.errors import ConfigError, InputError
from medfinder.registry import Registry
from medfinder.report.glossary import glossary
from medfinder.report.translation_checks import Problem, check_translation

__all__ = [
    "Failed",
    "Item",
    "Price",
    "Problem",
    "TranslateConfig",
    "Translation",
    "Translator",
    "check_translation",
    "estimate",
    "translate_all",
    "translator",
    "translators",
]

MISSING = "translation-missing"
"""Rule of a report whose translator gave no translation at all."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What a translator gives instead of a text it could not translate.

    Attributes:
        reason: What went wrong, without a word of the report: ``"HTTP 500 four times"``.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Price:
    """What a translation will cost, before it is asked for.

    Attributes:
        requests: Requests that will be sent, retries left out.
        tokens_in: Tokens of all prompts, estimated.
        tokens_out: Tokens of all replies, estimated.
        amount: In the currency in which the price of a million tokens was given; None without.
    """

    requests: int
    tokens_in: int
    tokens_out: int
    amount: float | None

    def __add__(self, other: "Price") -> "Price":
        """Return the price of both."""
        amounts = (self.amount, other.amount)
        return Price(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            None if None in amounts else sum(a for a in amounts if a is not None),
        )


@runtime_checkable
class Translator(Protocol):
    """Anything that turns Spanish reports into English ones.

    Attributes:
        name: What it is, with all that changes what it gives: part of the cache's key.
    """

    name: str

    def translate(
        self, texts: Sequence[str], hints: Sequence[str] = ()
    ) -> Iterator[tuple[int, str | Failed]]:
        """Yield the position of each text and its English, as they arrive, in any order.

        Args:
            hints: For each text what was wrong with an earlier translation, "" for nothing; a
                translator that cannot listen ignores them.

        Raises:
            InputError: No text can be translated: the endpoint refuses the key, the model is
                unknown, the program is not installed.
        """
        ...

    def price(self, texts: Sequence[str]) -> Price | None:
        """Return what these texts will cost; None where nothing is asked of anyone."""
        ...


class Item(NamedTuple):
    """A report to translate.

    Attributes:
        id: The caller's name for it.
        text: Spanish.
        given: English that came with it; checked like any other and kept when it passes.
    """

    id: str
    text: str
    given: str | None = None


@dataclass(frozen=True, slots=True)
class TranslateConfig:
    """How a run of translations goes about it.

    Attributes:
        attempts: Times a report is asked for before an expert must look at it.
        window: Reports held at once; memory does not grow with their number.
        asks_again: Whether reports which failed all attempts of an earlier run are asked for anew.
        max_missing: Reports in a row without any translation after which the run stops.
    """

    attempts: int = 3
    window: int = 64
    asks_again: bool = False
    max_missing: int = 40

    def __post_init__(self) -> None:
        for name in ("attempts", "window", "max_missing"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"Setting {name} of a translation must be at least 1, got {getattr(self, name)}."
                )


@dataclass(frozen=True, slots=True)
class Translation:
    """What became of one report.

    Attributes:
        id: The caller's name for it.
        text: English that passed every check; None where none did.
        problems: Why there is no text; empty where there is.
        attempts: Times it was asked for, in this run or an earlier one; 0 for a given one.
        rejected_text: The last translation that failed, for the expert who mends it.
        is_given: Whether `text` is what came with the report.
    """

    id: str
    text: str | None
    problems: tuple[Problem, ...] = ()
    attempts: int = 0
    rejected_text: str | None = None
    is_given: bool = False


translators: Registry[Callable[..., Translator]] = Registry("translator")
"""Name → factory. ``marian`` joins when `medfinder.model.marian` is imported."""


def translator(name: str, **options: Any) -> Translator:
    """Return the translator called `name`.

    Args:
        name: ``"chat"``, ``"apertium"`` or ``"marian"``.
        options: What its factory takes; a None is as if it had not been given.

    Raises:
        UnknownName: No such translator; the known ones are listed.
        ConfigError: An option it does not take, or lacks.
    """
    import medfinder.report.apertium
    import medfinder.report.chat  # noqa: F401

    factory = translators.get(name)
    try:
        return factory(**{key: value for key, value in options.items() if value is not None})
    except TypeError as error:
        raise ConfigError(f"The translator {name!r} does not take that: {error}.") from None


def translate_all(
    items: Iterable[tuple[str, str] | tuple[str, str, str | None]],
    translator: Translator | None,
    cache: Path,
    *,
    config: TranslateConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Translation]:
    """Translate reports, check each translation, and yield what became of each, in order.

    Args:
        items: (id, Spanish text) or (id, Spanish text, given English); read as they are needed.
        translator: None checks the given translations only.
        cache: SQLite file, made where there is none. An answer is kept when it arrives.
        progress: Called with the number of reports done.

    Yields:
        One translation an item. A report that no attempt got right has no text and has problems.

    Raises:
        InputError: The translator cannot be used at all (``translator``), or the cache cannot be
            read or written (``translation-cache``). What was kept so far stays kept.
    """
    config = config or TranslateConfig()
    n_done = 0
    missing_in_a_row = 0
    with closing(_Cache(cache, translator.name if translator else "")) as kept:
        stream = iter(items)
        while window := [Item(*item) for item in itertools.islice(stream, config.window)]:
            made = _window(window, translator, kept, config)
            for item in window:
                result = made[item]
                is_missing = [p.rule for p in result.problems] == [MISSING]
                missing_in_a_row = missing_in_a_row + 1 if is_missing else 0
                n_done += 1
                yield result
                if progress:
                    progress(n_done)
            if translator is not None and missing_in_a_row >= config.max_missing:
                raise InputError(
                    f"The translator {translator.name!r} gave nothing for {missing_in_a_row} reports "
                    f"in a row - {made[window[-1]].problems[0].reason} - run again when it answers; "
                    "what was translated is kept.",
                    rule="translator",
                )


def estimate(
    items: Iterable[tuple[str, str] | tuple[str, str, str | None]],
    translator: Translator,
    cache: Path,
    *,
    config: TranslateConfig | None = None,
) -> tuple[Price | None, int]:
    """Return what `translate_all` would cost, and how many reports it would ask for.

    Reports whose translation is kept, and given ones that pass, cost nothing. Asks nobody.
    """
    config = config or TranslateConfig()
    n_asked = 0
    total: Price | None = None
    seen: set[str] = set()
    with closing(_Cache(cache, translator.name, is_read_only=True)) as kept:
        stream = iter(items)
        while window := [Item(*item) for item in itertools.islice(stream, config.window)]:
            asked = []
            for item in window:
                key = kept.key(item.text)
                if key in seen or _given(item) or _settled(kept.get(key), item, config):
                    continue
                seen.add(key)
                asked.append(item.text)
            n_asked += len(asked)
            price = translator.price(asked) if asked else None
            total = price if total is None else total + price if price else total
    return total, n_asked


# ---------------------------------------------------------------------------------- one window
@dataclass(slots=True)
class _Pending:
    """A text to ask for, and the items that have it."""

    key: str
    text: str
    items: list[Item]
    hint: str = ""
    attempts: int = 0
    failed: str = ""


def _window(
    window: Sequence[Item],
    translator: Translator | None,
    kept: "_Cache",
    config: TranslateConfig,
) -> dict[Item, Translation]:
    made: dict[Item, Translation] = {}
    pending: dict[str, _Pending] = {}
    for item in window:
        if item in made:
            continue
        given = _given(item)
        if given is not None:
            made[item] = given
            continue
        key = kept.key(item.text)
        entry = kept.get(key)
        settled = _settled(entry, item, config)
        if settled is not None:
            made[item] = settled
        elif translator is None or not item.text.strip():
            made[item] = _unasked(item)
        else:
            waiting = pending.setdefault(key, _Pending(key, item.text, []))
            waiting.items.append(item)
            if entry is not None and not entry.is_over(config):
                waiting.attempts, waiting.hint = entry.attempts, _hint(entry.problems)
    todo = list(pending.values())
    while todo and translator is not None:
        todo = _attempt(todo, translator, kept, config)
    for waiting in pending.values():
        entry = kept.get(waiting.key)
        for item in waiting.items:
            settled = _settled(entry, item, config, is_final=True)
            reason = waiting.failed or "it did not answer"
            problems: tuple[Problem, ...] = (
                Problem(MISSING, f"The translator gave no translation: {reason}."),
            )
            if waiting.failed and (settled is None or settled.text is None):
                # The queue says what is wrong with the last text there was.
                problems = (*problems, *(settled.problems if settled else ()))
                rejected = settled.rejected_text if settled else None
                made[item] = Translation(item.id, None, problems, waiting.attempts, rejected)
            else:
                made[item] = settled or Translation(item.id, None, problems, waiting.attempts)
    return made


def _attempt(
    todo: Sequence[_Pending], translator: Translator, kept: "_Cache", config: TranslateConfig
) -> list[_Pending]:
    """Ask once for each text; return those to ask for again."""
    texts = [waiting.text for waiting in todo]
    again: list[_Pending] = []
    unanswered = dict(enumerate(todo))
    for position, reply in translator.translate(texts, [waiting.hint for waiting in todo]):
        waiting = unanswered.pop(position, None)
        if waiting is None:
            continue  # a second answer to the same question
        if isinstance(reply, Failed):
            waiting.failed = reply.reason
            continue
        waiting.attempts += 1
        problems = check_translation(waiting.text, reply)
        kept.put(waiting.key, reply, problems, waiting.attempts)
        if problems and waiting.attempts < config.attempts:
            waiting.hint = _hint(problems)
            again.append(waiting)
    return again


def _given(item: Item) -> Translation | None:
    if item.given is None or not item.given.strip() or check_translation(item.text, item.given):
        return None
    return Translation(item.id, item.given.strip(), is_given=True)


def _unasked(item: Item) -> Translation:
    if item.given is not None and item.given.strip():
        problems = check_translation(item.text, item.given)
        return Translation(item.id, None, problems, rejected_text=item.given)
    reason = "The report has no text." if not item.text.strip() else "Nobody was asked for one."
    return Translation(item.id, None, (Problem(MISSING, reason),))


def _settled(
    entry: "_Entry | None", item: Item, config: TranslateConfig, is_final: bool = False
) -> Translation | None:
    """Return what is kept of a text, where it needs no more asking."""
    if entry is None:
        return None
    if not entry.problems:
        return Translation(item.id, entry.english, attempts=entry.attempts)
    if (entry.is_over(config) and not config.asks_again) or is_final:
        return Translation(item.id, None, entry.problems, entry.attempts, entry.english)
    return None


def _hint(problems: Sequence[Problem]) -> str:
    return " ".join(problem.reason for problem in problems)


# ------------------------------------------------------------------------------------ the cache
@dataclass(frozen=True, slots=True)
class _Entry:
    english: str
    problems: tuple[Problem, ...]
    attempts: int

    def is_over(self, config: TranslateConfig) -> bool:
        return self.attempts >= config.attempts


_TABLE = """
CREATE TABLE IF NOT EXISTS translations (
    key TEXT PRIMARY KEY,
    translator TEXT NOT NULL,
    english TEXT NOT NULL,
    problems TEXT NOT NULL,
    attempts INTEGER NOT NULL
) WITHOUT ROWID
"""


class _Cache:
    """Translations by content: the SQLite file of `translate_all`.

    An entry is written when its answer arrives, in a transaction of its own; whatever kills the
    process leaves whole entries only.
    """

    def __init__(self, path: Path, name: str, *, is_read_only: bool = False) -> None:
        self._path = path
        self._name = name
        self._prefix = f"{name}\0{glossary().hash}\0".encode()
        is_new = is_read_only and not path.exists()
        try:
            if not is_read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(
                ":memory:" if is_new else path, timeout=60, isolation_level=None
            )
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(_TABLE)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from None

    def key(self, text: str) -> str:
        return hashlib.sha256(self._prefix + text.strip().encode()).hexdigest()

    def get(self, key: str) -> _Entry | None:
        try:
            row = self._file.execute(
                "SELECT english, problems, attempts FROM translations WHERE key = ?", (key,)
            ).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        if row is None:
            return None
        return _Entry(row[0], tuple(Problem(*p) for p in json.loads(row[1])), row[2])

    def put(self, key: str, english: str, problems: Sequence[Problem], attempts: int) -> None:
        found = json.dumps([[p.rule, p.reason] for p in problems], ensure_ascii=False)
        # JSON of a bad endpoint can spell halves of characters, which nothing can store.
        english = english.encode("utf-8", "replace").decode()
        found = found.encode("utf-8", "replace").decode()
        try:
            self._file.execute(
                "INSERT OR REPLACE INTO translations VALUES (?, ?, ?, ?, ?)",
                (key, self._name, english, found, attempts),
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        self._file.close()

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"The file of kept translations cannot be used - {str(self._path)!r} - {error} - make "
            "room, mend its permissions, or give another file.",
            rule="translation-cache",
        )
