"""A sentence -> the same sentence with one attribute changed: what a model must not overlook.

Words of one group exclude each other: a finding on the left is not on the right, a mild one is not
severe. Rules on words alone; nothing here knows a case's truth, so any report can be used.
"""

import re
from functools import lru_cache
from typing import Protocol


class Chooser(Protocol):
    """What `swapped` asks of a random generator (`random.Random` has it)."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


GROUPS: tuple[tuple[str, ...], ...] = (
    ("left", "right"),
    ("upper", "middle", "lower"),
    ("mild", "moderate", "severe"),
    ("small", "moderate", "large"),
    ("solid", "ground glass", "calcified"),
    ("centrilobular", "paraseptal"),
    ("ascending", "descending"),
    ("peripheral", "diffuse"),
    ("right paratracheal", "subcarinal", "prevascular", "right hilar", "left hilar"),
    ("rul", "rml", "rll", "lul", "lll"),
    ("3rd", "4th", "5th", "6th", "7th", "8th", "9th"),
    ("t5", "t6", "t7", "t8", "t9", "t10", "t11"),
    ("izquierdo", "derecho"),
    ("izquierda", "derecha"),
    ("izquierdos", "derechos"),
    ("izquierdas", "derechas"),
    ("superior", "medio", "inferior"),
    ("leve", "moderado", "grave"),
    ("leve", "moderada", "grave"),
    ("pequeño", "moderado", "grande"),
    ("pequeña", "moderada", "grande"),
    ("sólido", "en vidrio deslustrado", "calcificado"),
    ("centrolobulillar", "paraseptal"),
    ("ascendente", "descendente"),
    ("periférica", "difusa"),
)
"""Words that exclude each other, in English and Spanish."""

SIZE_FACTOR = 2.0
_SIZE = re.compile(r"\b(\d+(?:[.,]\d+)?) ?(mm|cm)\b", re.IGNORECASE)
_ONLY_NODULES = {
    "solid",
    "ground glass",
    "calcified",
    "sólido",
    "en vidrio deslustrado",
    "calcificado",
}
_NODULE = re.compile(r"\b(nodule|nódulo)\b", re.IGNORECASE)
_MIDDLE = re.compile(r"\b(right middle lobe|middle lobe|lóbulo medio|rml)\b", re.IGNORECASE)
_LOBE = re.compile(r"\b(lobe|lóbulo)\b", re.IGNORECASE)
_SIDES = {"left", "right"}


@lru_cache(maxsize=400_000)
def swaps(sentence: str) -> tuple[str, ...]:
    """List every one-attribute change of a sentence; empty where no rule applies.

    Sizes are doubled and halved, keeping their unit. A side is not changed beside the middle lobe,
    which only the right lung has, nor a lobe to the middle one on the left.
    """
    found: list[str] = []
    in_middle = _MIDDLE.search(sentence) is not None
    for group in GROUPS:
        if group[0] in _ONLY_NODULES and not _NODULE.search(sentence):
            continue
        if in_middle and (set(group) & _SIDES):
            continue
        for word in group:
            for match in re.finditer(rf"\b{re.escape(word)}\b", sentence, re.IGNORECASE):
                if group[0] in ("upper", "superior") and not _LOBE.search(sentence):
                    continue
                for other in group:
                    if other == word:
                        continue
                    if other in ("middle", "medio") and not re.search(
                        r"\b(right|derecho)\b", sentence, re.IGNORECASE
                    ):
                        continue
                    found.append(_put(sentence, match, other))
    for match in _SIZE.finditer(sentence):
        found += [_put(sentence, match, _scaled(match, f)) for f in (SIZE_FACTOR, 1 / SIZE_FACTOR)]
    return tuple(found)


def swapped(sentence: str, chooser: Chooser) -> str | None:
    """Return one of `swaps`, or None."""
    options = swaps(sentence)
    return options[int(chooser.random() * len(options))] if options else None


def _put(sentence: str, match: re.Match[str], word: str) -> str:
    was = match[0]
    if was.isupper() and was.isalpha() and len(was) > 1:
        word = word.upper()
    elif was[0].isupper():
        word = word[0].upper() + word[1:]
    return sentence[: match.start()] + word + sentence[match.end() :]


def _scaled(match: re.Match[str], factor: float) -> str:
    text, unit = match[1], match[2]
    value = float(text.replace(",", ".")) * factor
    if unit.lower() == "mm":
        return f"{max(1, round(value))} {unit}"
    shown = f"{value:.1f}".removesuffix(".0")
    return f"{shown.replace('.', ',') if ',' in text else shown} {unit}"
