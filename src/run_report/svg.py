"""Charts as inline SVG, drawn in the page's own colours (CSS variables), so that they follow its light and dark mode.

Every chart is a string; what stands in it as text is escaped here. Values that are not finite are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from src.run_report.text import escape, number

_WIDTH, _HEIGHT = 340.0, 190.0
_WIDE = 560.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 8.0, 24.0
_LOG_FROM = 8.0  # highest over lowest value at which a curve is easier to read on a log scale
_MARKED = 60  # more points than this on a line are not marked one by one


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name, its (x, y) points, the CSS class of its colour, and whether it is dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Frame:
    """The plot area of a chart: data coordinates -> pixels.

    Attributes:
        x, y: (low, high), low < high, in data.
        log: whether y is logarithmic.
        top, bottom: of the area, in pixels.
        width: of the whole chart, in pixels.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    top: float = _TOP
    bottom: float = _HEIGHT - _BOTTOM
    width: float = _WIDTH

    def across(self, x: float) -> float:
        """The pixel of a data x."""
        return _LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.width - _LEFT - _RIGHT)

    def up(self, y: float) -> float:
        """The pixel of a data y."""
        low, high, y = (math.log(value) for value in (*self.y, y)) if self.log else (*self.y, y)
        return self.bottom - (y - low) / (high - low) * (self.bottom - self.top)

    def y_axis(self, ticks: Sequence[float], unit: str = "") -> str:
        """Grid lines with their values."""
        return "".join(
            f'<path class="grid" d="M{_LEFT:.0f} {self.up(tick):.1f}H{self.width - _RIGHT:.0f}"/>'
            f'<text x="{_LEFT - 5:.0f}" y="{self.up(tick) + 4:.1f}" text-anchor="end">{number(tick)}{unit}</text>'
            for tick in ticks
        )

    def x_axis(self, ticks: Sequence[float]) -> str:
        """Values below the area."""
        return "".join(
            f'<text x="{self.across(tick):.1f}" y="{self.bottom + 15:.1f}" text-anchor="middle">{number(tick)}</text>'
            for tick in ticks
        )


def svg(content: str, label: str, height: float = _HEIGHT, width: float = _WIDTH) -> str:
    """An SVG of this size; ``label`` is read out in place of it."""
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">{content}</svg>'


