"""Text → English or Spanish, told from its words; works on short text without accents."""

import re
import tomllib
from functools import cache
from importlib import resources

from medfinder.records import Language
from medfinder.report.tokens import fold

_WORD = re.compile(r"[^\W\d_]+")
_SPANISH_LETTER = re.compile("[ñáéíóúü¿¡]")
# Endings and letter pairs decide where no listed word does: "Bocio multinodular", "Dextrocardia?"
_SPANISH_LOOK = re.compile(r"(?:[oa]s?|es|cion|ales|ares)$")
_ENGLISH_LOOK = re.compile(r"ph|th|pn|ss|mm|oo|ee|ff|[ykw]|sh|ae|oe|tt|(?:tion|ed|ing|ous)$")
_LOOKED_AT = 20_000


def detect_language(text: str) -> Language:
    """Tell English from Spanish by common and radiological words; accents are not needed.

    Reads the first 20,000 characters. Text that looks like neither is English.
    """
    text = text[:_LOOKED_AT]
    words = _WORD.findall(fold(text))
    known_english, known_spanish = _words()
    spanish = sum(word in known_spanish for word in words)
    english = sum(word in known_english for word in words)
    if spanish == english:
        spanish += bool(_SPANISH_LETTER.search(text.lower()))
        spanish += sum(bool(_SPANISH_LOOK.search(word)) for word in words)
        english += sum(2 * bool(_ENGLISH_LOOK.search(word)) for word in words)
    return "es" if spanish > english else "en"


@cache
def _words() -> tuple[frozenset[str], frozenset[str]]:
    text = resources.files(__package__).joinpath("languages.toml").read_text(encoding="utf-8")
    lists = tomllib.loads(text)
    return frozenset(lists["en"].split()), frozenset(lists["es"].split())
