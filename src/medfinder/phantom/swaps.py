"""Attribute-swap forced choice: a study's report against the same report with one attribute wrong.

Whoever picks the true one without the volume must score one half. So swaps come in couples: where
one study's attribute goes from *a* to *b*, another's of the same kind goes from *b* to *a*, and
what hangs together with it (the lobe with the side, the side with the size) is the same in both or
exchanged like it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from medfinder.phantom.case import KINDS, FindingSpec
from medfinder.phantom.counterfactual import Attribute
from medfinder.phantom.splits import BenchmarkStudy, is_unseen_combination, report_of
from medfinder.phantom.wording import SMALL_TO_LARGE, size_bin, size_grade
from medfinder.records import Language

ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)
MIN_SIZE_RATIO = 1.6
MIN_LEVELS_APART = 2
"""Between numbered levels: nobody is asked to tell the seventh rib from the eighth."""

# What an attribute may not be independent of; equal in both studies of a couple.
_CONTEXT: dict[Attribute, tuple[Attribute, ...]] = {"side": ("lobe",), "lobe": ("side",)}


@dataclass(frozen=True, slots=True)
class Swap:
    """Two reports of one study; only the first is true of its volume.

    Attributes:
        name: The finding one of whose attributes is wrong.
        attribute: Which.
        before: Its true value.
        after: What the swapped report says instead.
    """

    study_id: str
    name: str
    attribute: Attribute
    before: Any
    after: Any
    true_text: str
    swapped_text: str


def attribute_swaps(
    studies: list[BenchmarkStudy],
    n: int,
    seed: int = 1,
    *,
    language: Language = "en",
    variant: int = 0,
) -> list[Swap]:
    """List balanced swaps; kinds, (finding, attribute), take turns.

    In every kind each (before, after) occurs as often as (after, before); a finding is asked for
    each of its attributes once at most. Left is swapped with right, a lobe with another of its
    side, a size with one at least `MIN_SIZE_RATIO` away in another third of its range and, where
    the words have grades, of another grade. The words around stay: the swapped report is worded
    by the same random numbers. Only a size told of a prior study follows the size, which it would
    otherwise contradict. A swap that adds nothing wrong to the text is left out.

    Args:
        seed: Of who is coupled with whom; the reports are those of `report_of`.

    Returns:
        Up to `n` swaps, an even number; couples follow each other. A larger `n` only adds, while
        `studies` are the same.
    """
    told = _Told(language, variant)
    queues = [
        _couples(studies, name, attribute, np.random.default_rng([seed, k, 0x5A4B]), told)
        for k, (name, attribute) in enumerate(_kinds())
    ]
    swaps: list[Swap] = []
    while queues and len(swaps) + 2 <= n:
        for queue in list(queues):
            if len(swaps) + 2 > n:
                break
            couple = next(queue, None)
            if couple is None:
                queues.remove(queue)
            else:
                swaps += couple
    return swaps


def _kinds() -> Iterator[tuple[str, Attribute]]:
    """Yield every (finding, attribute) that a swap may change."""
    for name, kind in KINDS.items():
        options = {
            "side": set(kind.sides) >= {"left", "right"},
            "lobe": kind.lobar,
            "size_mm": kind.size_mm,
            "density": kind.densities,
            "severity": kind.severities,
            "level": kind.levels,
        }
        yield from ((name, a) for a in ATTRIBUTES if options[a])


class _Told:
    """Reports of studies, each worded once."""

    def __init__(self, language: Language, variant: int) -> None:
        self.language, self.variant = language, variant
        self._texts: dict[str, str] = {}

    def text(self, study: BenchmarkStudy) -> str:
        return report_of(study, language=self.language, variant=self.variant)

    def swap(
        self, study: BenchmarkStudy, name: str, attribute: Attribute, after: Any
    ) -> Swap | None:
        """Word both reports; None where the swapped one says nothing that is wrong."""
        if study.study_id not in self._texts:
            self._texts[study.study_id] = self.text(study)
        true = self._texts[study.study_id]
        findings = tuple(
            replace(f, **{attribute: after}) if f.name == name else f for f in study.case.findings
        )
        swapped = self.text(replace(study, case=replace(study.case, findings=findings)))
        was, now = (Counter(text.lower().split()) for text in (true, swapped))
        if not (now - was and was - now):  # a word left out is not a wrong one
            return None
        before = getattr(study.case.get(name), attribute)
        return Swap(study.study_id, name, attribute, before, after, true, swapped)


def _couples(
    studies: list[BenchmarkStudy],
    name: str,
    attribute: Attribute,
    rng: np.random.Generator,
    told: _Told,
) -> Iterator[tuple[Swap, Swap]]:
    """Match studies whose values can be exchanged, each once."""
    free = [(s, f) for s in studies if (f := s.case.get(name)) is not None]
    free = [free[int(i)] for i in rng.permutation(len(free))]
    while free:
        study, finding = free.pop()
        for place, (other, its) in enumerate(free):
            if not _may_exchange(finding, its, attribute):
                continue
            there = told.swap(study, name, attribute, getattr(its, attribute))
            if there is None:  # this report does not tell the value
                break
            back = told.swap(other, name, attribute, getattr(finding, attribute))
            if back is not None:
                del free[place]
                yield there, back
                break


def _may_exchange(a: FindingSpec, b: FindingSpec, attribute: Attribute) -> bool:
    before, after = getattr(a, attribute), getattr(b, attribute)
    if before == after or any(
        getattr(a, other) != getattr(b, other) for other in _CONTEXT.get(attribute, ())
    ):
        return False
    if attribute == "side" and "bilateral" in (before, after):
        return False
    if attribute == "level" and before.strip("T").isdigit():
        apart = abs(int(before.strip("T")) - int(after.strip("T")))
        if apart < MIN_LEVELS_APART:
            return False
    if attribute == "size_mm" and not (
        max(before, after) >= MIN_SIZE_RATIO * min(before, after)
        and size_bin(a) != size_bin(b)
        and (a.name not in SMALL_TO_LARGE or size_grade(a) != size_grade(b))
    ):
        return False
    # What training never showed must be true as often as it is wrong.
    a_changed, b_changed = replace(a, **{attribute: after}), replace(b, **{attribute: before})
    return is_unseen_combination(a_changed) == is_unseen_combination(b) and is_unseen_combination(
        b_changed
    ) == is_unseen_combination(a)
