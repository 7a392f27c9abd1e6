"""Numbers → pictures as SVG, for the report page: curves, bars, histograms, intervals.

Every picture is one ``<svg>`` element that says in words what it shows and takes the colour of its
text from the page, light or dark. The same numbers give the same bytes. Knows no results.
"""

import contextlib
import html
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's, of which these keep 3:1 against white and against near-black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#7f7f7f")
_INK, _PALE = "#010203", "#040506"  # drawn in these, then made the page's own colour
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture.

    Attributes:
        name: Unique in its page; letters, digits and hyphens.
        title: What it shows, in a few words.
        text: What it shows, for readers who do not see it.
        svg: The element.
    """

    name: str
    title: str
    text: str
    svg: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval and its bounds, for `intervals`.

    Attributes:
        group: Row, such as the protocol and measure.
        name: Model.
        value: Of it.
        low: Lower end; None without one.
        high: Upper end.
        ceiling: The most that the protocol allows.
        chance: What knowing nothing gives.
    """

    group: str
    name: str
    value: float
    low: float | None
    high: float | None
    ceiling: float
    chance: float


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Draw by matplotlib's own defaults; letters stay text, and a "$" in a name is no formula."""
    import matplotlib.style

    ours: Any = {"svg.hashsalt": "medfinder", "svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.style.context(["default", ours]):
        yield


@_style()
def curves(name: str, title: str, lines: Mapping[str, Sequence[float]], *, unit: str) -> Picture:
    """Draw shares, in percent, over k = 1, 2, … on a log scale, a line a name."""
    figure, axes = _figure(3.0)
    longest = max(map(len, lines.values()))
    for number, (label, shares) in enumerate(lines.items()):
        axes.plot(
            range(1, len(shares) + 1),
            [100 * share for share in shares],
            drawstyle="steps-post",
            color=PALETTE[number % len(PALETTE)],
            linestyle=_DASHES[number // len(PALETTE) % len(_DASHES)],
            label=_short(label),
        )
    axes.set_xscale("log")
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if k <= longest]
    axes.set_xticks(ticks, [f"{k:,}" for k in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.set_xlabel("k")
    axes.set_ylabel(unit)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8, labelcolor=_INK)
    told = "; ".join(
        f"{label}: "
        + ", ".join(f"{100 * s[k - 1]:.1f} at {k}" for k in (1, 10, 100) if k <= len(s))
        for label, s in lines.items()
    )
    return _picture(name, title, f"{unit} over k. {told}.", figure)


@_style()
def bars(name: str, title: str, values: Mapping[str, Mapping[str, float]], *, unit: str) -> Picture:
    """Draw bars of several models side by side: row → model → share, 0 to 1, in percent."""
    rows = list(values)
    models = list(dict.fromkeys(model for by in values.values() for model in by))
    height = 0.8 / max(1, len(models))
    figure, axes = _figure(1.1 + 0.17 * max(1.4, len(models)) * len(rows))
    for k, model in enumerate(models):
        places = [i - 0.4 + height * (k + 0.5) for i in range(len(rows))]
        shares = [100 * values[row].get(model, 0.0) for row in rows]
        axes.barh(
            places, shares, height * 0.92, color=PALETTE[k % len(PALETTE)], label=_short(model)
        )
    axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(unit)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8, labelcolor=_INK)
    told = "; ".join(
        f"{row}: " + ", ".join(f"{model} {100 * share:.1f}" for model, share in by.items())
        for row, by in list(values.items())[:12]
    )
    return _picture(name, title, f"{unit}. {told}.", figure)


@_style()
def histogram(name: str, title: str, places: Sequence[float], n_gallery: int) -> Picture:
    """Draw how many queries find their answer at which place; bins double in width."""
    edges = [1]
    while edges[-1] <= n_gallery:
        edges.append(edges[-1] * 2)
    pairs = list(itertools.pairwise(edges))
    counts = [sum(low <= place < high for place in places) for low, high in pairs]
    figure, axes = _figure(2.4)
    axes.bar(range(len(counts)), counts, width=0.92, color=PALETTE[0])
    labels = [f"{low:,}" if high == low + 1 else f"{low:,}-{high - 1:,}" for low, high in pairs]
    axes.set_xticks(range(len(counts)), labels, rotation=30, ha="right")
    axes.set_xlabel("place of the first answer")
    axes.set_ylabel("queries")
    axes.yaxis.get_major_locator().set_params(integer=True)
    told = "; ".join(f"{label}: {n}" for label, n in zip(labels, counts, strict=True))
    return _picture(name, title, f"Queries by the place of their first answer. {told}.", figure)


@_style()
def intervals(name: str, title: str, given: Sequence[Bar], *, unit: str) -> Picture:
    """Draw values with their intervals, in percent; chance is a tick below, the ceiling one above."""
    groups = list(dict.fromkeys(bar.group for bar in given))
    models = list(dict.fromkeys(bar.name for bar in given))
    figure, axes = _figure(1.1 + (0.16 * max(2, len(models)) + 0.12) * len(groups))
    for bar in given:
        k, row = models.index(bar.name), groups.index(bar.group)
        y = row - 0.36 + 0.72 * (k + 0.5) / len(models)
        colour = PALETTE[k % len(PALETTE)]
        first = bar is next(one for one in given if one.name == bar.name)
        low = bar.value if bar.low is None else bar.low
        high = bar.value if bar.high is None else bar.high
        axes.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=2)
        axes.plot(
            [100 * bar.value], [y], "o", color=colour, markersize=4,
            label=_short(bar.name) if first else "_",
        )  # fmt: skip
        for value, style in ((bar.chance, ":"), (bar.ceiling, "-")):
            axes.plot(
                [100 * value] * 2, [row - 0.4, row + 0.4], style, color=_PALE, linewidth=0.9,
                alpha=0.7,
            )  # fmt: skip
    axes.set_yticks(range(len(groups)), [_short(group, 52) for group in groups])
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel(f"{unit}; dotted: chance, solid: ceiling")
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8, labelcolor=_INK)
    told = "; ".join(
        f"{bar.group}, {bar.name}: {100 * bar.value:.1f}"
        + (
            ""
            if bar.low is None or bar.high is None
            else f" ({100 * bar.low:.1f} to {100 * bar.high:.1f})"
        )
        + f", chance {100 * bar.chance:.1f}, ceiling {100 * bar.ceiling:.1f}"
        for bar in given
    )
    return _picture(name, title, f"{unit} with 95 % intervals. {told}.", figure)


def _figure(height_in: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height_in), layout="constrained")
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
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {box[1]} {box[2]}" width="{box[1]}" height="{box[2]}" role="img" '
        f'aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-text">{html.escape(text)}</desc>{body}</svg>'
    )
    return Picture(name, title, text, svg)


def _short(text: str, most: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
