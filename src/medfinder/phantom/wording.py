"""A case in words: a radiology report in English or Spanish, with the habits of real ones.

Reads the case and a random stream of its own, never pixels. Every present finding is told in a
sentence of its own, so that a reader's negation rules can be judged against the truth; what is
denied or left open is always truly absent.
"""

import math
import re
import unicodedata
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from medfinder.errors import ConfigError
from medfinder.phantom import phrases_en, phrases_es
from medfinder.phantom.case import KINDS, CaseSpec, FindingSpec
from medfinder.records import Language

UNSEEN_EVERY = 4
_ACCENT = re.compile("[\u0300-\u036f]")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_LANGUAGES: dict[str, ModuleType] = {"en": phrases_en, "es": phrases_es}


@dataclass(frozen=True, slots=True)
class WordingConfig:
    """How reports are worded.

    Attributes:
        sentences: ``"usual"`` never uses a list's every fourth sentence, ``"unseen"`` only those.
        verbosity: 0 tells findings only, 1 denies and describes all there is; None draws it,
            so that lengths run from about 10 to 600 words with a median near 100.
        p_abbreviation: Chance that a report writes RUL for right upper lobe.
        p_plain: Chance that a Spanish report is lower case without accents.
    """

    sentences: Literal["usual", "unseen"] = "usual"
    verbosity: float | None = None
    p_abbreviation: float = 0.12
    p_plain: float = 0.25

    def __post_init__(self) -> None:
        if self.verbosity is not None and not 0 <= self.verbosity <= 1:
            raise ConfigError(
                f"Wording verbosity must lie between 0 and 1, got {self.verbosity}.", rule="phantom"
            )


def word(
    case: CaseSpec,
    seed: int,
    language: Language,
    config: WordingConfig | None = None,
    *,
    phase: str = "none",
    variant: int = 0,
) -> str:
    """Word a case.

    Args:
        seed: Of the choice of words, with `variant`: each variant is a paraphrase.
        phase: Contrast phase told in the technique section: a key of ``TECHNIQUE``.

    Returns:
        Text with section headings on lines of their own, or without sections.
    """
    config = config or WordingConfig()
    entropy = [seed, variant, 0x30D5, 0 if language == "en" else 1]
    return _Writer(case, np.random.default_rng(entropy), language, config, phase).report()


