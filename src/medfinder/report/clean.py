"""Raw report text → text as it was meant: entities, mojibake, control characters, quotes, spaces."""

import html
import re
import unicodedata

# UTF-8 read as Latin-1 or Windows-1252 shows these leads before a continuation byte's character.
_MOJIBAKE = re.compile("[ÂÃâ][\u0080-\u00bf€™œžšŸ‚ƒ„…†‡ˆ‰‹ŒŽ‘’“”•–—˜›¡-¿]")
_UNSEEN = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufffe\ufffd\ud800-\udfff]"
)
_LINE_END = re.compile(r"\r\n?|\u2028|\u2029|<br\s*/?>|</p>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]{0,9}(?:\s[^<>]{0,200})?/?>")
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")
# After a unit the point stays free: closed up, it would be the abbreviation's and end no sentence.
_LONE_POINT = re.compile(r"(?<!\bmm)(?<!\bcm)(?<!\bml)(?<!\bhu) \.(?= |\n|$)", re.IGNORECASE)
_QUOTES = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"'}
    | {"\u00ab": '"', "\u00bb": '"', "\u00a0": " ", "\u2212": "-", "\u2010": "-", "\u2011": "-"}
)


def clean(text: str) -> str:
    """Return the text with its damage undone and its wording kept.

    HTML entities and tags go, UTF-8 that was read as Latin-1 is read again, control and
    zero-width characters vanish, curly quotes become straight ones, runs of blanks and of line
    breaks become one, and BIMCV's free-standing points (``" . "``) close up to the word before,
    unless that is a unit.
    Applying it twice changes nothing more.
    """
    for _ in range(3):  # "&amp;lt;" and text damaged twice
        mended = html.unescape(_remade(text)) if "&" in text else _remade(text)
        if mended == text:
            break
        text = mended
    text = _LINE_END.sub("\n", text)
    text = _TAG.sub(" ", text)
    text = _UNSEEN.sub("", text)
    text = unicodedata.normalize("NFC", text).translate(_QUOTES)
    text = _BLANKS.sub(" ", text)
    text = _LINES.sub("\n", text)
    text = _LONE_POINT.sub(".", text)
    return text.strip()


def _remade(text: str) -> str:
    if not _MOJIBAKE.search(text):
        return text
    for wrong in ("cp1252", "latin-1"):
        try:
            return text.encode(wrong).decode("utf-8")
        except UnicodeError:
            continue
    # Only parts of it are damaged: mend what can be mended, pair by pair.
    return _MOJIBAKE.sub(_remade_pair, text)


def _remade_pair(found: re.Match[str]) -> str:
    try:
        return found[0].encode("cp1252").decode("utf-8")
    except UnicodeError:
        return found[0]
