"""Charts as inline SVG, drawn by matplotlib in the page's colours (CSS variables), so that they follow its dark mode.

Text stays text, in the page's font. A point or bar has a ``<title>``, which a browser shows under the mouse.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from src.utils.plotting import Axes, Figure, LogLocator, MaxNLocator, own_settings

_WIDTH, _WIDE, _HEIGHT = 340, 560, 190  # units of the SVG, about the pixels at which a page shows it
_LEFT, _RIGHT, _BOTTOM, _TOP = 46, 12, 24, 8
_LOG_FROM = 8  # highest over lowest value from which a curve is easier to read on a log scale
_MARKED = 60  # more points than this on a line are not marked one by one
_STEPS = [1, 2, 5, 10]  # between ticks
_VARIABLES = {"seen": "#2d6cdf", "unseen": "#c4501b", "line": "#dfe3e8"}  # CSS variable -> its colour while drawing
_KEPT = ("d", "x", "y", "style")  # attributes of matplotlib's SVG
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _VARIABLES["line"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 5,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
}


class Line(NamedTuple):
    """A line of a chart: its name in the legend, points (epoch, value), and look (colour ``seen`` or ``unseen``)."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = "seen"
    dashed: bool = False


class Chart(NamedTuple):
    """A figure of the page: heading, drawing, the lines of its legend, a note below, and whether its scale is log."""

    title: str
    svg: Markup | None
    lines: Sequence[Line] = ()
    note: str = ""
    log: bool = False


def number(value: float) -> str:
    """Format a number with at most four significant digits, thousands separated.

    >>> number(0.00012345), number(20.0), number(107859.0), number(31.23)
    ('0.0001234', '20', '107,859', '31.23')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _formatted(value: float, _: float) -> str:
    return number(value)


@own_settings(**_STYLE)
def line_chart(title: str, lines: Sequence[Line]) -> Chart | None:
    """Draw lines over epochs; values that are not finite are left out. None where no line has a finite point."""
    lines = [line._replace(points=[point for point in line.points if math.isfinite(point[1])]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    epochs, values = (np.concatenate([np.array(line.points)[:, axis] for line in lines]) for axis in (0, 1))
    low, high = values.min(), values.max()
    log = bool(low > 0 and high / low > _LOG_FROM)
    figure, axes = _chart()
    titles = []
    for line in lines:
        xy, colour = np.array(line.points).T, _VARIABLES[line.colour]
        axes.plot(*xy, color=colour, linewidth=2, linestyle=(0, (2.5, 2)) if line.dashed else "-")
        if xy.shape[1] <= _MARKED:
            axes.plot(*xy, ".", color=colour, gid="titled")
            titles += [f"{line.name}, epoch {number(epoch)}: {number(value)}" for epoch, value in line.points]
    if log:
        subs = (1, 2, 5) if high / low < 100 else (1,)
        axes.set(yscale="log", ylim=(low / 1.15, high * 1.15))
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=7))
        axes.yaxis.set_major_formatter(_formatted)
        axes.yaxis.minorticks_off()
    else:
        margin = max(0.08 * (high - low), 0.01 * abs(high)) or 1.0  # a line that only rounding moves is drawn flat
        axes.set(ylim=(low - margin, high + margin))
    around = 0.5 * (epochs.min() == epochs.max())
    axes.set(xlim=(epochs.min() - around, epochs.max() + around))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=True))
    return Chart(title, _inline(figure, title, titles), lines, log=log)


@own_settings(**_STYLE)
def histogram(title: str, values: np.ndarray, note: str, bins: int = 40) -> Chart:
    """Draw how often values occur."""
    counts, edges = np.histogram(values, bins)
    figure, axes = _chart()
    _bars(axes, (edges[:-1] + edges[1:]) / 2, ymin=0, ymax=counts, colors=_VARIABLES["seen"])
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.05 * max(counts.max(), 1)))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS, integer=True))
    titles = [
        f"{number(low)} to {number(high)}: {count:,}"
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]
    return Chart(title, _inline(figure, title, titles), note=note)


@own_settings(**_STYLE)
def label_bars(title: str, labels: Sequence[tuple[str, float, int]], colour: str, note: str) -> Chart:
    """Draw two bars for each label (name, average precision in percent, positives): the latter down on a log scale."""
    _, precisions, positives = zip(*labels, strict=True)
    most = max(10, *positives)
    decade = 10 ** int(math.log10(most))
    figure, up = _chart(_WIDE, bottom=62)
    down = _add_axes(figure, bottom=6, top=134)
    down.set(yscale="log")
    places, drawn = np.arange(len(labels)), _VARIABLES[colour]
    _bars(up, places, ymin=0, ymax=precisions, colors=drawn)
    _bars(down, places, ymin=1, ymax=np.maximum(positives, 1.1), colors=drawn, alpha=0.45)
    up.set(ylim=(0, 100), yticks=range(0, 101, 25), xticks=[], xlim=(-0.5, len(labels) - 0.5))
    down.set(
        ylim=(most, 1),
        yticks=[max(step * decade for step in _STEPS if step * decade <= most)],
        xticks=[],
        xlim=up.get_xlim(),
    )
    down.yaxis.set_major_formatter(_formatted)
    down.yaxis.minorticks_off()
    titles = [f"{name}: {precision:.1f} from {count:,}" for name, precision, count in labels]
    return Chart(title, _inline(figure, title, titles * 2), note=note)


def _chart(width: int = _WIDTH, bottom: int = _BOTTOM) -> tuple[Figure, Axes]:
    """Return an empty chart; a point of matplotlib's is a unit of the SVG."""
    figure = Figure(figsize=(width / 72, _HEIGHT / 72))
    return figure, _add_axes(figure, bottom)


