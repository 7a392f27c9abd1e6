"""One study's words → what a dataset holds of them: de-identified, parsed, judged by the rules.

A pure function over plain values, so that it runs in worker processes and is kept by the digest of
its input. Knows no other study: what needs two of them is in `curate`.
"""

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from medfinder.curate import rules
from medfinder.curate.deidentify_text import deidentify_text
from medfinder.curate.labels import (
    canonical_labels,
    label_missing,
    label_negated,
    label_unmentioned,
)
from medfinder.curate.similar import text_key
from medfinder.errors import ArtifactError, EmptyReport
from medfinder.records import Finding, Language, Report
from medfinder.report.clean import clean
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report
from medfinder.report.translation_checks import check_translation
from medfinder.report.vocabulary import vocabulary
from medfinder.scale.engine import Engine, Failure, Step

_TAG = re.compile(r"\[[A-Z]+\]")
_CHUNK = 64
_ALONE = 4 * _CHUNK  # fewer texts are read before a pool has started


@dataclasses.dataclass(frozen=True, slots=True)
class TextConfig:
    """How reports are read.

    Attributes:
        min_words: Reports of fewer words are doubted.
        deidentify: Whether names, numbers, dates and places are taken out of texts.
        language: What the source's reports are written in; None where that differs or is unknown.
        label_missing: Whether findings of the text that the labels lack are doubts.
    """

    min_words: int = 10
    deidentify: bool = True
    language: Language | None = None
    label_missing: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Words:
    """What a source says of one study in words, before anything was done to it; plain values."""

    text: str
    translation: str = ""
    language: Language | None = None
    labels: tuple[str, ...] | None = None
    known: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ReadText:
    """What a dataset holds of one study's words.

    Attributes:
        report: None where there is no text that could be one.
        findings: Of the report, in order.
        translation: English that passed every check; None without one.
        refused: English that did not; None without one.
        labels: Canonical names.
        doubts: (rule, reason) of each.
        removed: What de-identification took out, by kind.
        key: `similar.text_key` of the report; "" without one.
        translation_key: The same of its English, refused or not.
    """

    report: Report | None = None
    findings: tuple[Finding, ...] = ()
    translation: str | None = None
    refused: str | None = None
    labels: tuple[str, ...] = ()
    doubts: tuple[tuple[str, str], ...] = ()
    removed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    key: str = ""
    translation_key: str = ""

    def with_translation(
        self, text: str | None, refused: str | None, problems: Sequence[tuple[str, str]]
    ) -> "ReadText":
        """Return this with English made anew; its problems take the place of the old one's."""
        doubts = [d for d in self.doubts if not d[0].startswith("translation-")]
        return dataclasses.replace(
            self,
            translation=text,
            refused=refused if text is None else None,
            doubts=tuple(dict.fromkeys([*doubts, *([] if text else problems)])),
            translation_key=text_key(text or refused or ""),
        )

    def to_json(self) -> str:
        """Return all of it as JSON, which `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ReadText":
        """Return what `to_json` wrote."""
        plain = json.loads(text)
        plain["report"] = plain["report"] and Report(**plain["report"])
        plain["findings"] = tuple(Finding(**f) for f in plain["findings"])
        plain["doubts"] = tuple((rule, reason) for rule, reason in plain["doubts"])
        plain["labels"] = tuple(plain["labels"])
        return cls(**plain)


def read_text(words: Words, config: TextConfig) -> ReadText:
    """De-identify, parse and judge the words of one study.

    Never fails: text that is no report gives a study without one, and says so in `doubts`.
    """
    doubts: list[tuple[str, str]] = []
    removed: dict[str, int] = {}

    def without_identity(text: str) -> str:
        if not config.deidentify or not text:
            return text
        # Cleaned first: an entity or a free-standing point ("dra . perez") would hide a name.
        cleaned = deidentify_text(clean(text), known=words.known)
        for kind, n in cleaned.removed.items():
            removed[kind] = removed.get(kind, 0) + n
        return cleaned.text

    labels = tuple(
        name if name in vocabulary() else without_identity(name)
        for name in canonical_labels(words.labels or ())
    )
    if words.labels is not None and not labels:
        doubts.append(("no-labels", "The source's label table has no label for this study."))
    reason = rules.placeholder_report(words.text)
    report: Report | None = None
    if reason:
        doubts.append(("placeholder-report", reason))
    else:
        with contextlib.suppress(EmptyReport):  # "-" and its like: a study without a report
            report = parse_report(without_identity(words.text))
    if report is None:
        return ReadText(labels=labels, doubts=tuple(doubts), removed=removed)

    expected = words.language or config.language
    if expected and (reason := rules.language_mismatch(report.text, expected)):
        doubts.append(("language-mismatch", reason))
    if reason := rules.short_report(report.text, config.min_words):
        doubts.append(("short-report", reason))
    findings = extract_findings(report)
    if words.labels is not None:
        doubts += _label_doubts(labels, findings, config)

    translation = refused = None
    is_placeholder = False
    if words.translation.strip() and report.language != "en":
        given = without_identity(words.translation).strip()
        problems = check_translation(_untagged(report.text), _untagged(given))
        doubts += [(problem.rule, problem.reason) for problem in problems]
        # Two placeholders are no shared report.
        is_placeholder = any(problem.rule == "translation-placeholder" for problem in problems)
        translation, refused = (None, given) if problems else (given, None)
    return ReadText(
        report=report,
        findings=findings,
        translation=translation,
        refused=refused,
        labels=labels,
        doubts=tuple(dict.fromkeys(doubts)),
        removed=removed,
        key=text_key(report.text),
        translation_key="" if is_placeholder else text_key(translation or refused or ""),
    )


def _untagged(text: str) -> str:
    """Return a text without the marks of what was taken out: they are words of no language."""
    return _TAG.sub(" ", text)


def _label_doubts(
    labels: tuple[str, ...], findings: tuple[Finding, ...], config: TextConfig
) -> Iterator[tuple[str, str]]:
    for name in label_negated(labels, findings):
        yield (
            "label-negated",
            f"The label {name!r} is only mentioned where the text denies it. Remove the label.",
        )
    for name in label_unmentioned(labels, findings):
        yield "label-unmentioned", f"The text does not mention the label {name!r}."
    if config.label_missing and labels:
        for name in label_missing(labels, findings):
            yield "label-missing", f"The text affirms {name!r}, which is no label."


def read_texts(
    items: Iterable[tuple[str, Words]], config: TextConfig, engine: Engine
) -> Iterator[tuple[str, ReadText]]:
    """Read many studies' words, in order, by workers once they are worth starting.

    Args:
        items: (any name, words) of each; taken a bounded number at a time.
        engine: Who reads all but the first.

    Raises:
        ArtifactError: A worker was ended from outside, again and again, for memory it may be.
    """
    waiting = iter(items)
    for name, words in itertools.islice(waiting, _ALONE):
        yield name, read_text(words, config)
    step = Step(partial(partial, _read, config))
    with contextlib.closing(engine.map(waiting, [step], chunk=_CHUNK)) as stream:
        for (name, _), read in stream:
            if not isinstance(read, Failure):
                yield name, read
            elif read.error is not None:
                raise read.error
            else:
                raise ArtifactError(
                    "A process that reads reports was ended from outside: there may be too little "
                    "memory. Run the same command again with fewer workers (--set workers=1)."
                )


def _read(config: TextConfig, item: tuple[str, Words]) -> ReadText:
    return read_text(item[1], config)
