"""Spanish reports → English with our dictionary and, for the words it lacks, Debian's apertium.

Reports are lower-case and without accents, and half their words are radiology, which apertium
takes for unknown. So our terms are translated here, with nouns and adjectives put in the order of
English; what remains is given to apertium with its accents restored and our terms as placeholders.
One apertium process serves a whole run.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from medfinder.errors import InputError
from medfinder.report.clean import clean
from medfinder.report.glossary import Token, glossary, tokens_of
from medfinder.report.sentences import sentences
from medfinder.report.tokens import fold
from medfinder.report.translate import Failed, Price, translators

_LONE_POINT = re.compile(r"\s\.(?=\s|$)")
_ANSWER_S = 20.0
_JOINS = frozenset(["y", "e", "o", "u", "ni"])
_NO_SPACE_BEFORE = frozenset(".,;:)!?%]")
_NO_SPACE_AFTER = frozenset("([")


class Apertium:
    """The translator that needs no network: our glossary around Debian's ``apertium``.

    Args:
        command: The program, when not on the path; "" for our dictionary alone.

    Raises:
        InputError: The program is not installed, or lacks the pair ``spa-eng``.
    """

    def __init__(self, command: str = "apertium") -> None:
        self.name = "apertium" if command else "dictionary"
        self._engine = _Engine(command) if command else None

    def translate(
        self, texts: Sequence[str], hints: Sequence[str] = ()
    ) -> Iterator[tuple[int, str | Failed]]:
        """Yield each text's English. Hints are ignored: it has one answer."""
        del hints
        for position, text in enumerate(texts):
            try:
                yield position, self._text(text)
            except _NoAnswer as error:
                yield position, Failed(str(error))

    def price(self, texts: Sequence[str]) -> Price | None:
        """Return None: it costs nothing."""
        del texts
        return None

    def _text(self, text: str) -> str:
        lines = []
        for line in clean(_LONE_POINT.sub(".\n", text)).split("\n"):
            made = [self._sentence(line[start:end]) for start, end in sentences(line)]
            lines.append(" ".join(made))
        return "\n".join(lines) if "\n" in clean(text) else " ".join(lines)

    def _sentence(self, sentence: str) -> str:
        pieces = _pieces(sentence)
        if any(piece.english is None for piece in pieces) and self._engine is not None:
            pieces = self._with_engine(pieces)
        return _joined([piece.english or piece.spanish for piece in pieces])

    def _with_engine(self, pieces: "list[_Piece]") -> "list[_Piece]":
        """Let apertium read what we do not know, in the place where it stands."""
        known = {i: piece for i, piece in enumerate(pieces) if piece.english is not None}
        asked = " ".join(
            piece.spanish if piece.english is None else _mark(i) for i, piece in enumerate(pieces)
        )
        assert self._engine is not None
        answer = self._engine.ask(asked)
        if asked[1:] == asked[1:].lower():
            answer = answer.lower()  # beside a placeholder it begins words with capitals
        made: list[_Piece] = []
        at = 0
        used: set[int] = set()
        for found in _MARK.finditer(answer):
            number = _marked(found[0])
            if number not in known or number in used:
                continue
            used.add(number)
            made += _said(answer[at : found.start()])
            made.append(known[number])
            at = found.end()
        made += _said(answer[at:])
        if used != known.keys():
            return pieces  # it lost one of our terms: better half a sentence in Spanish, and caught
        return made


translators.register("apertium")(Apertium)


# ------------------------------------------------------------------------------- our dictionary
class _Piece:
    """A stretch of a sentence, with its English where we know it."""

    __slots__ = ("english", "is_plural", "kind", "spanish")

    def __init__(
        self, spanish: str, english: str | None, kind: str = "", is_plural: bool | None = False
    ) -> None:
        self.spanish, self.english, self.kind = spanish, english, kind
        self.is_plural = is_plural


def _pieces(sentence: str) -> list[_Piece]:
    """Cut a sentence into terms and unknown words, noun groups in the order of English."""
    known = glossary()
    folded = fold(sentence)
    tokens = tokens_of(folded)
    pieces: list[_Piece] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        term = known.at(tokens, i)
        if term is not None:
            spanish = sentence[token.start : tokens[i + len(term.words) - 1].end]
            pieces.append(_Piece(spanish, term.english, term.kind, term.is_plural))
            i += len(term.words)
            continue
        spanish = sentence[token.start : token.end]
        if not token.text[0].isalpha():
            number = spanish.replace(",", ".") if "," in spanish and len(spanish) > 1 else spanish
            pieces.append(_Piece(spanish, number, "mark"))
        elif _is_name(tokens, i):
            # "t8" is one word of the report, though two of ours.
            if i + 1 < len(tokens) and tokens[i + 1].start == token.end:
                i += 1
                spanish = sentence[token.start : tokens[i].end]
            pieces.append(_Piece(spanish, spanish, "mark"))
        else:
            pieces.append(_Piece(spanish, None, "unknown"))
        i += 1
    return _ordered(pieces)


