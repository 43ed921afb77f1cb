"""The part of the page about labels: average precision of each, as charts and as a table to search and sort."""

from __future__ import annotations

import torch
from torch import Tensor

from src.data.split import ZeroShotSplit
from src.run_report.ranking import Ranking
from src.run_report.svg import label_bars
from src.run_report.text import escape

_BARS = 300  # a chart; of more labels evenly spaced ones are drawn


def label_charts(split: ZeroShotSplit, ranking: Ranking) -> str:
    """A chart of the seen and one of the unseen labels, each sorted."""
    return "".join(
        _chart(split, ranking, side, columns)
        for side, columns in (("seen", split.seen), ("unseen", split.unseen))
        if columns
    )


def _chart(split: ZeroShotSplit, ranking: Ranking, side: str, columns: tuple[int, ...]) -> str:
    of_side = torch.isin(ranking.columns, torch.tensor(columns)) & ~ranking.precision.isnan()
    order = _by_precision(ranking)
    order = order[of_side[order]]
    without = len(columns) - len(order)
    note = f" Left out: {without:,} without a positive image." if without else ""
    if len(order) == 0:
        return f"<figure><figcaption>{side.capitalize()} labels</figcaption><p>{note}</p></figure>"
    step = -(-len(order) // _BARS)
    drawn = order[::step]
    mean = 100 * float(ranking.precision[order].mean())
    if step > 1:
        note += f" One label in {step} is drawn."
    return label_bars(
        f"{len(order):,} {side} labels, mean {mean:.1f}",
        split.names(ranking.columns[drawn].tolist()),
        (100 * ranking.precision[drawn]).tolist(),
        ranking.positives[drawn].tolist(),
        side,
        f"Upwards average precision (%), downwards positive images (log scale).{note}",
    )


def _by_precision(ranking: Ranking) -> Tensor:
    """Places of the ranking's labels, highest average precision first, those without one last."""
    return ranking.precision.nan_to_num(-1.0).argsort(descending=True, stable=True)


def label_rows(split: ZeroShotSplit, ranking: Ranking, zero_shot: Ranking | None) -> str:
    """The rows of the table: label, side, positives, AP, and of unseen labels the AP over the zero-shot images."""
    unseen = {} if zero_shot is None else dict(
        zip(zero_shot.columns.tolist(), zero_shot.precision.tolist(), strict=True)
    )  # fmt: skip
    order = _by_precision(ranking)
    return "\n".join(
        f'<tr class="{"unseen" if column in unseen else "seen"}"><th>{escape(split.labels[column])}</th>'
        f"<td>{'unseen' if column in unseen else 'seen'}</td><td>{count}</td>{_cell(precision)}"
        f"{_cell(unseen[column]) if column in unseen else '<td></td>'}</tr>"
        for column, count, precision in zip(
            ranking.columns[order].tolist(),
            ranking.positives[order].tolist(),
            ranking.precision[order].tolist(),
            strict=True,
        )
    )


def _cell(precision: float) -> str:
    return "<td>–</td>" if precision != precision else f"<td>{100 * precision:.1f}</td>"  # NaN: no positive
