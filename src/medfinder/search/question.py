"""A question in words → what CTs are compared with: single sentences to be near, findings to be far.

An encoder of reports places "Nodule without adenopathy" beside neither the nodules nor the denials:
reports say such things in two sentences. So a question is taken apart where one finding ends and the
next begins; what it asks for is said a sentence each, what it denies is named. In a language that an
encoder does not read, the findings are named in English.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from medfinder.records import Finding
from medfinder.report.findings import extract_findings
from medfinder.report.language import detect_language
from medfinder.report.sentences import sentences

MOST_WORDS = 60
"""A longer text is a report, which is compared as it stands."""
SHUN = 0.5
"""Weight of what is denied; chosen on the validation split of the phantom benchmark (docs/log.md)."""
_JOINT = r"[,;]|\b(?:and|or|nor|but|plus|with|without|no|not|absence of|y|e|o|u|ni|con|sin|pero)\b"
_CUT = re.compile(_JOINT, re.IGNORECASE)
_EDGE = re.compile(rf"^(?:\s|{_JOINT})+|(?:[\s.]|{_JOINT})+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        sought: Text whose place a CT is to be near, a sentence for each finding; empty where a
            question only denies.
        shunned: A sentence for each finding that a CT is not to show, such as "Adenopathy.".
    """

    sought: str
    shunned: tuple[str, ...] = ()

    def place(
        self, embed: Callable[[Sequence[str]], npt.NDArray[np.float32]], shun: float = SHUN
    ) -> npt.NDArray[np.float32]:
        """Return the unit vector (dim,) that near CTs answer.

        It points along sought − shun · Σ shunned / √n; along −Σ shunned where nothing is sought.

        Args:
            embed: Texts → unit vectors, (n, dim).
            shun: Weight of the n findings that are denied.
        """
        texts = [self.sought] if self.sought or not self.shunned else []
        vectors = embed([*texts, *self.shunned])
        near, far = vectors[: len(texts)].sum(0), vectors[len(texts) :].sum(0)
        weight = (shun if texts else 1) / max(1, len(self.shunned)) ** 0.5
        place: npt.NDArray[np.float32] = (near - weight * far).astype(np.float32)
        return place / np.float32(np.linalg.norm(place) or 1)


def read_question(text: str, languages: Collection[str] = (), is_report: bool = False) -> Question:
    """Take a question apart; one without findings, or as long as a report, stays as it is.

    Args:
        languages: `EncoderInfo.languages` of what will place it. A text in none of them, even a
            report, becomes English names of the findings that it affirms or suspects.
        is_report: Whether it is one, however short.
    """
    is_whole = is_report or len(text.split()) > MOST_WORDS
    is_foreign = "en" in languages and detect_language(text) not in languages
    if is_whole and not is_foreign:
        return Question(text)
    found = _first_of_each_place(extract_findings(text))
    if is_foreign:
        affirmed = [_named(f) for f in found if f.status != "absent"]
        denied = [] if is_whole else [_sentence(f.name) for f in found if f.status == "absent"]
        return _question(affirmed, denied) if affirmed or denied else Question(text)
    sought: list[str] = []
    shunned: list[str] = []
    for start, end in sentences(text):
        own = [f for f in found if start <= f.start < end]
        if len(own) < 2 and not any(f.status == "absent" for f in own):
            sought.append(text[start:end].strip())
            continue
        edges = [start, *(_between(text, a, b) for a, b in pairwise(own)), end]
        for finding, (a, b) in zip(own, pairwise(edges), strict=True):
            if finding.status == "absent":
                shunned.append(_sentence(finding.name))
            else:
                sought.append(_sentence(_EDGE.sub("", text[a:b])))
    if not shunned and len(sought) < 2:
        return Question(text)
    return _question(sought, shunned)


def _question(sought: Sequence[str], shunned: Sequence[str]) -> Question:
    return Question(" ".join(dict.fromkeys(sought)), tuple(dict.fromkeys(shunned)))


def _first_of_each_place(found: Sequence[Finding]) -> list[Finding]:
    """Leave out what stands on words of a finding before: its label, or another reading."""
    kept: list[Finding] = []
    for finding in found:
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
    return kept


def _between(text: str, a: Finding, b: Finding) -> int:
    """Return where the words about one finding end and those about the next begin."""
    cuts = list(_CUT.finditer(text, a.end, b.start))
    return cuts[-1].start() if cuts else b.start


def _named(finding: Finding) -> str:
    """Name a finding and its place in English: "Nodule in the right upper lobe."."""
    side = f"{finding.laterality} " if finding.laterality else ""
    if finding.location and "lobe" in finding.location:
        return _sentence(f"{finding.name} in the {side}{finding.location}")
    return _sentence(f"{side}{finding.name}")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
