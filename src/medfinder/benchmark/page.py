"""Results of one model or several → Markdown, LaTeX tables and one HTML page that needs no other.

All three are made of the same tables, so that they say the same. Every table names its protocol with
its version, and shows chance and ceiling as rows of their own. No report text is shown.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medfinder.artifact import atomic_write
from medfinder.benchmark.pictures import Bar, Picture, bars, curves, histogram, intervals
from medfinder.benchmark.results import Asked, Figure, Judged, Results, Scores
from medfinder.benchmark.task import MEASURES, is_lower_better

MARKDOWN, LATEX, PAGE = "report.md", "report.tex", "report.html"
WAYS = {
    "report_to_volume": "report → volume",
    "volume_to_report": "volume → report",
    "volume_to_volume": "volume → volume",
    "keyword_to_volume": "keyword → volume",
}
WHY = {
    "no-text": "no text to ask with",
    "no-vector": "no vector",
    "no-positive": "nothing in the pool answers",
    "no-negative": "everything in the pool answers",
    "no-findings": "not known what they show",
    "no-label": "none of the 18 labels",
    "not-in-the-pool": "not in the protocol's pool",
}
"""Reasons why queries are left out, in words."""
_HEADLINE = (
    "one-to-one", "multi-positive", "deduplicated", "same-findings-exact", "same-findings-graded",
    "keyword", "same-lobe", "same-side",
)  # fmt: skip
_DRAWN = ("multi-positive", "deduplicated")  # of the others' tables a reader can tell as much
_N_WORST = 15
_MOST_K = 1000
_MARKDOWN_MARKS = re.compile(r"([\\`*_\[\]<>|#])")
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1b1b;--page:#fff;--rule:#d0d4d9;--pale:#f4f6f8;--link:#0058a3}
@media(prefers-color-scheme:dark){:root{--ink:#e4e4e4;--page:#14171a;--rule:#3a4046;--pale:#1d2126;--link:#7cc0ff}}
body{margin:0 auto;max-width:64rem;padding:1.5rem;font:1rem/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page)}
a{color:var(--link)}h1,h2,h3{line-height:1.2}h2{margin-top:2.2em;border-bottom:1px solid var(--rule)}
table{border-collapse:collapse;display:block;overflow-x:auto;font-variant-numeric:tabular-nums;margin:.6rem 0}
caption{text-align:left;font-weight:600;padding:.3rem 0}th,td{padding:.25rem .7rem;border:1px solid var(--rule);text-align:left;white-space:nowrap}
thead th{background:var(--pale)}tr.bound td,tr.bound th{font-style:italic;font-weight:400}
svg{max-width:100%;height:auto}figure{margin:1rem 0}figcaption{font-size:.9rem}nav ul{columns:2;padding-left:1.2rem}
""".strip()


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts.

    Attributes:
        caption: Above it.
        columns: Heads.
        rows: Cells as they are shown.
        n_bounds: How many of the last rows are chance and ceiling.
        n_names: How many of the first columns are names; the others are numbers.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_bounds: int = 0
    n_names: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """A heading with what stands below it: texts, then tables, then pictures."""

    title: str
    level: int
    texts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def write_pages(
    out: Path, results: Sequence[Results], scores: Sequence[Scores]
) -> tuple[Path, Path, Path]:
    """Write ``report.md``, ``report.tex`` and ``report.html``, and return their paths.

    Args:
        results: The model of the run first, then those it is compared with.
        scores: Of each.
    """
    found = parts(results, scores)
    paths = (out / MARKDOWN, out / LATEX, out / PAGE)
    for path, text in zip(
        paths, (to_markdown(found), to_latex(found), to_html(found)), strict=True
    ):
        with atomic_write(path) as file:
            file.write(text.encode())
    return paths


