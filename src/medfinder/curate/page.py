"""Headings, paragraphs, tables and pictures → one Markdown text and one HTML page.

A page is written once as a list of blocks, so that both forms say the same. Everything that comes
from data is escaped here and nowhere else. Knows nothing of datasets.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medfinder.curate.pictures import Picture

# What could begin or end markup in Markdown or in the HTML that Markdown may hold.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1b1b;--page:#fff;--rule:#d0d4d9;--pale:#f4f6f8;--link:#0058a3}
@media(prefers-color-scheme:dark){:root{--ink:#e4e4e4;--page:#14171a;--rule:#3a4046;--pale:#1d2126;--link:#7cc0ff}}
body{margin:0 auto;max-width:62rem;padding:1.5rem;font:1rem/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page)}
a{color:var(--link)}h1,h2,h3{line-height:1.2}h2{margin-top:2.2em;border-bottom:1px solid var(--rule)}
table{border-collapse:collapse;display:block;overflow-x:auto;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3rem 0}th,td{padding:.25rem .7rem;border:1px solid var(--rule);text-align:left;vertical-align:top}
thead th{background:var(--pale)}td.n{text-align:right}svg{max-width:100%;height:auto}figure{margin:1rem 0}
figcaption{font-size:.9rem}nav ul{columns:2;padding-left:1.2rem}
""".strip()


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of plain texts."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a caption.

    Attributes:
        rows: One cell a column; numbers are shown with thousands' commas and stand to the right,
            None as a dash.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


Block = Heading | Paragraph | Bullets | Table | Picture


def to_markdown(blocks: Iterable[Block], pictures: str) -> str:
    """Return the page as Markdown; pictures are named below the folder `pictures`."""
    return "\n\n".join(_markdown(block, pictures) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block]) -> str:
    """Return the page as one HTML file that needs no other, in the reader's light or dark."""
    title = next((b.text for b in blocks if isinstance(b, Heading) and b.level == 1), "")
    parts = []
    contents = [b for b in blocks if isinstance(b, Heading) and b.level == 2]
    for block in blocks:
        parts.append(_html(block))
        if isinstance(block, Heading) and block.level == 1 and len(contents) > 2:
            items = "".join(
                f'<li><a href="#{_anchor(h.text)}">{html.escape(h.text)}</a></li>' for h in contents
            )
            parts.append(f'<nav aria-label="Contents"><ul>{items}</ul></nav>')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def shown(value: str | int | float | None) -> str:
    """Return a cell as text: ``12,345``, ``1.23``, ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _markdown(block: Block, pictures: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_escaped(text)}"
        case Paragraph(text):
            return _escaped(text)
        case Bullets(items):
            return "\n".join(f"- {_escaped(item)}" for item in items)
        case Table(caption, columns, rows):
            numeric = _numeric(block)
            lines = [
                "| " + " | ".join(map(_escaped, columns)) + " |",
                "|" + "|".join("---:" if n else "---" for n in numeric) + "|",
            ]
            lines += ["| " + " | ".join(_escaped(shown(c)) for c in row) + " |" for row in rows]
            return f"**{_escaped(caption)}**\n\n" + "\n".join(lines)
        case Picture(name, title, text, _):
            described = _escaped(f"{title}. {text}")
            return f"![{described}]({pictures}/{name}.svg)"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{_anchor(text)}">{html.escape(text)}</h{level}>'
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Table(caption, columns, rows):
            numeric = _numeric(block)
            head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in columns)
            body = "".join(
                "<tr>"
                + f'<th scope="row">{html.escape(shown(row[0]))}</th>'
                + "".join(
                    ("<td class='n'>" if n else "<td>") + html.escape(shown(c)) + "</td>"
                    for c, n in zip(row[1:], numeric[1:], strict=True)
                )
                + "</tr>\n"
                for row in rows
            )
            return (
                f"<table><caption>{html.escape(caption)}</caption>"
                f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
            )
        case Picture(_, title, _, svg):
            return f"<figure>{svg}<figcaption>{html.escape(title)}</figcaption></figure>"


def _numeric(table: Table) -> list[bool]:
    """Tell of each column whether it holds numbers only."""
    return [
        bool(table.rows) and all(not isinstance(row[k], str) for row in table.rows)
        for k in range(len(table.columns))
    ]


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
