"""Text → `Report`: cleaned, its language told, its findings and impression cut out."""

import re
from dataclasses import dataclass
from typing import Literal

from medfinder.errors import EmptyReport
from medfinder.records import Language, Report
from medfinder.report.clean import clean
from medfinder.report.language import detect_language
from medfinder.report.tokens import fold

SectionName = Literal["findings", "impression", "technique", "history", "comparison"]

_HEADINGS: dict[SectionName, str] = {
    "findings": "findings?|report|description|hallazgos?|informe|descripcion|resultados?",
    "impression": (
        "impressions?|conclusions?|opinion|summary|diagnosis|assessment|result"
        "|impresion(?:es)?(?: diagnostica)?|conclusion(?:es)?|juicio diagnostico|diagnostico"
        "|resumen|jd|comentario"
    ),
    "technique": (
        "technique|procedure|protocol|examination|study|exam|tecnica(?: de exploracion)?"
        "|procedimiento|protocolo|exploracion|estudio|tipo de estudio"
    ),
    "history": (
        "(?:clinical )?(?:history|information|indications?|data|details|question|reason)"
        "|reason for (?:exam|examination|study)"
        "|(?:datos|historia|informacion|antecedentes|indicacion|sospecha|motivo)(?: clinicos?| clinica"
        "|s? clinicas?| de consulta| de la exploracion| personales)?|motivo|indicaciones"
    ),
    "comparison": "comparisons?|prior stud(?:y|ies)|comparacion|estudios? previos?|comparado con",
}
_SECTION_OF: dict[str, SectionName] = {f"{name}_": name for name in _HEADINGS}
_HEADING = re.compile(
    r"(?:^|(?<=[\n.\"*]))[\s\"*#-]{0,4}(?:"
    + "|".join(f"(?P<{name}_>{words})" for name, words in _HEADINGS.items())
    + r")[ *]{0,3}(?::|(?=\n)|\n|-(?= ))",
)


@dataclass(frozen=True, slots=True)
class Section:
    """A headed part of a report's text, from after its heading to the next one.

    Attributes:
        name: What kind of part it is.
        start: Offset of its first character.
        end: Offset after its last character.
    """

    name: SectionName
    start: int
    end: int


def parse_report(text: str, language: Language | None = None) -> Report:
    """Clean a report and cut out its findings and impression.

    Args:
        text: As it came: any encoding damage, any headings or none, English or Spanish.
        language: Of the text; told from its words when None.

    Returns:
        A report whose `text` is the cleaned text. Without headings, `findings_text` is all of it.

    Raises:
        EmptyReport: Nothing legible is left after cleaning.
    """
    cleaned = clean(text)
    if not any(char.isalnum() for char in cleaned):
        raise EmptyReport(
            "The report has no text - after cleaning, expected at least one word, got none - "
            "leave the report out or give its text."
        )
    parts: dict[SectionName, list[str]] = {}
    for section in sections(cleaned):
        body = cleaned[section.start : section.end].strip()
        if body:
            parts.setdefault(section.name, []).append(body)
    impression = "\n".join(parts.get("impression", ()))
    found = "\n".join(parts.get("findings", ()))
    return Report(
        text=cleaned,
        language=language or detect_language(cleaned),
        findings_text=found or ("" if impression else cleaned),
        impression_text=impression,
    )


def sections(text: str) -> list[Section]:
    """Return the headed parts of a text in order; text before the first heading is findings.

    A heading stands at the start of a line or sentence and ends in a colon or a line break.
    A text without headings has no sections.
    """
    marks = [(m.start(), m.end(), m.lastgroup or "") for m in _HEADING.finditer(fold(text))]
    found: list[Section] = []
    if marks and text[: marks[0][0]].strip():
        found.append(Section("findings", 0, marks[0][0]))
    for k, (_, after, group) in enumerate(marks):
        end = marks[k + 1][0] if k + 1 < len(marks) else len(text)
        found.append(Section(_SECTION_OF[group], after, end))
    return found
