"""A curated dataset → its numbers: what the dataset card shows and what two cards compare.

Counted in one pass over the rows, column by column. What is kept grows with the number of
patients and of different words and texts (eight bytes of hash each), never with the reports.
"""

import bisect
import hashlib
import itertools
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from medfinder.curate.dataset import Dataset
from medfinder.records import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
NO_SPLIT = "unsplit"
"""What rows without a split are counted and shown under."""
STATES = ("english", "translated", "untranslated", "no-report")
"""What a study's text is: English as written, a checked translation, another language, none."""
UNKNOWN = "unknown"
MIN_REPORTS = 3
"""A word is shown only when this many reports have it: a word of one report may tell of whom."""
_MOST_WORDS = 40
_VOCABULARY_LIMIT = 1 << 19
_COLUMNS = (
    "patient_id", "volume_hash", "n_slices", "spacing_mm_d", "spacing_mm_w", "report_text",
    "language", "translation_text", "labels", "findings_present", "findings_absent",
    "findings_uncertain", "sex", "age", "manufacturer", "body_part", "split", "source",
)  # fmt: skip
_LETTERS = re.compile(r"[^\W\d_]{3,}")
_HAS_WORD = re.compile(r"[^\W_]")


@cache
def _stop_words() -> Mapping[str, frozenset[str]]:
    text = resources.files(__package__).joinpath("stop_words.toml").read_text(encoding="utf-8")
    return {language: frozenset(words.split()) for language, words in tomllib.loads(text).items()}


@dataclass(frozen=True, slots=True)
class Spread:
    """How a number is spread over studies: every value with its count.

    Attributes:
        counts: Value → number of studies, by value.
    """

    counts: Mapping[float, int]

    @property
    def n(self) -> int:
        """Number of values."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float | None:
        """Arithmetic mean; None without values, as are the others."""
        return sum(v * k for v, k in self.counts.items()) / self.n if self.counts else None

    @property
    def median(self) -> float | None:
        """Middle value, or the mean of the two middle ones."""
        if not self.counts:
            return None
        return (self._at((self.n - 1) // 2) + self._at(self.n // 2)) / 2

    @property
    def minimum(self) -> float | None:
        """Least value."""
        return min(self.counts, default=None)

    @property
    def maximum(self) -> float | None:
        """Greatest value."""
        return max(self.counts, default=None)

    def share_above(self, limit: float) -> float | None:
        """Return the share of values greater than `limit`."""
        above = sum(k for v, k in self.counts.items() if v > limit)
        return above / self.n if self.counts else None

    def _at(self, rank: int) -> float:
        values = list(self.counts)
        ends = list(itertools.accumulate(self.counts.values()))
        return values[bisect.bisect_right(ends, rank)]

    def summary(self) -> dict[str, float | int | None]:
        """Return n, mean, median, minimum and maximum."""
        return {
            "n": self.n,
            "mean": self.mean,
            "median": self.median,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """The numbers of one split.

    Attributes:
        findings: Name → studies that affirm it.
        words: Of the text that is read, as in `Statistics`.
    """

    n_studies: int
    n_patients: int
    n_reports: int
    n_slices: int
    sexes: Mapping[str, int]
    ages: Spread
    words: Spread
    findings: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Word:
    """A frequent word: how many reports have it, and how often it occurs in all."""

    word: str
    n_reports: int
    n_occurrences: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of a curated dataset. Mappings are by falling count, then by name.

    Attributes:
        n_volumes: Studies with a volume; the others were curated from a table alone.
        n_slices: Of all volumes together.
        n_labelled: Studies for which the source's own label table gives any label.
        n_shared_texts: Studies whose text is also another study's.
        n_crossing_patients: Patients with studies in more than one split.
        n_crossing_texts: Texts that occur in more than one split.
        n_doubted: Studies with at least one doubt.
        states: State of `STATES` → split → studies.
        slices: Of studies with a volume, as the spacings are.
        slice_spacing_mm: Between slices, rounded to 0.01 mm.
        pixel_spacing_mm: Within a slice, along W, rounded to 0.01 mm.
        words: Of the text that is read: the translation, else the report. A word is what stands
            between blanks and has a letter or a digit.
        findings: Name → status → studies that state it so.
        findings_per_study: Names affirmed, of studies with a report.
        common_words: Language → its most frequent words in the texts that are read; function
            words, words under three letters and words of fewer than `MIN_REPORTS` reports are out.
    """

    n_studies: int
    n_patients: int
    n_volumes: int
    n_slices: int
    n_reports: int
    n_labelled: int
    n_shared_texts: int
    n_crossing_patients: int
    n_crossing_texts: int
    n_doubted: int
    n_rejections: int
    states: Mapping[str, Mapping[str, int]]
    sexes: Mapping[str, int]
    languages: Mapping[str, int]
    manufacturers: Mapping[str, int]
    body_parts: Mapping[str, int]
    sources: Mapping[str, int]
    studies_per_patient: Spread
    ages: Spread
    slices: Spread
    slice_spacing_mm: Spread
    pixel_spacing_mm: Spread
    words: Spread
    findings: Mapping[str, Mapping[str, int]]
    findings_per_study: Spread
    labels: Mapping[str, int]
    common_words: Mapping[str, tuple[Word, ...]]
    splits: Mapping[str, Part]
    rejections: Mapping[str, int]
    doubts: Mapping[str, int]

    @property
    def affirmed(self) -> Mapping[str, int]:
        """Name → studies that affirm it, by falling count; only names that any study affirms."""
        return _ranked({name: by["present"] for name, by in self.findings.items() if by["present"]})