class _Writer:
    def __init__(
        self,
        case: CaseSpec,
        rng: np.random.Generator,
        language: Language,
        config: WordingConfig,
        phase: str,
    ) -> None:
        self.case, self.rng, self.language, self.config, self.phase = (
            case,
            rng,
            language,
            config,
            phase,
        )
        self.p = _LANGUAGES[language]
        drawn = float(rng.beta(1.5, 1.7))
        self.verbosity = drawn if config.verbosity is None else config.verbosity
        self.abbreviate = bool(rng.random() < config.p_abbreviation)
        self.centimetres = float(rng.random())

    def report(self) -> str:
        rng, v = self.rng, self.verbosity
        body = self._body()
        sections = bool(rng.random() < 0.15 + 0.75 * v)
        is_plain = self.language == "es" and rng.random() < self.config.p_plain
        impression = self._impression() if rng.random() < 0.25 + 0.7 * v else ""
        if not sections:
            text = " ".join([*body, impression]).strip()
        else:
            parts = []
            if rng.random() < 0.35 + 0.5 * v:
                indication = self._fill(self._one(self.p.INDICATIONS), self._patient())
                parts.append(("indication", indication))
            if rng.random() < 0.6:
                parts.append(("technique", self._expand(self._one(self.p.TECHNIQUE[self.phase]))))
            if rng.random() < 0.3:
                parts.append(("comparison", self._one(self.p.COMPARISON)))
            parts.append(("findings", " ".join(body)))
            if impression:
                parts.append(("impression", impression))
            joint = "\n" if rng.random() < 0.7 else "\n\n"
            text = joint.join(f"{self._one(self.p.HEADINGS[k])}: {t}" for k, t in parts)
        return plain(text) if is_plain else text

    def _body(self) -> list[str]:
        rng, v, case = self.rng, self.verbosity, self.case
        sentences = []
        for finding in case.findings:
            text = self._tell(finding)
            if rng.random() < 0.05 + 0.2 * v:
                text += " " + self._prior(finding)
            sentences.append(text)
        absent = [g for g in self.p.NEGATIVES if not any(case.has(name) for name in g[0])]
        told: set[str] = set()
        n_denied = int(rng.binomial(len(absent), 0.08 + 0.75 * v))
        for i in rng.permutation(len(absent)):
            names, options = absent[int(i)]
            if n_denied <= 0:
                break
            n_denied -= 1
            if told.isdisjoint(names):  # nothing is denied twice
                told.update(names)
                sentences.append(self._one(options))
        for name, text in self.p.UNCERTAIN:
            if rng.random() < 0.02 + 0.05 * v and not case.has(name) and name not in told:
                told.add(name)
                sentences.append(text)
        n_extra = int(rng.binomial(len(self.p.DISTRACTORS), 0.6 * v))
        picks = rng.permutation(len(self.p.DISTRACTORS))[:n_extra]
        sentences += [self._expand(self.p.DISTRACTORS[int(i)]) for i in picks]
        wordy = float(rng.random()) if self.config.verbosity is None else v - 0.01
        if v > 0.5 and wordy > 0.8:  # the long tail of real reports
            n_details = int(rng.integers(4, len(self.p.DETAILS) + 1))
            picks = rng.permutation(len(self.p.DETAILS))[:n_details]
            sentences += [self._expand(self.p.DETAILS[int(i)]) for i in picks]
        if not case.findings:
            sentences.append(self._expand(self._one(self.p.NORMAL)))
        if rng.random() < 0.3 * v:
            sentences.append(self._expand(self._one(self.p.ADVICE)))
        if rng.random() < 0.6:  # else: findings first, as dictated
            sentences = [sentences[int(i)] for i in rng.permutation(len(sentences))]
        return sentences

    def _impression(self) -> str:
        rng = self.rng
        if not self.case.findings:
            return self._expand(self._one(self.p.NORMAL))
        items: list[str] = []
        for finding in self.case.findings:
            if rng.random() < 0.85 or not items:
                text = self._fill(self._one(self.p.SHORT[finding.name]), self._fields(finding))
                items.append(text[0].upper() + text[1:])
        style = rng.random()
        if style < 0.4:
            text = " ".join(f"{i}. {item}." for i, item in enumerate(items, start=1))
        elif style < 0.7:
            text = " ".join(f"{item}." for item in items)
        else:
            text = " ".join(f"- {item}." for item in items)
        if rng.random() < 0.25:
            text += " " + self._expand(self._one(self.p.ADVICE))
        return text

    def _tell(self, finding: FindingSpec) -> str:
        options = self.p.SENTENCES[finding.name]
        unseen = self.config.sentences == "unseen"
        kept = [
            s
            for i, s in enumerate(options)
            if (i % UNSEEN_EVERY == UNSEEN_EVERY - 1) == unseen or len(options) < UNSEEN_EVERY
        ]
        return self._fill(self._one(tuple(kept)), self._fields(finding))

    def _prior(self, finding: FindingSpec) -> str:
        text = self.p.PRIORS[int(self.rng.integers(len(self.p.PRIORS)))]
        before = 0.75 * (finding.size_mm or 0)
        if not finding.size_mm:
            text = text.replace("[ ({before})|]", "")
        return self._fill(text, {"before": f"{round(before)} mm"})

    def _one(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _expand(self, template: str) -> str:
        while found := _CHOICE.search(template):
            options = found.group(1).split("|")
            pick = options[int(self.rng.integers(len(options)))]
            template = template[: found.start()] + pick + template[found.end() :]
        text = re.sub(r"\s+", " ", template).replace(" .", ".").replace(" ,", ",").strip()
        return text

    def _fill(self, template: str, fields: dict[str, str]) -> str:
        text = self._expand(template).format_map(fields)
        text = re.sub(r"\s+", " ", text).strip()
        return text[0].upper() + text[1:] if text.endswith(".") else text

    def _size(self, size_mm: int) -> str:
        if self.rng.random() < (0.15 if self.centimetres < 0.6 else 0.85) and size_mm >= 10:
            text = f"{size_mm / 10:.1f}".removesuffix(".0")
            return f"{text if self.language == 'en' else text.replace('.', ',')} cm"
        return f"{size_mm} mm"

    def _patient(self) -> dict[str, str]:
        words = {"en": {"F": "woman", "M": "man"}, "es": {"F": "Mujer", "M": "Varón"}}
        return {"age": str(self.case.age), "sex": words[self.language][self.case.sex]}

    def _fields(self, f: FindingSpec) -> dict[str, str]:
        fields = (
            _english(f, self.abbreviate) if self.language == "en" else _spanish(f, self.abbreviate)
        )
        if f.size_mm is not None:
            fields["mm"] = self._size(f.size_mm)
        fields["number"] = str(f.number)
        capitals = {k[0].upper() + k[1:]: v[:1].upper() + v[1:] for k, v in fields.items()}
        return fields | capitals | {f"{k}_cap": v for k, v in capitals.items()}


SMALL_TO_LARGE: dict[str, tuple[int, int]] = {
    "pleural effusion": (24, 42),
    "pericardial effusion": (13, 20),
    "pneumothorax": (20, 38),
    "hiatal hernia": (42, 58),
}
"""Sizes in mm from which a finding is called moderate and large."""


def size_grade(finding: FindingSpec) -> int:
    """Return 0 for small, 1 for moderate, 2 for large."""
    moderate, large = SMALL_TO_LARGE.get(finding.name, (0, 10**6))
    size = finding.size_mm or 0
    return int(size >= moderate) + int(size >= large)


def slots(finding: FindingSpec, language: Language) -> dict[str, str]:
    """Return what the ``{name}`` of a language's sentences are filled with, sizes left out."""
    return _english(finding, False) if language == "en" else _spanish(finding, False)


def size_bin(finding: FindingSpec) -> str:
    """Return ``"small"``, ``"medium"`` or ``"big"``: a third of the kind's range on a log scale."""
    low, high = KINDS[finding.name].size_mm or (1, 2)
    share = math.log((finding.size_mm or low) / low) / math.log(high / low)
    return ("small", "medium", "big")[min(2, int(3 * share))]


def _english(f: FindingSpec, abbreviate: bool) -> dict[str, str]:
    side = f.side or ""
    lobe = f"{side} {f.lobe} lobe"
    if abbreviate and f.lobe:
        lobe = f"{side[0]}{f.lobe[0]}l".upper()
    elif f.lobe == "middle":
        lobe = "middle lobe" if f.seed % 3 == 0 else "right middle lobe"
    number = f.level if f.level and f.level.isdigit() else ""
    fields = {
        "side": side,
        "side_cavity": "both pleural cavities" if side == "bilateral" else f"{side} pleural cavity",
        "lungs": "both lungs" if side == "bilateral" else f"the {side} lung",
        "lungs_cap": "Both lungs" if side == "bilateral" else f"The {side} lung",
        "lobe": lobe,
        "grade": f.severity or "",
        "size_grade": ("small", "moderate", "large")[size_grade(f)],
        "density": {"ground glass": "ground glass", "calcified": "calcified"}.get(
            f.density or "", "solid"
        ),
        "plaque": "calcified " if f.density == "calcified" else "",
        "level": f.level or "",
        "level_th": number + {"3": "rd"}.get(number, "th") if number else "",
    }
    return fields | {"lungs_cap": fields["lungs_cap"]}


_ES_SIDE = {"left": "izquierd", "right": "derech"}
_ES_GRADE = {"mild": "leve", "moderate": "moderado", "severe": "grave"}
_ES_LEVEL = {
    "right paratracheal": "paratraqueal derecha",
    "subcarinal": "subcarinal",
    "prevascular": "prevascular",
    "right hilar": "hiliar derecha",
    "left hilar": "hiliar izquierda",
    "centrilobular": "centrolobulillar",
    "paraseptal": "paraseptal",
    "ascending": "ascendente",
    "descending": "descendente",
    "peripheral": "periférica",
    "diffuse": "difusa",
}
_ES_ORDINAL = {
    "3": "tercer",
    "4": "cuarto",
    "5": "quinto",
    "6": "sexto",
    "7": "séptimo",
    "8": "octavo",
    "9": "noveno",
}


def _spanish(f: FindingSpec, abbreviate: bool) -> dict[str, str]:
    stem = _ES_SIDE.get(f.side or "")
    side, side_f, side_pl = (
        (stem + "o", stem + "a", stem + "as") if stem else ("bilateral", "bilateral", "bilaterales")
    )
    if f.lobe == "middle":
        lobe = "lóbulo medio"
    elif abbreviate and f.lobe:
        lobe = (
            "L"
            + {"upper": "S", "lower": "I"}[f.lobe]
            + {"left": "I", "right": "D"}[f.side or "left"]
        )
    else:
        lobe = f"lóbulo {'superior' if f.lobe == 'upper' else 'inferior'} {side}"
    grade = _ES_GRADE.get(f.severity or "", "")
    grade_f = "moderada" if grade == "moderado" else grade
    level = _ES_LEVEL.get(f.level or "", f.level or "")
    size = ("pequeño", "moderado", "abundante" if "effusion" in f.name else "grande")[size_grade(f)]
    words = level.split(" ")
    plural = " ".join(w + ("es" if w.endswith("l") or w.endswith("r") else "s") for w in words)
    ordinal = _ES_ORDINAL.get(f.level or "", "")
    return {
        "side": side,
        "side_f": side_f,
        "side_pl": side_pl,
        "lungs": "ambos pulmones" if f.side == "bilateral" else f"pulmón {side}",
        "lobe": lobe,
        "grade": grade,
        "grade_f": grade_f,
        "grade_pl": grade_f + "s" if grade else "",
        "size_grade": size,
        "size_grade_f": {"pequeño": "pequeña", "moderado": "moderada"}.get(size, size),
        "density": {"ground glass": "en vidrio deslustrado", "calcified": "calcificado"}.get(
            f.density or "", "sólido"
        ),
        "plaque": "calcificadas " if f.density == "calcified" else "",
        "level": level,
        "level_f": level,
        "level_m": {"periférica": "periférico", "difusa": "difuso"}.get(level, level),
        "level_pl": plural,
        "level_th": ordinal,
        "level_thf": {"tercer": "tercera"}.get(ordinal, ordinal[:-1] + "a" if ordinal else ""),
    }


def plain(text: str) -> str:
    """Return lower case without accents, full stops set apart, as some archives export reports."""
    bare = _ACCENT.sub("", unicodedata.normalize("NFD", text.lower()))
    return re.sub(r"\.(\s|$)", r" .\1", bare).strip()
