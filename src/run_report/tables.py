"""The numbers of the page's tables: metrics beside their ceilings, and the average precision of each label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from src.data.split import ZeroShotSplit
from src.metrics.table import ks_of
from src.run_report.charts import Chart, label_bars
from src.run_report.ranking import Ranking

_BARS = 300  # of a chart; of more labels evenly spaced ones are drawn


class Measured(NamedTuple):
    """A metric and its ceiling, which a perfect ranking reaches; in percent."""

    name: str
    value: float
    ceiling: float


class LabelRow(NamedTuple):
    """A label: its name, ``seen`` or ``unseen``, its positives, and its average precision in percent.

    ``zero_shot`` is the average precision among the unseen labels' images, None for a seen label. Both are NaN without
    a positive.
    """

    name: str
    side: str
    positives: int
    precision: float
    zero_shot: float | None


def measured(metrics: Mapping[str, float], setting: str) -> list[Measured]:
    """Return the metrics of a setting, in the order of the page."""
    at_k = [f"{name}@{k}" for k in ks_of(metrics) for name in ("F1", "P", "R")]
    names = [*at_k, "F1@threshold", "P@threshold", "R@threshold", "mAP", "mAP_skip", "mAP_verified"]
    ceilings = {name: metrics.get(f"{setting}.ceiling.{name}", 100.0) for name in names}
    if num_labels := metrics[f"{setting}.num_labels"]:  # a label without a positive has an average precision of 0
        ceilings["mAP"] = 100 * metrics[f"{setting}.num_labels_with_positive"] / num_labels
    return [
        Measured(name, metrics[f"{setting}.{name}"], ceilings[name]) for name in names if f"{setting}.{name}" in metrics
    ]


def label_rows(split: ZeroShotSplit, rankings: Mapping[str, Ranking]) -> list[LabelRow]:
    """List the labels of either side, highest average precision first, those without a positive last."""
    zero_shot = {}
    if "zero_shot" in rankings:
        columns, precision = rankings["zero_shot"].columns, 100 * rankings["zero_shot"].precision
        zero_shot = dict(zip(columns.tolist(), precision.tolist(), strict=True))
    ranking = rankings["generalized"]
    numbers = (ranking.columns.tolist(), ranking.positives.tolist(), (100 * ranking.precision).tolist())
    rows = [
        LabelRow(
            split.labels[column],
            "unseen" if column in zero_shot else "seen",
            positives,
            precision,
            zero_shot.get(column),
        )
        for column, positives, precision in zip(*numbers, strict=True)
    ]
    return sorted(rows, key=lambda row: -math.inf if math.isnan(row.precision) else row.precision, reverse=True)


def label_charts(rows: Sequence[LabelRow]) -> list[Chart]:
    """Draw the seen and the unseen labels, in the order of the rows."""
    charts = []
    for side in ("seen", "unseen"):
        own = [row for row in rows if row.side == side]
        drawn = [row for row in own if not math.isnan(row.precision)]
        note = f"Left out: {len(own) - len(drawn):,} without a positive image." * (len(own) > len(drawn))
        if drawn:
            step = -(-len(drawn) // _BARS)
            note += f" One label in {step} is drawn." * (step > 1)
            note = f"Upwards average precision (%), downwards positive images (log scale). {note}".rstrip()
            title = f"{len(drawn):,} {side} labels, mean {sum(row.precision for row in drawn) / len(drawn):.1f}"
            bars = [(row.name, row.precision, row.positives) for row in drawn[::step]]
            charts.append(label_bars(title, bars, side, note))
        elif own:
            charts.append(Chart(f"{side.capitalize()} labels", None, note=note))
    return charts
