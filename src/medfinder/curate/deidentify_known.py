"""Where a text repeats what its study's own headers say of the people in it."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medfinder.curate.deidentify_page import TOKEN, Page, Span, lists, plain
from medfinder.report.tokens import fold

_MAX_KNOWN = 64
_MAX_CODE = 128  # DICOM's longest identifiers have 64 characters


@dataclass(frozen=True)
class Known:
    """What is looked for: numbers as their letters and digits alone, names as their words."""

    codes: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    names: tuple[frozenset[str], ...] = ()


def search_terms(known: Iterable[str]) -> Known:
    """Turn a header's values into what is looked for; the first 64 in order of the alphabet."""
    codes: set[str] = set()
    joined: set[str] = set()
    names: list[frozenset[str]] = []
    for item in sorted(set(known))[:_MAX_KNOWN]:
        words = TOKEN.findall(fold(plain(item)))
        compact = "".join(words)
        if any(char.isdigit() for char in compact):
            if 4 <= len(compact) <= _MAX_CODE:
                codes.add(compact)
            words = [word for word in words if word.isalpha()]
        parts = [word for word in words if word not in lists().particles]
        if parts:
            names.append(frozenset(parts))
        for order in (words, words[::-1], words[-1:] + words[:-1], words[1:] + words[:1]):
            if len(words) > 1 and len("".join(order)) >= 8:
                joined.add("".join(order))
    by_length = sorted(codes, key=lambda code: (-len(code), code))
    return Known(tuple(by_length), tuple(sorted(joined)), tuple(names))


def find_known_codes(page: Page, known: Known) -> Iterator[Span]:
    """Yield known numbers, whatever separators are in them."""
    yield from _compact_hits(page, known.codes)


def find_known_names(page: Page, known: Known) -> Iterator[Span]:
    """Yield known names, in any order of their words, and single words that no report uses."""
    yield from _compact_hits(page, known.joined)
    table = lists()
    n = len(page.words)
    for parts in known.names:
        i = 0
        while i < n:
            if page.words[i] not in parts:
                i += 1
                continue
            last, hits, j = i, {page.words[i]}, i + 1
            while j < n and len(gap := page.gap(j)) <= 3 and "\n" not in gap and "\0" not in gap:
                word = page.words[j]
                if word in parts:
                    hits.add(word)
                    last = j
                elif (word not in table.particles and len(word) > 1) or j - last > 3:
                    break
                j += 1
            # one word of the name alone, unless reports use it for something else
            alone = page.words[i]
            ordinary = table.ordinary_only(alone)
            if len(hits) > 1 or (len(alone) >= 3 and not ordinary):
                yield page.starts[i], page.ends[last]
            i = last + 1


def _compact_hits(page: Page, codes: tuple[str, ...]) -> Iterator[Span]:
    """Yield where a code stands, whatever separators are in it, from a word's start to an end."""
    if not codes:
        return
    compact = "".join(page.words)
    edges = [0]
    for word in page.words:
        edges.append(edges[-1] + len(word))
    for code in codes:
        at = compact.find(code)
        while at >= 0:
            first = bisect_right(edges, at) - 1
            last = bisect_left(edges, at + len(code)) - 1
            whole = edges[first] == at and edges[last + 1] == at + len(code)
            near = all(
                len(gap := page.gap(i)) <= 3 and "\0" not in gap for i in range(first + 1, last + 1)
            )
            # inside a longer word only where the code is long enough to be no accident
            if near and (whole or len(code) >= 6):
                yield page.starts[first], page.ends[last]
            at = compact.find(code, at + 1)