def statistics(folder: Path) -> Statistics:
    """Count everything the card shows of a curated folder.

    Raises:
        InputError, Incomplete, Mismatch: As `Dataset.open`.
    """
    dataset = Dataset.open(folder)
    counting = _Counting()
    for row in dataset.rows(_COLUMNS):
        counting.add(row)
    doubted: set[int] = set()
    doubts: Counter[str] = Counter()
    for doubt in dataset.doubts(("study_id", "rule")):
        doubts[doubt["rule"]] += 1
        doubted.add(text_hash(doubt["study_id"]))
    rejections = Counter(row["rule"] for row in dataset.rejections(("rule",)))
    return counting.result(rejections, doubts, len(doubted))


def text_hash(text: str) -> int:
    """Return 64 bits that tell texts apart; case and white space do not matter."""
    folded = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(folded, digest_size=8).digest(), "little")


def n_words(text: str) -> int:
    """Count what stands between blanks and has a letter or a digit."""
    return sum(1 for word in text.split() if _HAS_WORD.search(word))


def state_of(row: Mapping[str, Any]) -> str:
    """Return which of `STATES` a row's text is in."""
    if row["report_text"] is None:
        return "no-report"
    if row["translation_text"]:
        return "translated"
    return "english" if row["language"] == "en" else "untranslated"


@dataclass
class _PartCounts:
    n_studies: int = 0
    n_reports: int = 0
    n_slices: int = 0
    patients: set[int] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)
    sexes: Counter[str] = field(default_factory=Counter)
    ages: Counter[float] = field(default_factory=Counter)
    words: Counter[float] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)


