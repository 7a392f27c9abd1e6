"""The findings vocabulary: names, CUIs, hierarchy, places, and what reports call them.

Built from three files of this folder: ``bimcv_tree.json`` (derived from BIMCV's label tree: names,
UMLS CUIs, parents), ``synonyms.toml`` and ``locations.toml`` (ours: English and Spanish wording,
and additions the tree lacks). Loaded once, when first asked for.

Eighteen of the names are the labels of the CT-RATE scheme in lower case (`Vocabulary.labels`);
what belongs under a label names it, so that findings can be read in that scheme too.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any, Literal

from medfinder.errors import UnknownName
from medfinder.records import Finding, Language, Laterality
from medfinder.report.phrases import Phrases
from medfinder.report.tokens import fold, tokenize

Kind = Literal["finding", "diagnosis", "location", "quality"]
LANGUAGES: tuple[Language, ...] = ("en", "es")
LABELS = (
    "medical material",
    "arterial wall calcification",
    "cardiomegaly",
    "pericardial effusion",
    "coronary artery wall calcification",
    "hiatal hernia",
    "lymphadenopathy",
    "emphysema",
    "atelectasis",
    "lung nodule",
    "lung opacity",
    "pulmonary fibrotic sequela",
    "pleural effusion",
    "mosaic attenuation pattern",
    "peribronchial thickening",
    "consolidation",
    "bronchiectasis",
    "interlobular septal thickening",
)


@dataclass(frozen=True, slots=True)
class Concept:
    """One entry of the vocabulary.

    Attributes:
        name: Canonical name, spelt as in the tree where the tree has it.
        kind: ``finding``, ``diagnosis`` (the tree's differential diagnoses), ``location`` or
            ``quality`` (of the study: normal, excluded, suboptimal).
        cui: UMLS concept identifier; None where none is known.
        parents: More general entries; a concept can have several.
        label: Its name in the 18-label scheme; None where it has none there.
        side: Laterality a place implies; None for most.
        needs_lung: Counted only where the sentence is not about an organ outside the lungs.
        denies_label: Whether its absence is the absence of its label.
        covers: Entries whose words this one's wording contains without meaning them.
        same_as: The entry that a mention of this one is filed under; None for most.
        synonyms: Phrase patterns of each language.
    """

    name: str
    kind: Kind
    cui: str | None = None
    parents: tuple[str, ...] = ()
    label: str | None = None
    side: Laterality | None = None
    needs_lung: bool = False
    denies_label: bool = False
    covers: tuple[str, ...] = ()
    same_as: str | None = None
    synonyms: Mapping[Language, tuple[str, ...]] = field(default_factory=dict)


class Vocabulary:
    """All concepts, and the phrases that state them.

    Args:
        concepts: Every entry, by name.
        normal: For a finding, phrase patterns of each language that state its absence.
        ignored: For a finding, phrase patterns that hold its words without stating anything.
    """

    def __init__(
        self,
        concepts: Mapping[str, Concept],
        normal: Mapping[str, Mapping[Language, tuple[str, ...]]],
        ignored: Mapping[str, Mapping[Language, tuple[str, ...]]],
    ) -> None:
        self._concepts = dict(concepts)
        self._by_folded: dict[str, str] = {}
        for name in self._concepts:
            self._by_folded.setdefault(fold(name), name)
        self._children: dict[str, list[str]] = {}
        for concept in self._concepts.values():
            above = concept.parents + ((concept.label,) if concept.label else ())
            for parent in dict.fromkeys(above):
                if parent != concept.name:
                    self._children.setdefault(parent, []).append(concept.name)
        self._ancestors: dict[str, frozenset[str]] = {}
        self._normal = normal
        self._ignored = ignored
        self._phrases: dict[tuple[Language, str], Phrases] = {}

    def get(self, name: str) -> Concept:
        """Return the concept with this canonical name.

        Raises:
            UnknownName: No such entry; the message names the nearest.
        """
        try:
            return self._concepts[name]
        except KeyError:
            raise self._unknown(name) from None

    def __contains__(self, name: str) -> bool:
        return name in self._concepts

    def names(self, kind: Kind | None = None) -> list[str]:
        """Return the canonical names, sorted; of one kind where `kind` is given.

        ``kind="finding"`` includes the diagnoses: both are what a report can state.
        """
        wanted = ("finding", "diagnosis") if kind == "finding" else (kind,)
        return sorted(n for n, c in self._concepts.items() if kind is None or c.kind in wanted)

    def resolve(self, text: str, kind: Kind = "finding") -> str:
        """Return the canonical name that a word or phrase means, in English or Spanish.

        Case, accents, articles, hyphens and plurals do not matter. A canonical name means itself;
        otherwise the phrase as a whole must be a synonym.

        Raises:
            UnknownName: No entry is called that; the message names the nearest.
        """
        folded = " ".join(fold(text).split())
        exact = self._by_folded.get(folded)
        kinds = ("finding", "diagnosis") if kind == "finding" else (kind,)
        if exact is not None and self._concepts[exact].kind in kinds:
            return exact
        for language in LANGUAGES:
            words = tokenize(folded, language).words
            phrases = self.phrases(language, "location" if kind == "location" else "finding")
            whole = [
                m.key
                for m in phrases.matches(words)
                if m.start == 0 and m.end == len(words) and ":" not in m.key
            ]
            if whole:
                # The most specific of several: none of the others lies below it.
                return min(whole, key=lambda n: sum(n in self.ancestors(w) for w in whole))
        raise self._unknown(text)

    def descendants(self, name: str) -> frozenset[str]:
        """Return the names below `name`, without itself: a calcified granuloma is a granuloma.

        Raises:
            UnknownName: No such entry.
        """
        self.get(name)
        below: set[str] = set()
        todo = [name]
        while todo:
            for child in self._children.get(todo.pop(), ()):
                if child not in below:
                    below.add(child)
                    todo.append(child)
        return frozenset(below - {name})

    def ancestors(self, name: str) -> frozenset[str]:
        """Return the names above `name`, without itself, through parents (not labels).

        Raises:
            UnknownName: No such entry.
        """
        known = self._ancestors.get(name)
        if known is None:
            above: set[str] = set()
            todo = list(self.get(name).parents)
            while todo:
                parent = todo.pop()
                if parent not in above and parent != name:
                    above.add(parent)
                    todo += self._concepts[parent].parents
            known = self._ancestors[name] = frozenset(above)
        return known

    def labels(self) -> tuple[str, ...]:
        """Return the 18 labels of the CT-RATE scheme, in its order, in lower case."""
        return LABELS

    def labels_18(self, findings: Iterable[Finding]) -> dict[str, bool]:
        """Read findings in the 18-label scheme: true where a finding under the label is present."""
        stated = {f.name for f in findings if f.status == "present"}
        return {label: label in stated for label in LABELS}

    def covers(self, name: str, other: str) -> bool:
        """Tell whether the wording of `name`, or of one above it, contains `other`'s words only."""
        return any(other in self._concepts[n].covers for n in (name, *self.ancestors(name)))

    def phrases(self, language: Language, kind: Literal["finding", "location"]) -> Phrases:
        """Return the matcher of one language; keys are names, some after ``normal:`` or ``ignored:``."""
        made = self._phrases.get((language, kind))
        if made is None:
            made = Phrases(language)
            for concept in self._concepts.values():
                if (concept.kind == "location") == (kind == "location"):
                    made.add(concept.same_as or concept.name, concept.synonyms[language])
            if kind == "finding":
                for prefix, said in (("normal:", self._normal), ("ignored:", self._ignored)):
                    for name, patterns in said.items():
                        made.add(prefix + name, patterns.get(language, ()))
            self._phrases[language, kind] = made
        return made

    def _unknown(self, name: str) -> UnknownName:
        near = get_close_matches(fold(name), list(self._by_folded), n=1)
        hint = f" Did you mean {self._by_folded[near[0]]!r}?" if near else ""
        return UnknownName(
            f"Unknown finding {name[:60]!r}.{hint} The vocabulary has {len(self._concepts)} names; "
            "'medfinder list findings' prints them."
        )


@cache
def vocabulary() -> Vocabulary:
    """Return the packaged vocabulary, read once a process."""
    entries: dict[str, dict[str, Any]] = {}
    for entry in json.loads(_file("bimcv_tree.json"))["entries"]:
        entries[entry["name"]] = entry
    words: dict[str, dict[str, Any]] = {}
    for file, kind in (("synonyms.toml", "finding"), ("locations.toml", "location")):
        for name, said in tomllib.loads(_file(file)).items():
            words[name] = said
            entry = entries.setdefault(name, {"kind": kind, "cui": None, "parents": []})
            entry.update({k: said[k] for k in ("cui", "parents") if k in said})
    labels: dict[str, str | None] = {}

    def label_of(name: str) -> str | None:
        if name not in labels:
            labels[name] = None  # ends a cycle
            own = words.get(name, {}).get("label")
            if name in LABELS:
                labels[name] = name
            elif own is not None:
                labels[name] = own or None
            else:
                above = (label_of(parent) for parent in entries[name]["parents"])
                labels[name] = next((label for label in above if label), None)
        return labels[name]

    concepts = {}
    normal: dict[str, dict[Language, tuple[str, ...]]] = {}
    ignored: dict[str, dict[Language, tuple[str, ...]]] = {}
    for name, entry in entries.items():
        said = words.get(name, {})
        synonyms: dict[Language, tuple[str, ...]] = {}
        for language in LANGUAGES:
            bare = [name] if language == "en" and not said.get("not_said") else []
            synonyms[language] = (*bare, *said.get(language, ()))
            for key, others in ((f"normal_{language}", normal), (f"ignored_{language}", ignored)):
                if key in said:
                    others.setdefault(name, {})[language] = tuple(said[key])
        concepts[name] = Concept(
            name=name,
            kind=entry["kind"],
            cui=entry["cui"],
            parents=tuple(entry["parents"]),
            label=label_of(name),
            side=said.get("side"),
            needs_lung=said.get("lung", False),
            denies_label=said.get("denies_label", False),
            covers=tuple(said.get("covers", ())),
            same_as=said.get("same_as"),
            synonyms=synonyms,
        )
    return Vocabulary(concepts, normal, ignored)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