def parts(results: Sequence[Results], scores: Sequence[Scores]) -> list[Part]:
    """Return all that the pages show, in order."""
    own = results[0]
    names = ", ".join(one.model for one in results)
    texts = [
        f"{own.n_studies:,} studies of {own.n_patients:,} patients, {own.n_texts:,} with a text, "
        f"{own.n_distinct_texts:,} different texts. Reference {own.reference}.",
        "Intervals are 95 %, over patients. Chance is a model that knows nothing; the ceiling is one "
        "that knows all answers but cannot tell equal texts apart. A number means something beside "
        "its protocol only. For research, not a medical device.",
    ]
    texts += [
        f"{one.model}: {one.model_id}"
        + (f", {one.dim} numbers a vector" if one.dim else "")
        + _left_out(one.left_out, ". Studies without a vector: ")
        + "."
        for one in results
    ]
    texts += [f"{one.model}: {note}" for one in results for note in one.notes]
    found = [Part(f"Benchmark of {names}", 1, tuple(texts))]
    found += _headline(results)
    if own.comparisons:
        found.append(_comparisons(own))
    for name, judged in own.protocols.items():
        found.append(_protocol(name, judged, results, scores))
    found += _space(results)
    if own.not_asked:
        rows = tuple((name, why.reason) for name, why in own.not_asked.items())
        found.append(
            Part(
                "Not asked",
                2,
                (),
                (Table("Protocols not asked", ("Protocol", "Why"), rows, n_names=2),),
            )
        )
    measures = tuple((name, said) for name, said in MEASURES.items())
    found.append(
        Part("Measures", 2, (), (Table("What is measured", ("Name", "Is"), measures, n_names=2),))
    )
    return found


def _headline(results: Sequence[Results]) -> list[Part]:
    given = [
        Bar(
            f"{protocol}, {WAYS[way]}, {measure}",
            one.model,
            figure.value,
            figure.low,
            figure.high,
            figure.ceiling,
            figure.chance,
        )
        for protocol in _HEADLINE
        if protocol in results[0].protocols
        for way, asked in results[0].protocols[protocol].ways.items()
        for one in results
        if (measure := asked.primary)
        and (figure := _figure(one, protocol, way, measure)) is not None
    ]
    if not given:
        return []
    picture = intervals("headline", "The main measures with their intervals", given, unit="%")
    return [Part("At a glance", 2, (), (), (picture,))]


def _comparisons(own: Results) -> Part:
    rows = tuple(
        (
            one.other,
            one.protocol,
            WAYS.get(one.way, one.way),
            one.measure,
            _number(one.measure, one.difference, signed=True)
            + _interval(one.measure, one.low, one.high),
            f"{one.p:.4f}",
            f"{one.p_holm:.4f}",
        )
        for one in own.comparisons
    )
    text = (
        f"{own.model} less each other model, on the same queries, by the primary measure of each "
        "protocol and direction. p is of a paired permutation test "
        "over patients; the last column is corrected by Holm's method for all rows of this table."
    )
    heads = ("Other", "Protocol", "Way", "Measure", "Difference", "p", "p (Holm)")
    return Part("Comparisons", 2, (text,), (Table("Differences", heads, rows, n_names=4),))


def _space(results: Sequence[Results]) -> list[Part]:
    """Return the shape of each model's space, where there is one."""
    shapes = [(one.model, one.space) for one in results if one.space is not None]
    if not shapes:
        return []
    spectra = tuple(
        (model, s.side, f"{s.n:,}", f"{s.dim:,}", f"{s.participation_ratio:.1f}", f"{s.entropy_rank:.1f}")
        for model, shape in shapes
        for s in shape.spectra
    )  # fmt: skip
    gaps = tuple(
        (model, *(f"{v:.3f}" for v in (g.distance, g.between, g.within_volume, g.within_text)))
        for model, shape in shapes
        if (g := shape.gap) is not None
    )
    hubs = tuple(
        (
            model,
            WAYS.get(h.way, h.way),
            f"{h.n:,}",
            f"{h.skewness:.2f} ({h.chance_skewness:.2f})",
            f"{100 * h.never:.1f} ({100 * h.chance_never:.1f})",
            f"{100 * h.most:.1f}",
        )
        for model, shape in shapes
        for h in shape.hubness
    )
    text = (
        "Dimensions that vectors use: participation ratio and entropy rank of the covariance's "
        "eigenvalues. Gap: distance of the two means, and mean cosines. Hubs: skewness of how often "
        "an item is among the first 10 of a query, the share of items that no query finds so, and "
        "the share of queries that find the item found most; chance in brackets."
    )
    given = (
        ("Effective dimensions", ("Model", "Side", "n", "Dim", "Participation ratio", "Entropy rank"), spectra, 2),
        ("Texts and volumes apart", ("Model", "Distance", "Between", "Two volumes", "Two texts"), gaps, 1),
        ("Hubs", ("Model", "Way", "n", "Skewness", "Never found %", "Found most %"), hubs, 2),
    )  # fmt: skip
    tables = tuple(
        Table(cap, heads, rows, n_names=names) for cap, heads, rows, names in given if rows
    )
    return [Part("The space", 2, (text,), tables)]


