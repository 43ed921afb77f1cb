"""The part of the page about training: what the lines of ``log.jsonl`` say, as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.run_report.results import SETTINGS, ks_of
from src.run_report.svg import Line, line_chart

Entry = Mapping[str, Any]
_COLOURS = {"zero_shot": "unseen", "generalized": "seen"}
_LOSS = (
    ("loss", "Training loss", "loss"),
    ("rank", "Ranking term", "L_rank"),
    ("diversity", "Diversity weight", "ω"),
    ("regularizer", "Regulariser", "L_reg"),
)


def curves(entries: Sequence[Entry]) -> str:
    """Figures: metrics, loss and its parts, learning rates, gradient norm. What no line holds has no figure."""
    if not entries:
        return ""
    metrics = [f"F1@{k}" for k in ks_of(entries[-1]["metrics"])[:1]] + ["mAP"]
    charts = [_metric_chart(entries, metric) for metric in metrics]
    charts.append(_selection_chart(entries))
    charts += [line_chart(title, [_line(entries, symbol, ("train", name))]) for name, title, symbol in _LOSS]
    rates = [
        _line(entries, name, ("lr", name), ("seen", "unseen")[place % 2], dashed=place > 1)
        for place, name in enumerate(entries[-1].get("lr", {}))
    ]
    charts.append(line_chart("Learning rate", rates))
    norms = [_line(entries, "norm", path) for path in (("gradient_norm",), ("train", "gradient_norm"))]
    charts.append(line_chart("Gradient norm", norms))
    return "".join(charts)


def _line(
    entries: Sequence[Entry], name: str, path: Sequence[str], colour: str = "seen", *, dashed: bool = False
) -> Line:
    """What stands under ``path`` in the entries of the epochs that have it."""
    points = [(float(entry["epoch"]), float(value)) for entry in entries if (value := _value(entry, path)) is not None]
    return Line(name, points, colour, dashed)


def _value(entry: Entry, path: Sequence[str]) -> float | None:
    found: Any = entry
    for key in path:
        found = found.get(key)
        if found is None:
            return None
    return found


def _metric_chart(entries: Sequence[Entry], metric: str) -> str:
    """Both settings, and dashed those of the averaged weights."""
    lines = []
    for setting, title in SETTINGS.items():
        key, colour = f"{setting}.{metric}", _COLOURS[setting]
        lines.append(_line(entries, title, ("metrics", key), colour))
        lines.append(_line(entries, f"{title}, averaged weights", ("ema_metrics", key), colour, dashed=True))
    return line_chart(f"{metric} (%)", lines)


def _selection_chart(entries: Sequence[Entry]) -> str:
    """What the best epoch is chosen by, where the log says it, and dashed that of the averaged weights."""
    facts = next((entry["selection"] for entry in reversed(entries) if entry.get("selection")), None)
    if facts is None:
        return ""
    name = " ".join(str(facts[key]) for key in ("name", "metric") if key in facts)
    lines = [
        _line(entries, name, ("selection", "value")),
        _line(entries, f"{name}, averaged weights", ("ema_selection", "value"), dashed=True),
    ]
    return line_chart("What chooses the best epoch", lines)