def _is_name(tokens: Sequence[Token], i: int) -> bool:
    """Tell "t8" and units from words: they are the same in English."""
    text = tokens[i].text
    follows_number = i > 0 and tokens[i - 1].text[0].isdigit()
    leads_number = (
        i + 1 < len(tokens)
        and tokens[i + 1].text[0].isdigit()
        and tokens[i + 1].start == tokens[i].end
    )
    return leads_number or (follows_number and len(text) <= 2) or text in ("mm", "cm", "ml", "x")


def _ordered(pieces: list[_Piece]) -> list[_Piece]:
    """Put adjectives before their noun: "derrame pleural derecho" is a "right pleural effusion"."""
    made: list[_Piece] = []
    i = 0
    while i < len(pieces):
        piece = pieces[i]
        if piece.kind != "noun":
            made.append(piece)
            i += 1
            continue
        groups: list[list[_Piece]] = [[]]
        joins: list[str] = []
        j = i + 1
        while j < len(pieces):
            if pieces[j].kind == "adjective" and piece.is_plural in (None, pieces[j].is_plural):
                groups[-1].append(pieces[j])
                j += 1
            elif (
                groups[-1]
                and pieces[j].spanish.lower() in _JOINS
                and j + 1 < len(pieces)
                and pieces[j + 1].kind == "adjective"
            ):
                joins.append(pieces[j].english or "and")
                groups.append([])
                j += 1
            else:
                break
        words: list[str] = []
        for k, group in enumerate(groups):
            words += [joins[k - 1]] if k else []
            words += [a.english or a.spanish for a in reversed(group)]
        noun = piece.english or piece.spanish
        head, of_the, rest = noun.partition(" of the ")
        # "aneurysm of the ascending aorta"
        words = [head + of_the.rstrip(), *words, rest] if rest else [*words, noun]
        spanish = " ".join(p.spanish for p in pieces[i:j])
        made.append(_Piece(spanish, " ".join(words), "group", piece.is_plural))
        i = j
    return made


def _said(text: str) -> list[_Piece]:
    text = text.strip()
    return [_Piece(text, text, "said")] if text else []


def _joined(texts: Sequence[str]) -> str:
    """Join words to a sentence: spaces where English has them, "a" before a vowel "an"."""
    out = ""
    for text in texts:
        if not text:
            continue
        glued = text[0] in _NO_SPACE_BEFORE or out[-1:] in _NO_SPACE_AFTER or not out
        dashed = (text in "-/" or out[-1:] in "-/") and bool(out)
        out += text if glued or dashed else " " + text
    for pattern, better in _POLISH:
        out = pattern.sub(better, out)
    return out[:1].upper() + out[1:]


_POLISH = [
    (re.compile(pattern, re.IGNORECASE), better)
    for pattern, better in (
        (r"\ba (?=[aeiou])", "an "),
        (r"\bof the of\b", "of the"),
        (r"\bto the (CT|follow)", r"to \1"),
        (r"\bthe the\b", "the"),
        (r"\bof about about\b", "of about"),
        (r"\bthere is (?=(multiple|several|numerous|two|three)\b)", "there are "),
        (r"¿ ?", ""),
        (r"\s+", " "),
        (r" ([.,;:)])", r"\1"),
    )
]


# ------------------------------------------------------------------------------------ apertium
_MARK = re.compile(r"\bxq([a-j]+)z\b", re.IGNORECASE)


def _mark(number: int) -> str:
    """Return a word that no dictionary has, so that apertium leaves it where it stands."""
    return "xq" + "".join(chr(ord("a") + int(digit)) for digit in str(number)) + "z"


def _marked(mark: str) -> int:
    return int("".join(str(ord(letter) - ord("a")) for letter in mark[2:-1].lower()))


# Marks with a meaning of their own in apertium's stream.
_UNSAFE = re.compile(r"[\0\[\]{}<>^$/\\@#~*|]")


class _NoAnswer(Exception):
    """Apertium stopped or did not answer in time."""


# The program's own "-z" waits for the next sentence before it answers; the steps it is made of
# do not. $0 is the file that lists them, "-n" leaves out the marks of unknown words.
_STEPS = 'bash <(apertium-wblank-mode -z "$0") -n ""'


