"""The curves of a training run, from the lines of ``log.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.metrics.table import SETTINGS, ks_of
from src.run_report.charts import Chart, Line, line_chart

Entries = Sequence[Mapping[str, Any]]
_TRAIN = {
    "loss": ("Training loss", "loss"),
    "rank": ("Ranking term", "L_rank"),
    "diversity": ("Diversity weight", "ω"),
    "regularizer": ("Regulariser", "L_reg"),
    "gradient_norm": ("Gradient norm", "norm"),
}


def curves(entries: Entries) -> list[Chart]:
    """Draw metrics, the metric that selects the best epoch, loss and its parts, gradient norm and learning rates.

    What no line holds has no chart.
    """
    if not entries:
        return []
    metrics = [f"F1@{k}" for k in ks_of(entries[-1]["metrics"])[:1]] + ["mAP"]
    lines = {f"{metric} (%)": _metric_lines(entries, metric) for metric in metrics}
    facts: Mapping[str, Any] = next((entry["selection"] for entry in reversed(entries) if entry.get("selection")), {})
    name = " ".join(facts[key] for key in ("name", "metric") if key in facts)
    lines["Metric that selects the best epoch"] = [
        _line(entries, "selection", "value", name),
        _line(entries, "ema_selection", "value", f"{name}, averaged weights", dashed=True),
    ]
    lines |= {title: [_line(entries, "train", key, symbol)] for key, (title, symbol) in _TRAIN.items()}
    lines["Learning rate"] = [
        _line(entries, "lr", name, name, ("seen", "unseen")[place % 2], dashed=place > 1)
        for place, name in enumerate(entries[-1].get("lr", {}))
    ]
    return [chart for title, drawn in lines.items() if (chart := line_chart(title, drawn)) is not None]


def _line(entries: Entries, part: str, key: str, name: str, colour: str = "seen", *, dashed: bool = False) -> Line:
    """Return the value ``entry[part][key]`` of the epochs that have it."""
    found = ((entry["epoch"], (entry.get(part) or {}).get(key)) for entry in entries)
    return Line(name, [(epoch, value) for epoch, value in found if value is not None], colour, dashed)


def _metric_lines(entries: Entries, metric: str) -> list[Line]:
    """Return the lines of both settings, and dashed those of the averaged weights."""
    lines = []
    for setting, title in SETTINGS.items():
        key, colour = f"{setting}.{metric}", "unseen" if setting == "zero_shot" else "seen"
        lines.append(_line(entries, "metrics", key, title, colour))
        lines.append(_line(entries, "ema_metrics", key, f"{title}, averaged weights", colour, dashed=True))
    return lines