def _protocol(
    name: str, judged: Judged, results: Sequence[Results], scores: Sequence[Scores]
) -> Part:
    texts = [judged.asks, f"Answers: {judged.relevance}", f"Ties: {judged.ties}."]
    if judged.known:
        texts.append(f"Known: {judged.known}")
    if judged.assumed:
        texts.append(f"Assumed: {judged.assumed}")
    tables, pictures = [], []
    for way, asked in judged.ways.items():
        tables.append(_scores(name, judged.version, way, asked, results))
        pictures += _pictures(name, way, asked, results, scores)
        worst = _worst(name, way, scores[0])
        if worst is not None:
            tables.append(worst)
    return Part(f"{name} v{judged.version}", 2, tuple(texts), tuple(tables), tuple(pictures))


def _scores(name: str, version: int, way: str, asked: Asked, results: Sequence[Results]) -> Table:
    measures = list(asked.figures)
    rows = []
    for one in results:
        cells = []
        for measure in measures:
            figure = _figure(one, name, way, measure)
            cells.append(
                "-"
                if figure is None
                else _number(measure, figure.value) + _interval(measure, figure.low, figure.high)
            )
        rows.append((one.model, *cells))
    rows += [
        (bound, *(_number(m, getattr(asked.figures[m], bound)) for m in measures))
        for bound in ("chance", "ceiling")
    ]
    caption = (
        f"{name} v{version}, {WAYS.get(way, way)}: {asked.n_queries:,} queries of "
        f"{asked.n_patients:,} patients, {asked.n_gallery:,} in the pool"
        + _left_out(asked.left_out, "; left out: ")
    )
    return Table(caption, ("Model", *map(_head, measures)), tuple(rows), 2)


def _pictures(
    name: str, way: str, asked: Asked, results: Sequence[Results], scores: Sequence[Scores]
) -> list[Picture]:
    mark = f"{name}-{way}".replace("_", "-")
    title = f"{name}, {WAYS.get(way, way)}"
    found: list[Picture] = []
    models = list(zip((one.model for one in results), scores, strict=True))
    first = {m: own[name, way, "MnR"] for m, own in models if (name, way, "MnR") in own}
    if first and name in _DRAWN:
        longest = min(asked.n_gallery, _MOST_K)
        lines = {model: _shares(values, longest) for model, (_, _, values) in first.items()}
        found.append(
            curves(f"{mark}-curve", f"Queries answered among the first k: {title}", lines, unit="%")
        )
        own = first.get(results[0].model)
        if own is not None:
            found.append(
                histogram(
                    f"{mark}-places",
                    f"Places of the first answer: {title}, {results[0].model}",
                    own[2],
                    asked.n_gallery,
                )
            )
    if way == "keyword_to_volume" and "AP" in asked.figures:
        by_model = {m: own[name, way, "AP"] for m, own in models if (name, way, "AP") in own}
        shown: dict[str, dict[str, float]] = {}
        for model, (queries, _, values) in by_model.items():
            for query, value in zip(queries, values, strict=True):
                shown.setdefault(query, {})[model] = value
        found.append(bars(f"{mark}-findings", f"Average precision: {title}", shown, unit="AP, %"))
    return found


def _shares(places: Sequence[float], longest: int) -> list[float]:
    ordered = sorted(places)
    shares, n = [], 0
    for k in range(1, longest + 1):
        while n < len(ordered) and ordered[n] <= k:
            n += 1
        shares.append(n / len(ordered))
    return shares


def _worst(name: str, way: str, scores: Scores) -> Table | None:
    """Return the queries whose first answer stands lowest."""
    found = scores.get((name, way, "MnR"))
    if found is None or name not in _DRAWN:
        return None
    queries, _, values = found
    order = sorted(range(len(values)), key=lambda i: (-values[i], queries[i]))[:_N_WORST]
    rows = tuple((queries[i], f"{values[i]:,.1f}") for i in order if values[i] > 1)
    if not rows:
        return None
    return Table(
        f"Worst queries: {name}, {WAYS.get(way, way)}", ("Query", "Place of the first answer"), rows
    )


