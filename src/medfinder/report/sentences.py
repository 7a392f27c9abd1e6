"""Text → sentences, as offsets. Made for reports: decimals, "7th-8th", bullets, BIMCV's " . "."""

import re

# What may end a sentence: a mark before a space, a closing mark or the end; a line; a bullet.
# A double quote with a space on one side opens a bullet in some exported reports.
_END = re.compile(
    r"""[.!?]+ (?= [\s"'”)\]•·] | $ )   # marks, not inside "1.2" or "e.g.x"
      | (?<=[^\W\d_]{3}) \. (?=[^\W\d_a-z])   # "DETECTED.No": the space was lost
      | \n+
      | [•·●▪]
      | (?: (?<=\s)["“”] | (?<=^)["“”] | ["“”](?=\s|$) )
    """,
    re.VERBOSE,
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:dr|dra|prof|assist|assoc|approx|aprox|ca|e\.g|i\.e|eg|ie|vs|no|nr|fig|st|cf|etc"
    r"|mm|cm|ml|hu|min|max|post|ant|inf|sup|lat|med|bilat|der|izq|dcha|dcho|izda|izdo|seg|sr|sra)"
    r"|\b[a-z])$"
)
# In lower-case text no capital tells whether "12 mm." ends a sentence; these words go on after it.
_SIZE = re.compile(r"\d ?(?:mm|cm|ml|hu)$")
_GOES_ON = re.compile(
    r"(?:x|and|by|in|of|on|at|with|wide|deep|long|thick|across|y|e|de|del|en|por|con|al)\b"
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the offsets (start, end) of every sentence, in order, without outer white space.

    A decimal point, an abbreviation's point before a lower-case word and a question mark inside
    brackets end no sentence; a line break and a list bullet do. Linear in the length of the text.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    # In all-lower-case text a lower-case word after a point says nothing.
    is_cased = not text.islower()
    for mark in _END.finditer(text):
        if mark.start() < start:
            continue
        sign = mark[0][0]
        if sign in ".?!" and not _ends(text, start, mark.start(), mark.end(), is_cased):
            continue
        keep = sign in ".?!"
        _append(spans, text, start, mark.end() if keep else mark.start())
        start = mark.end()
    _append(spans, text, start, len(text))
    return spans


def _ends(text: str, start: int, mark: int, after: int, is_cased: bool) -> bool:
    following = text[after : after + 1]
    if following == ")" or following == "]":
        return False
    if text[mark] != ".":
        # "(cyst? abscess?)" and "pneumonia?, oedema?" go on.
        rest = text[after : after + 2].lstrip()
        return not rest[:1].islower() or not is_cased
    before = text[max(start, mark - 12) : mark].lower()
    # " . " is BIMCV's sentence end whatever stands before it.
    if not before or before[-1].isspace() or not _ABBREVIATION.search(before):
        return True
    if not is_cased and _SIZE.search(before):
        return not _GOES_ON.match(text[after : after + 12].lstrip())
    rest = text[after : after + 2].lstrip()
    return bool(rest) and is_cased and rest[0].isupper() and not before.endswith(("dr", "prof"))


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if end > start:
        spans.append((start, end))