class _Engine:
    """One row of apertium's processes: a sentence in, a null byte, its English out, a null byte."""

    def __init__(self, command: str) -> None:
        program = shutil.which(command)
        if program is None or shutil.which("apertium-wblank-mode") is None:
            raise InputError(
                f"The program {command!r} is not installed - expected Debian's apertium with the pair "
                "spa-eng - run 'apt-get install apertium apertium-eng-spa', or translate with chat.",
                rule="translator",
            )
        pair = Path(program).resolve().parents[1] / "share/apertium/modes/spa-eng.mode"
        if not pair.is_file():
            raise InputError(
                f"The program {command!r} lacks its pair spa-eng - expected Spanish to English, got "
                "none - run 'apt-get install apertium-eng-spa'.",
                rule="translator",
            )
        self._command = ["bash", "-c", _STEPS, str(pair)]
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, sentence: str) -> str:
        with self._lock:
            for is_last in (False, True):
                try:
                    return self._ask(_accented(sentence))
                except _NoAnswer:
                    self._stop()
                    if is_last:
                        raise
        raise AssertionError

    def _ask(self, sentence: str) -> str:
        process = self._process
        if process is None or process.poll() is not None:
            self._stop()
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(_UNSAFE.sub(" ", sentence).encode() + b"[][\n]\0")
            process.stdin.flush()
        except OSError:
            raise _NoAnswer("apertium stopped") from None
        answer = b""
        while not answer.endswith(b"\0"):
            ready, _, _ = select.select([process.stdout], [], [], _ANSWER_S)
            if not ready:
                raise _NoAnswer(f"apertium did not answer within {_ANSWER_S:g} s")
            more = process.stdout.read1(65536)  # type: ignore[attr-defined]
            if not more:
                raise _NoAnswer("apertium stopped")
            answer += more
        said = answer.rstrip(b"\0").decode(errors="replace").removesuffix("[][\n]")
        return re.sub(r"[*#@^$\\~]", "", said).strip()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its steps are processes of their own
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._stop()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self._stop()


# ------------------------------------------------------------------------------------- accents
_ACCENTS = (
    (re.compile(r"\b(\w{2,}[cs])ion\b"), r"\1ión"),
    (re.compile(r"\b(\w{2,})ologia\b"), r"\1ología"),
    (re.compile(r"\b(\w{2,})grafia\b"), r"\1grafía"),
    (re.compile(r"\b(\w{2,})aneo(s?)\b"), r"\1áneo\2"),
    (re.compile(r"\b(\w{3,})ico(s?)\b"), r"\1ico\2"),
)


def _accented(sentence: str) -> str:
    """Restore the accents that apertium's dictionary needs."""
    for pattern, better in _ACCENTS:
        sentence = pattern.sub(better, sentence)
    return _LISTED.sub(lambda found: _WORDS[found[0]], sentence)


_WORDS = {
    fold(word): word
    for word in [
        "más",
        "también",
        "además",
        "según",
        "así",
        "aquí",
        "está",
        "están",
        "será",
        "podría",
        "podrían",
        "habría",
        "había",
        "sería",
        "través",
        "única",
        "único",
        "últimos",
        "últimas",
        "último",
        "última",
        "próximo",
        "próxima",
        "mínima",
        "mínimo",
        "máxima",
        "máximo",
        "número",
        "área",
        "cráneo",
        "líquido",
        "sólido",
        "líneas",
        "línea",
        "pequeño",
        "pequeña",
        "pequeños",
        "pequeñas",
        "año",
        "años",
        "tamaño",
        "señal",
        "íntimo",
        "íntima",
        "rápido",
        "rápida",
        "médico",
        "médica",
        "clínico",
        "clínica",
        "crónico",
        "crónica",
        "físico",
        "física",
        "periférico",
        "típico",
        "típica",
        "atípico",
        "atípica",
        "específico",
        "específica",
        "artículo",
        "técnico",
        "técnica",
        "característica",
        "características",
        "característico",
        "difícil",
        "fácil",
        "útil",
        "débil",
        "cálculo",
        "ángulo",
        "diámetro",
        "parámetro",
        "página",
        "patológico",
        "patológica",
        "fisiológico",
        "fisiológica",
        "biológico",
        "básico",
        "básica",
        "método",
        "análisis",
        "énfasis",
        "hipótesis",
        "síntesis",
        "después",
        "detrás",
        "través",
        "jamás",
        "quizás",
        "interés",
        "previsión",
        "común",
        "régimen",
        "volumen",
        "imágenes",
        "márgenes",
        "órdenes",
        "jóvenes",
        "orígenes",
        "múltiple",
        "múltiples",
        "hábito",
        "ámbito",
        "depósito",
        "depósitos",
        "espíritu",
        "tránsito",
        "vía",
        "vías",
        "mayoría",
        "todavía",
        "día",
        "días",
        "país",
        "raíz",
        "caída",
        "estadía",
        "cirugía",
        "anatomía",
        "terapia",
        "energía",
        "cuantía",
        "sintomatología",
    ]
    if fold(word) != word
}
_LISTED = re.compile(r"\b(?:" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")\b")