class _Counting:
    """All counts of one pass."""

    def __init__(self) -> None:
        self.by: dict[str, Counter[str]] = defaultdict(Counter)
        self.spread: dict[str, Counter[float]] = defaultdict(Counter)
        self.parts: dict[str, _PartCounts] = defaultdict(_PartCounts)
        self.states: dict[str, Counter[str]] = defaultdict(Counter)
        self.patients: Counter[int] = Counter()
        self.texts: Counter[int] = Counter()
        self.findings: dict[str, Counter[str]] = defaultdict(Counter)
        self.word_reports: dict[str, Counter[str]] = defaultdict(Counter)
        self.word_uses: dict[str, Counter[str]] = defaultdict(Counter)
        self.n_volumes = self.n_labelled = 0

    def add(self, row: Mapping[str, Any]) -> None:
        split = row["split"] or NO_SPLIT
        part = self.parts[split]
        part.n_studies += 1
        patient = text_hash(row["patient_id"])
        part.patients.add(patient)
        self.patients[patient] += 1
        self.states[state_of(row)][split] += 1
        for name in ("sex", "manufacturer", "body_part", "source"):
            self.by[name][row[name] or UNKNOWN] += 1
        part.sexes[row["sex"] or UNKNOWN] += 1
        if row["age"] is not None:
            self.spread["age"][row["age"]] += 1
            part.ages[row["age"]] += 1
        if row["volume_hash"]:
            self.n_volumes += 1
            part.n_slices += row["n_slices"]
            self.spread["slices"][row["n_slices"]] += 1
            self.spread["slice_spacing"][round(row["spacing_mm_d"], 2)] += 1
            self.spread["pixel_spacing"][round(row["spacing_mm_w"], 2)] += 1
        labels = set(row["labels"] or ())
        self.n_labelled += bool(labels)
        self.by["label"].update(labels)
        if row["report_text"] is not None:
            self._add_report(row, part)

    def _add_report(self, row: Mapping[str, Any], part: _PartCounts) -> None:
        part.n_reports += 1
        self.by["language"][row["language"] or UNKNOWN] += 1
        for status in ("present", "absent", "uncertain"):
            self.findings_of(row, status)
        present = set(row["findings_present"] or ())
        part.findings.update(present)
        self.spread["findings"][len(present)] += 1
        text = row["translation_text"] or row["report_text"]
        count = n_words(text)
        self.spread["words"][count] += 1
        part.words[count] += 1
        mark = text_hash(text)
        self.texts[mark] += 1
        part.texts.add(mark)
        language = "en" if row["translation_text"] else row["language"] or UNKNOWN
        stop = _stop_words().get(language, frozenset())
        uses = Counter(w for w in _LETTERS.findall(text.lower()) if w not in stop)
        self.word_uses[language].update(uses)
        self.word_reports[language].update(uses.keys())
        if len(self.word_reports[language]) > _VOCABULARY_LIMIT:
            self._forget_rare(language)

    def findings_of(self, row: Mapping[str, Any], status: str) -> None:
        for name in set(row[f"findings_{status}"] or ()):
            self.findings[name][status] += 1

    def _forget_rare(self, language: str) -> None:
        """Drop words of one report: no list of frequent words is changed by more than that."""
        reports, uses = self.word_reports[language], self.word_uses[language]
        for word in [w for w, n in reports.items() if n == 1]:
            del reports[word], uses[word]

    def result(
        self, rejections: Mapping[str, int], doubts: Mapping[str, int], n_doubted: int
    ) -> Statistics:
        order = {name: k for k, name in enumerate((*SPLITS, NO_SPLIT))}
        named = sorted(self.parts, key=lambda name: (order.get(name, len(order)), name))
        parts = [self.parts[name] for name in named]
        return Statistics(
            n_studies=sum(part.n_studies for part in parts),
            n_patients=len(self.patients),
            n_volumes=self.n_volumes,
            n_slices=sum(part.n_slices for part in parts),
            n_reports=sum(part.n_reports for part in parts),
            n_labelled=self.n_labelled,
            n_shared_texts=sum(n for n in self.texts.values() if n > 1),
            n_crossing_patients=_n_crossing(part.patients for part in parts),
            n_crossing_texts=_n_crossing(part.texts for part in parts),
            n_doubted=n_doubted,
            n_rejections=sum(rejections.values()),
            states={state: {name: self.states[state][name] for name in named} for state in STATES},
            sexes=_ranked(self.by["sex"]),
            languages=_ranked(self.by["language"]),
            manufacturers=_ranked(self.by["manufacturer"]),
            body_parts=_ranked(self.by["body_part"]),
            sources=_ranked(self.by["source"]),
            studies_per_patient=_spread(Counter(map(float, self.patients.values()))),
            ages=_spread(self.spread["age"]),
            slices=_spread(self.spread["slices"]),
            slice_spacing_mm=_spread(self.spread["slice_spacing"]),
            pixel_spacing_mm=_spread(self.spread["pixel_spacing"]),
            words=_spread(self.spread["words"]),
            findings={
                name: {status: by[status] for status in ("present", "absent", "uncertain")}
                for name, by in sorted(
                    self.findings.items(), key=lambda item: (-item[1]["present"], item[0])
                )
            },
            findings_per_study=_spread(self.spread["findings"]),
            labels=_ranked(self.by["label"]),
            common_words={language: self._most(language) for language in sorted(self.word_reports)},
            splits={name: _part(self.parts[name]) for name in named},
            rejections=_ranked(rejections),
            doubts=_ranked(doubts),
        )

    def _most(self, language: str) -> tuple[Word, ...]:
        reports = self.word_reports[language]
        most = [item for item in _ranked(reports).items() if item[1] >= MIN_REPORTS]
        return tuple(Word(w, n, self.word_uses[language][w]) for w, n in most[:_MOST_WORDS])


def _part(counts: _PartCounts) -> Part:
    return Part(
        n_studies=counts.n_studies,
        n_patients=len(counts.patients),
        n_reports=counts.n_reports,
        n_slices=counts.n_slices,
        sexes=_ranked(counts.sexes),
        ages=_spread(counts.ages),
        words=_spread(counts.words),
        findings=_ranked(counts.findings),
    )


def _n_crossing(sets: Iterable[set[int]]) -> int:
    """Count what is in more than one of the sets."""
    seen: set[int] = set()
    twice: set[int] = set()
    for members in sets:
        twice |= seen & members
        seen |= members
    return len(twice)


def _ranked(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _spread(counts: Mapping[float, int]) -> Spread:
    return Spread(dict(sorted(counts.items())))
