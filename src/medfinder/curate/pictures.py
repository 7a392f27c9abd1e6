"""Numbers → pictures as SVG, for the dataset card.

Every picture is one ``<svg>`` element that says in words what it shows, takes the colour of its
text from the page (light or dark) and its fills from a palette that colour-blind readers tell
apart (Okabe and Ito, 2008). The same numbers give the same bytes. Knows no dataset.
"""

import contextlib
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's, but for black and yellow: these keep 3:1 against white and against near-black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#7f7f7f")
# Drawn in these and then made the page's own colour; no picture uses them for anything else.
_INK, _PALE = "#010203", "#040506"
_WIDTH_IN = 7.2


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture.

    Attributes:
        name: Unique in its page; letters, digits and hyphens.
        title: What it shows, in a few words.
        text: What it shows, for readers who do not see it.
        svg: The element, without XML declaration.
    """

    name: str
    title: str
    text: str
    svg: str

    @property
    def file(self) -> bytes:
        """The picture as a file of its own, dark where the reader's screen is."""
        style = "<style>svg{color:#222}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"
        at = self.svg.index(">") + 1
        return (self.svg[:at] + style + self.svg[at:] + "\n").encode()


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Draw by matplotlib's own defaults, whatever the user's are, and the same bytes each time.

    Letters stay text, which any reader's own font draws; a "$" in a name is no formula.
    """
    import matplotlib.style

    ours: Any = {"svg.hashsalt": "medfinder", "svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.style.context(["default", ours]):
        yield


@_style()
def bars(
    name: str, title: str, counts: Mapping[str, float], *, unit: str, of: float | None = None
) -> Picture:
    """Draw one horizontal bar a name, in the mapping's order, with its number at its end.

    Args:
        unit: What the numbers count, such as ``"studies"``.
        of: The whole; with it each number is also told as a share.
    """
    names, values = list(counts), list(counts.values())
    figure, axes = _figure(0.9 + 0.23 * len(names))
    axes.barh(range(len(names)), values, color=PALETTE[0], height=0.72)
    axes.set_yticks(range(len(names)), [_short(n) for n in names])
    axes.invert_yaxis()
    axes.set_xlim(0, max([*values, 1]) * 1.18)
    axes.set_xlabel(unit)
    for k, value in enumerate(values):
        share = f" ({value / of:.1%})" if of else ""
        axes.text(value, k, f" {value:,.0f}{share}", va="center", fontsize=8, color=_INK)
    told = "; ".join(f"{n} {v:,.0f}" for n, v in list(counts.items())[:10])
    more = f"; and {len(names) - 10} more" if len(names) > 10 else ""
    return _picture(name, title, f"Bars of {unit}: {told}{more}.", figure)


@_style()
def histogram(
    name: str, title: str, counts: Mapping[float, int], *, unit: str, n_bins: int = 30
) -> Picture:
    """Draw how many studies have which value.

    Values beyond the 99.5th percentile share the last bar, so that one outlier does not flatten
    the rest; the axis says so.

    Args:
        counts: Value → number of studies, by value, at least one.
        unit: Of the values, such as ``"years"``.
    """
    import numpy as np

    values = np.array(list(counts), np.float64)
    weights = np.array(list(counts.values()), np.float64)
    reached = np.cumsum(weights) / weights.sum()
    top = float(values[int(np.searchsorted(reached, 0.995))])
    low = float(values[0])
    is_whole = bool((values == np.round(values)).all())
    width = (top - low) / n_bins if top > low else 1.0
    if is_whole:
        width = max(1.0, float(np.ceil(width)))
    edges = low + width * np.arange(int(np.ceil((top - low) / width + 1e-9)) + 1 or 2)
    if is_whole and edges[-1] <= top:
        edges = np.append(edges, edges[-1] + width)
    if len(edges) < 2:
        edges = np.array([low, low + width])
    heights, _ = np.histogram(np.clip(values, low, edges[-1]), edges, weights=weights)
    figure, axes = _figure(2.5)
    if len(heights) == 1:  # one bar would fill the picture
        axes.set_xlim(max(0.0, edges[0] - 2 * width), edges[1] + 2 * width)
    axes.bar(edges[:-1], heights, width=width * 0.94, align="edge", color=PALETTE[0])
    rest = float(weights[values > edges[-1]].sum())
    axes.set_xlabel(unit + (f" (the last bar holds {rest:,.0f} beyond)" if rest else ""))
    axes.set_ylabel("studies")
    axes.yaxis.get_major_locator().set_params(integer=True)
    told = (
        f"A histogram of {unit} over {weights.sum():,.0f} studies, from {values[0]:g} to "
        f"{values[-1]:g}; the highest bar begins at {edges[int(heights.argmax())]:g}."
    )
    return _picture(name, title, told, figure)


@_style()
def groups(
    name: str, title: str, shares: Mapping[str, Mapping[str, float]], *, unit: str
) -> Picture:
    """Draw bars of several groups side by side: name → group → share of the group, 0 to 1."""
    names = list(shares)
    members = list(dict.fromkeys(group for by in shares.values() for group in by))
    height = 0.8 / max(1, len(members))
    figure, axes = _figure(1.1 + 0.16 * max(2, len(members)) * len(names))
    for k, group in enumerate(members):
        places = [i - 0.4 + height * (k + 0.5) for i in range(len(names))]
        values = [100 * shares[n].get(group, 0.0) for n in names]
        axes.barh(places, values, height * 0.92, color=PALETTE[k % len(PALETTE)], label=group)
    axes.set_yticks(range(len(names)), [_short(n) for n in names])
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=8, labelcolor=_INK)
    told = "; ".join(
        f"{n}: " + ", ".join(f"{group} {share:.1%}" for group, share in by.items())
        for n, by in list(shares.items())[:10]
    )
    return _picture(name, title, f"Bars by {', '.join(members)}. {told}.", figure)


@dataclass(frozen=True, slots=True)
class Node:
    """One block of a flow picture.

    Attributes:
        name: Unique in the picture.
        column: From 0, left to right.
        value: How much passes through it.
        colour: Index into `PALETTE`.
    """

    name: str
    column: int
    value: float
    colour: int = 0


def flow(
    name: str, title: str, nodes: Sequence[Node], links: Sequence[tuple[str, str, float]]
) -> Picture:
    """Draw what went where: blocks in columns, and bands between them as wide as what passes.

    Args:
        links: (from, to, value), from left to right; of one block they are drawn in this order.
    """
    gap, bar, width = 26.0, 12.0, 1100.0
    nodes = [node for node in nodes if node.value > 0]
    columns: dict[int, list[Node]] = {}
    for node in nodes:
        columns.setdefault(node.column, []).append(node)
    whole = max((sum(n.value for n in column) for column in columns.values()), default=1.0)
    scale = 260.0 / whole
    step = (width - 160.0) / max(1, max(columns, default=0))
    place: dict[str, tuple[float, float]] = {}
    height = 0.0
    by_name = {node.name: node for node in nodes}
    for number, column in columns.items():
        y = 14.0
        for node in column:
            place[node.name] = (4.0 + step * number, y)
            y += max(node.value * scale, 1.0) + gap
        height = max(height, y - gap / 2)
    left, right = dict.fromkeys(place, 0.0), dict.fromkeys(place, 0.0)
    parts: list[str] = []
    for start, end, value in links:
        if value <= 0 or start not in place or end not in place:
            continue
        (x1, y1), (x2, y2) = place[start], place[end]
        thick = max(value * scale, 0.8)
        x1, y1, y2 = x1 + bar, y1 + left[start] + thick / 2, y2 + right[end] + thick / 2
        left[start] += value * scale
        right[end] += value * scale
        middle = (x1 + x2) / 2
        parts.append(
            f'<path d="M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} '
            f'{x2:.1f} {y2:.1f}" fill="none" stroke="{PALETTE[by_name[end].colour]}" '
            f'stroke-opacity=".38" stroke-width="{thick:.1f}">'
            f"<title>{html.escape(f'{start} to {end}: {value:,.0f}')}</title></path>"
        )
    for node in nodes:
        x, y = place[node.name]
        tall = max(node.value * scale, 1.0)
        share = f" ({node.value / whole:.1%})" if node.column else ""
        label = html.escape(f"{_short(node.name)} {node.value:,.0f}{share}")
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar:g}" height="{tall:.1f}" '
            f'fill="{PALETTE[node.colour]}"/>'
            f'<text x="{x + bar + 5:.1f}" y="{y + min(tall / 2, 60) + 4:.1f}">{label}</text>'
        )
    body = f'<g font-family="sans-serif" font-size="12.5" fill="currentColor">{"".join(parts)}</g>'
    told = "; ".join(f"{a} to {b} {v:,.0f}" for a, b, v in links if v > 0)
    svg = _element(name, title, f"What went where: {told}.", width, height, body)
    return Picture(name, title, f"What went where: {told}.", svg)


def _figure(height_in: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_PALE)
    axes.tick_params(labelsize=8, colors=_INK, length=0)
    axes.xaxis.label.set(color=_INK, fontsize=9)
    axes.yaxis.label.set(color=_INK, fontsize=9)
    return figure, axes


def _picture(name: str, title: str, text: str, figure: Any) -> Picture:
    """Render a figure and make its element the page's own: colours, ids, words."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(written, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawn = written.getvalue()
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    assert box, "matplotlib writes a viewBox"
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 : drawn.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # The figure's and the axes' own background, so that the page's shows through.
    body = re.sub(r'<g id="patch_[12]">\s*<path[^>]*style="fill: #ffffff"[^>]*/>\s*</g>', "", body)
    body = body.replace(_INK, "currentColor").replace(_PALE, "currentColor")
    # Several pictures share a page, where an id occurs once.
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r">\s+<", "><", body.strip())
    svg = _element(name, title, text, float(box[1]), float(box[2]), body)
    return Picture(name, title, text, svg)


def _element(name: str, title: str, text: str, width: float, height: float, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-text">{html.escape(text)}</desc>{body}</svg>'
    )


def _short(text: str, most: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