def _add_axes(figure: Figure, bottom: int, top: int = _TOP) -> Axes:
    width = 72 * figure.get_figwidth()
    box = (_LEFT / width, bottom / _HEIGHT, (width - _LEFT - _RIGHT) / width, (_HEIGHT - bottom - top) / _HEIGHT)
    axes = figure.add_axes(box)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=_STEPS))
        axis.set_major_formatter(_formatted)
    return axes


def _bars(axes: Axes, places: np.ndarray, **options: Any) -> None:
    """Draw bars as thick lines, which matplotlib writes many times as fast as rectangles."""
    width = axes.bbox.width * 72 / axes.figure.dpi / len(places)
    axes.vlines(places, linewidth=max(0.87 * width, 0.5), gid="titled", **options)


def _inline(figure: Figure, label: str, titles: Sequence[str]) -> Markup:
    """Write the figure as an element of the page; ``titles`` are of the shapes in groups ``titled``, in order."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    root = ElementTree.fromstring(buffer.getvalue().replace('xmlns="http://www.w3.org/2000/svg"', ""))
    left = iter(titles)
    for element in list(root.iter()):
        for child in (*element.findall("defs"), *element.findall("metadata")):
            element.remove(child)
        if element.get("id") == "titled":
            for shape in (*element.iter("path"), *element.iter("use")):
                ElementTree.SubElement(shape, "title").text = next(left)
    for element in root.iter():
        kept = {name: _tidy(name, value) for name, value in element.items() if name in _KEPT}
        if element.tag == "use":  # a marker
            element.tag, kept = "circle", {"cx": kept["x"], "cy": kept["y"], "r": "2.4", "style": kept["style"]}
        element.attrib, element.tail = kept, None
        if element.tag == "g":
            element.text = None
    root.attrib = {"viewBox": f"0 0 {72 * figure.get_figwidth():.0f} {_HEIGHT}", "role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # escaped by ElementTree


def _tidy(name: str, value: str) -> str:
    """Shorten an attribute: coordinates to two digits, no font but the page's, variables for colours."""
    if name != "style":
        return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
    value = re.sub(r"font[^;]*; |stroke-linecap: square", "", value)
    for variable, colour in _VARIABLES.items():
        value = value.replace(colour, f"var(--{variable})")
    return value
