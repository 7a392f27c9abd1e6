"""A query and a report → the words and sentences that match."""

import re
from collections.abc import Iterable

from medfinder.records import Finding
from medfinder.report.sentences import sentences
from medfinder.report.tokens import fold

_WORD = re.compile(r"[^\W_]+")
# Too common in any report to explain a match; English and Spanish.
_STOP = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "ct",
        "de",
        "del",
        "el",
        "en",
        "for",
        "from",
        "has",
        "have",
        "in",
        "is",
        "it",
        "la",
        "las",
        "lo",
        "los",
        "no",
        "not",
        "of",
        "on",
        "or",
        "patient",
        "sin",
        "study",
        "the",
        "there",
        "to",
        "un",
        "una",
        "was",
        "were",
        "which",
        "with",
        "without",
        "y",
        "con",
        "se",
        "que",
        "al",
        "es",
        "son",
    ]
)


def query_terms(text: str) -> tuple[str, ...]:
    """Return the words of a query that can explain a match, folded, in order, each once."""
    words = (m.group() for m in _WORD.finditer(fold(text)))
    return tuple(dict.fromkeys(w for w in words if len(w) > 1 and w not in _STOP))


def matched_terms(terms: Iterable[str], text: str) -> tuple[str, ...]:
    """Return those of `terms` that occur in `text`, as a word or its plain plural."""
    present = {m.group() for m in _WORD.finditer(fold(text))}
    return tuple(t for t in terms if _variants(t) & present)


def matched_sentences(
    terms: Iterable[str], text: str, findings: Iterable[Finding] = (), n: int = 3
) -> tuple[str, ...]:
    """Return the sentences of `text` that hold most of the terms and findings, best first.

    Args:
        findings: Mentions that count as matches too; a mention weighs as much as two words.
        n: How many sentences at most.
    """
    wanted = [_variants(term) for term in terms]
    spans = [(f.start, f.end) for f in findings]
    scored = []
    for position, (start, end) in enumerate(sentences(text)):
        words = {m.group() for m in _WORD.finditer(fold(text[start:end]))}
        score = sum(1 for variants in wanted if variants & words)
        score += 2 * sum(1 for s, e in spans if start <= s and e <= end)
        if score:
            scored.append((-score, position, text[start:end].strip()))
    return tuple(sentence for _, _, sentence in sorted(scored)[:n])


def _variants(term: str) -> set[str]:
    variants = {term, term + "s", term + "es"}
    if term.endswith("es") and len(term) > 4:
        variants.add(term[:-2])
    if term.endswith("s") and len(term) > 3:
        variants.add(term[:-1])
    return variants