def _figure(results: Results, protocol: str, way: str, measure: str) -> Figure | None:
    judged = results.protocols.get(protocol)
    asked = judged.ways.get(way) if judged else None
    return asked.figures.get(measure) if asked else None


def _number(measure: str, value: float, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if is_lower_better(measure):
        return f"{value:{sign},.1f}"
    return f"{100 * value:{sign}.1f}"


def _interval(measure: str, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f" [{_number(measure, low)}, {_number(measure, high)}]"


def _head(measure: str) -> str:
    return measure if is_lower_better(measure) else f"{measure} %"


def _left_out(left_out: Mapping[str, int], before: str) -> str:
    if not left_out:
        return ""
    return before + ", ".join(f"{n:,} {WHY.get(why, why)}" for why, n in left_out.items())


# --- three forms


def to_markdown(found: Sequence[Part]) -> str:
    """Return the tables as Markdown, with what each picture shows in words."""
    lines: list[str] = []
    for part in found:
        lines.append(f"{'#' * part.level} {_marked(part.title)}")
        lines += [_marked(text) for text in part.texts]
        for table in part.tables:
            head = "| " + " | ".join(map(_marked, table.columns)) + " |"
            n_numbers = len(table.columns) - table.n_names
            rule = "|" + "|".join(["---"] * table.n_names + ["---:"] * n_numbers) + "|"
            rows = ["| " + " | ".join(map(_marked, row)) + " |" for row in table.rows]
            lines += [f"**{_marked(table.caption)}**", "\n".join([head, rule, *rows])]
        lines += [f"*{_marked(one.title)}.* {_marked(one.text)}" for one in part.pictures]
    return "\n\n".join(lines) + "\n"


def to_latex(found: Sequence[Part]) -> str:
    r"""Return the tables as LaTeX for ``\usepackage{booktabs}``."""
    lines = ["% \\usepackage{booktabs}"]
    for part in found:
        for table in part.tables:
            columns = "l" * table.n_names + "r" * (len(table.columns) - table.n_names)
            head = " & ".join(map(_tex, table.columns))
            split = len(table.rows) - table.n_bounds
            rows = [" & ".join(map(_tex, row)) + r" \\" for row in table.rows]
            if table.n_bounds:
                rows.insert(split, r"\midrule")
            lines += [
                r"\begin{table}",
                f"\\caption{{{_tex(table.caption)}}}",
                f"\\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
    return "\n".join(lines)


def to_html(found: Sequence[Part]) -> str:
    """Return one page with everything in it, in the reader's light or dark."""
    body: list[str] = []
    contents = [part for part in found if part.level == 2]
    for part in found:
        body.append(
            f'<h{part.level} id="{_anchor(part.title)}">{html.escape(part.title)}</h{part.level}>'
        )
        body += [f"<p>{html.escape(text)}</p>" for text in part.texts]
        body += [_html_table(table) for table in part.tables]
        body += [
            f"<figure>{one.svg}<figcaption>{html.escape(one.title)}</figcaption></figure>"
            for one in part.pictures
        ]
        if part.level == 1:
            items = "".join(
                f'<li><a href="#{_anchor(p.title)}">{html.escape(p.title)}</a></li>'
                for p in contents
            )
            body.append(f'<nav aria-label="Contents"><ul>{items}</ul></nav>')
    return document(found[0].title, body)


def document(title: str, body: Sequence[str], style: str = "") -> str:
    """Return a whole HTML page in the report's dress.

    Args:
        title: As text.
        body: As HTML.
        style: More CSS.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        "<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        is_bound = number >= len(table.rows) - table.n_bounds
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        mark = ' class="bound"' if is_bound else ""
        rows.append(f'<tr{mark}><th scope="row">{html.escape(row[0])}</th>{cells}</tr>')
    return (
        f"<table><caption>{html.escape(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        "<tbody>\n" + "\n".join(rows) + "</tbody></table>"
    )


def _marked(text: str) -> str:
    return _MARKDOWN_MARKS.sub(r"\\\1", " ".join(text.split()))


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in " ".join(text.split()))


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