def nice_ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most ``most`` + 1; whole numbers only where asked.

    >>> nice_ticks(0, 97)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    >>> nice_ticks(1, 3, whole=True)
    [1.0, 2.0, 3.0]
    """
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(size * power for size in (1, 2, 5, 10) if span / (size * power) <= most)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The powers of ten from ``low`` to ``high`` and, where these are few, their doubles and fives."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    sizes = (1,) if len(powers) > 4 else (1, 2, 5)
    ticks = [size * 10.0**power for power in powers for size in sizes]
    inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    return inside[:: -(-len(inside) // 6)] if inside else [low]


def line_chart(title: str, lines: Sequence[Line], *, unit: str = "", from_zero: bool = False) -> str:
    """A figure with lines over epochs and the last value of each; nothing where no line has a finite point.

    Args:
        title: its heading.
        lines: their x are epochs.
        unit: put behind values.
        from_zero: the scale begins at 0, and is never logarithmic.
    """
    lines = [Line(line.name, _finite(line.points), line.colour, line.dashed) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    epochs = [x for line in lines for x, _ in line.points]
    values = [y for line in lines for _, y in line.points]
    log = not from_zero and min(values) > 0 and max(values) / min(values) > _LOG_FROM
    x_range = (min(epochs) - 0.5, max(epochs) + 0.5) if min(epochs) == max(epochs) else (min(epochs), max(epochs))
    y_range = _log_range(values) if log else _linear_range(values, from_zero)
    frame = Frame(x_range, y_range, log)
    ticks = log_ticks(*y_range) if log else nice_ticks(*y_range)
    content = frame.y_axis(ticks, unit) + frame.x_axis(nice_ticks(*x_range, most=6, whole=True))
    content += "".join(_drawn(line, frame) for line in lines)
    legend = "".join(
        f'<span class="{line.colour}{" dashed" if line.dashed else ""}"><i></i>{escape(line.name)} '
        f"<b>{number(line.points[-1][1])}{unit}</b></span>"
        for line in lines
    )
    note = " <small>log scale</small>" if log else ""
    return (
        f"<figure><figcaption>{escape(title)}{note}</figcaption>{svg(content, title)}"
        f'<div class="legend">{legend}</div></figure>'
    )


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _log_range(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.15, max(values) * 1.15


def _linear_range(values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    # a line that rounding alone moves is drawn flat
    margin = max(0.08 * (high - low), 0.01 * abs(high)) or 1.0
    return (min(0.0, low) if from_zero else low - margin), high + margin


def _drawn(line: Line, frame: Frame) -> str:
    places = [(frame.across(x), frame.up(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = "" if len(places) > _MARKED else "".join(
        f'<circle cx="{across:.1f}" cy="{up:.1f}" r="2.4"><title>{escape(line.name)}, epoch {number(x)}: {number(y)}'
        "</title></circle>"
        for (across, up), (x, y) in zip(places, line.points, strict=True)
    )  # fmt: skip
    return f'<g class="line {line.colour}{" dashed" if line.dashed else ""}"><path d="{path}"/>{dots}</g>'


def histogram(title: str, counts: Sequence[int], edges: Sequence[float], note: str = "") -> str:
    """A figure with a bar for each of the ``counts`` [n] between the ``edges`` [n + 1]."""
    frame = Frame((edges[0], edges[-1]), (0.0, 1.05 * max(max(counts), 1)))
    bars = "".join(
        f'<rect x="{frame.across(low):.1f}" y="{frame.up(count):.1f}" '
        f'width="{max(frame.across(high) - frame.across(low) - 0.6, 0.4):.1f}" '
        f'height="{frame.bottom - frame.up(count):.1f}">'
        f"<title>{number(low)} to {number(high)}: {count:,}</title></rect>"
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    )
    content = (
        frame.y_axis(nice_ticks(*frame.y, most=4, whole=True))
        + f'<g class="bars seen">{bars}</g>'
        + frame.x_axis(nice_ticks(*frame.x, most=6))
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg(content, title)}<p>{escape(note)}</p></figure>"


def heat_map(title: str, matrix: Sequence[Sequence[float]], note: str = "") -> str:
    """A figure of a square matrix of numbers between -1 and 1: the fuller the colour, the farther from 0."""
    size = (_WIDTH - _LEFT - _RIGHT) / len(matrix)
    top = 18.0
    cells = []
    for row, values in enumerate(matrix):
        middle = top + (row + 0.62) * size
        cells.append(f'<text x="{_LEFT - 6:.0f}" y="{middle:.1f}" text-anchor="end">{row + 1}</text>')
        cells.append(f'<text x="{_LEFT + (row + 0.5) * size:.1f}" y="13" text-anchor="middle">{row + 1}</text>')
        for column, value in enumerate(values):
            side = "seen" if value >= 0 else "unseen"
            cells.append(
                f'<rect class="cell {side}" x="{_LEFT + column * size:.1f}" y="{top + row * size:.1f}" '
                f'width="{size - 1:.1f}" height="{size - 1:.1f}" fill-opacity="{min(abs(value), 1.0):.2f}">'
                f"<title>{row + 1} and {column + 1}: {value:.3f}</title></rect>"
            )
            if len(matrix) <= 10:
                contrast = " on" * (abs(value) > 0.5)
                cells.append(
                    f'<text class="value{contrast}" x="{_LEFT + (column + 0.5) * size:.1f}" y="{middle:.1f}" '
                    f'text-anchor="middle">{value:.2f}</text>'
                )
    drawing = svg("".join(cells), title, height=top + size * len(matrix) + 4)
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}<p>{escape(note)}</p></figure>"


def label_bars(
    title: str, names: Sequence[str], precisions: Sequence[float], positives: Sequence[int], colour: str, note: str
) -> str:
    """A figure with two bars a label: average precision in percent upwards, positives downwards on a log scale.

    Args:
        title: its heading.
        names, precisions, positives: of the labels, at least one, in the order in which they are drawn.
        colour: CSS class.
        note: put below.
    """
    across, most = (0.0, float(len(names))), max(10.0, float(max(positives)))
    up = Frame(across, (0.0, 100.0), bottom=128.0, width=_WIDE)
    down = Frame(across, (1.0, most), log=True, top=_HEIGHT - 6, bottom=134.0, width=_WIDE)  # upside down
    width = max((up.across(1) - up.across(0)) * 0.85, 0.5)
    bars = []
    for place, (name, precision, count) in enumerate(zip(names, precisions, positives, strict=True)):
        left, top, end = up.across(place), up.up(precision), down.up(max(count, 1)) + 1
        bars.append(
            f"<g><title>{escape(name)}: {precision:.1f} from {count:,}</title>"
            f'<rect x="{left:.2f}" y="{top:.1f}" width="{width:.2f}" height="{up.bottom - top:.1f}"/>'
            f'<rect class="count" x="{left:.2f}" y="{down.bottom:.0f}" width="{width:.2f}" '
            f'height="{max(end - down.bottom, 1):.1f}"/></g>'
        )
    content = up.y_axis([0, 25, 50, 75, 100]) + down.y_axis(log_ticks(10.0, down.y[1])[-1:])
    content += f'<g class="bars {colour}">{"".join(bars)}</g>'
    drawing = svg(content, title, width=_WIDE)
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}<p>{escape(note)}</p></figure>"
