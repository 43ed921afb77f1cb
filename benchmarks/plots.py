#!/usr/bin/env python3
"""Draw the plots of docs/benchmarks.md from the rows in benchmarks/results/."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"
BAR = "#4477aa"
LIMIT = "#bbbbbb"


def rows(subject: str) -> list[dict[str, Any]]:
    """Read the rows of one subject."""
    return [json.loads(line) for line in (RESULTS / f"{subject}.jsonl").read_text(encoding="utf-8").splitlines()]


def draw_loss() -> Figure:
    """Plot time against labels: plain loop, this loss, score products alone."""
    measured = [row for row in rows("loss") if row["batch"] == 64 and "plain_ms" in row]
    labels = [row["labels"] for row in measured]
    figure = Figure(figsize=(5.5, 3.4))
    axes = figure.subplots()
    for name, title, style in (
        ("plain_ms", "plain loop over images", "s--"),
        ("fast_ms", "this loss", "o-"),
        ("products_ms", "its score products alone", "^:"),
    ):
        axes.loglog(labels, [row[name] for row in measured], style, label=title)
    axes.set(xlabel="labels", ylabel="milliseconds, forward + backward", title="SDL loss, 64 images, M = 7, D = 300")
    axes.legend()
    return figure


def draw_inference() -> Figure:
    """Plot the share of the matrix-product rate that each way of running a model reaches."""
    measured = rows("inference")
    models = list(dict.fromkeys(row["model"] for row in measured))
    figure = Figure(figsize=(4.2 * len(models), 3.0))
    all_axes = figure.subplots(1, len(models))
    for model, axes in zip(models, all_axes, strict=True):
        of_model = [row for row in measured if row["model"] == model and row["way"] != "gemm"]
        names = [row["way"].replace("_", " ") for row in of_model]
        axes.barh(names[::-1], [100 * row["of_gemm_rate"] for row in of_model][::-1], color=BAR)
        axes.axvline(100, color=LIMIT, linestyle="--")
        axes.set(xlabel="% of the float32 matrix-product rate", title=f"{model}, 224 px, batch 8")
    return figure


def draw_evaluation() -> Figure:
    """Plot seconds of an evaluation: plain loops, this project, and the score products alone."""
    row = rows("evaluation")[-1]
    names = {"plain": "plain loops", "fast": "this project", "products": "score products alone"}
    medians = {name: sorted(row["seconds"][name])[len(row["seconds"][name]) // 2] for name in names}
    figure = Figure(figsize=(5.5, 2.2))
    axes = figure.subplots()
    bars = axes.barh([names[name] for name in medians][::-1], list(medians.values())[::-1], color=BAR)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.12)
    axes.set(xlabel="seconds", title=f"{row['images']:,} images x {row['labels']:,} labels, all metrics")
    return figure


def main() -> None:
    """Draw all plots."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of benchmark-*.png; docs/images to publish them",
    )
    folder: Path = flags.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("loss", draw_loss), ("inference", draw_inference), ("evaluation", draw_evaluation)):
        figure = draw()
        figure.tight_layout()
        figure.savefig(folder / f"benchmark-{name}.png", dpi=110)


if __name__ == "__main__":
    main()
