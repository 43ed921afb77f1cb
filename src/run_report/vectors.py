"""The part of the page about the principal vectors: how far apart they are, and which of them gives the tags."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from src.data.split import ZeroShotSplit
from src.run_report.spread import Spread
from src.run_report.svg import heat_map, histogram
from src.run_report.text import escape, number

_BINS = 40
_NAMES = 5  # labels named of each principal vector


def vector_charts(spread: Spread) -> str:
    """Figures: variance an image, cosines between the vectors as a histogram and as a mean matrix."""
    mean = float(spread.variances.mean())
    return (
        _histogram(
            "Spread of an image, ‖Var_m(A[d, m])‖₁",
            spread.variances,
            f"The term that the regulariser holds down: {number(mean)} on average. Near 0 all vectors are the same.",
        )
        + _histogram(
            "Cosines between vectors of an image",
            spread.cosines,
            f"{number(float(spread.cosines.mean()))} on average. Near 1 the vectors say the same.",
        )
        + heat_map("Mean cosine of each pair", spread.mean_cosines.tolist(), "Rows and columns are principal vectors.")
    )


def _histogram(title: str, values: Tensor, note: str) -> str:
    counts, edges = np.histogram(values.numpy(), bins=_BINS)
    return histogram(title, counts.tolist(), edges.tolist(), note)


def vector_rows(spread: Spread, split: ZeroShotSplit) -> str:
    """Table rows: principal vector, its share of the best tags, and the labels that it gave most often."""
    total = max(int(spread.wins.sum()), 1)
    unseen = set(split.unseen)
    rows = []
    for vector, wins in enumerate(spread.wins):
        share = 100 * int(wins.sum()) / total
        counts, columns = torch.topk(wins, min(_NAMES, len(wins)))
        names = ", ".join(
            f"{escape(f'*{split.labels[column]}*' if column in unseen else split.labels[column])} {count:,}"
            for column, count in zip(columns.tolist(), counts.tolist(), strict=True)
            if count
        )
        rows.append(
            f'<tr><th>{vector + 1}</th><td class="bar"><span><b style="width:{share:.2f}%"></b></span></td>'
            f"<td>{share:.1f}%</td><td>{names}</td></tr>"
        )
    return "".join(rows)
