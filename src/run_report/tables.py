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
    """The labels of either side, highest average precision first, those without a positive last."""
    percent = {
        setting: dict(zip(ranking.columns.tolist(), (100 * ranking.precision).tolist(), strict=True))
        for setting, ranking in rankings.items()
    }
    zero_shot = percent.get("zero_shot", {})
    ranking = rankings["generalized"]
    rows = [
        LabelRow(
            split.labels[column],
            "unseen" if column in zero_shot else "seen",
            positives,
            percent["generalized"][column],
            zero_shot.get(column),
        )
        for column, positives in zip(ranking.columns.tolist(), ranking.positives.tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: -math.inf if math.isnan(row.precision) else row.precision, reverse=True)


def label_charts(rows: Sequence[LabelRow]) -> list[Chart]:
    """A chart of the seen and one of the unseen labels, in the order of the rows."""
    charts = []
    for side in ("seen", "unseen"):
        own = [row for row in rows if row.side == side]
        measured = [row for row in own if not math.isnan(row.precision)]
        note = f"Left out: {len(own) - len(measured):,} without a positive image." * (len(own) > len(measured))
        if own and not measured:
            charts.append(Chart(f"{side.capitalize()} labels", None, note=note))
        elif measured:
            step = -(-len(measured) // _BARS)
            note += f" One label in {step} is drawn." * (step > 1)
            mean = sum(row.precision for row in measured) / len(measured)
            charts.append(
                label_bars(
                    f"{len(measured):,} {side} labels, mean {mean:.1f}",
                    [(row.name, row.precision, row.positives) for row in measured[::step]],
                    side,
                    f"Upwards average precision (%), downwards positive images (log scale). {note}".rstrip(),
                )
            )
    return charts
