#!/usr/bin/env python3
"""Draw the plots of docs/benchmarks.md from the rows in results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"
IMAGES = RESULTS.parent.parent / "docs" / "images"
BAR = "#4477aa"
LIMIT = "#bbbbbb"


def rows(subject: str) -> list[dict[str, Any]]:
    """The rows of one subject."""
    return [json.loads(line) for line in (RESULTS / f"{subject}.jsonl").read_text(encoding="utf-8").splitlines()]


def save(figure: plt.Figure, name: str) -> None:
    """Write docs/images/benchmark-<name>.png."""
    figure.tight_layout()
    figure.savefig(IMAGES / f"benchmark-{name}.png", dpi=110)
    plt.close(figure)


def draw_loss() -> None:
    """Time against labels: plain loop, this loss, score products alone."""
    measured = [row for row in rows("loss") if row["batch"] == 64 and "plain_ms" in row]
    labels = [row["labels"] for row in measured]
    figure, axes = plt.subplots(figsize=(5.5, 3.4))
    for name, title, style in (
        ("plain_ms", "plain loop over images", "s--"),
        ("fast_ms", "this loss", "o-"),
        ("products_ms", "its score products alone", "^:"),
    ):
        axes.loglog(labels, [row[name] for row in measured], style, label=title)
    axes.set(xlabel="labels", ylabel="milliseconds, forward + backward", title="SDL loss, 64 images, M = 7, D = 300")
    axes.legend()
    save(figure, "loss")


def draw_inference() -> None:
    """Share of the matrix-product rate that each way of running a model reaches."""
    measured = rows("inference")
    models = list(dict.fromkeys(row["model"] for row in measured))
    figure, all_axes = plt.subplots(1, len(models), figsize=(4.2 * len(models), 3.0))
    for model, axes in zip(models, all_axes, strict=True):
        of_model = [row for row in measured if row["model"] == model and row["way"] != "gemm"]
        names = [row["way"].replace("_", " ") for row in of_model]
        axes.barh(names[::-1], [100 * row["of_gemm_rate"] for row in of_model][::-1], color=BAR)
        axes.axvline(100, color=LIMIT, linestyle="--")
        axes.set(xlabel="% of the float32 matrix-product rate", title=f"{model}, 224 px, batch 8")
    save(figure, "inference")


def draw_evaluation() -> None:
    """Seconds of an evaluation: plain loops, this one, and what cannot be left out."""
    row = rows("evaluation")[-1]
    names = {"plain": "plain loops", "fast": "this project", "products": "score products alone"}
    medians = {name: sorted(row["seconds"][name])[len(row["seconds"][name]) // 2] for name in names}
    figure, axes = plt.subplots(figsize=(5.5, 2.2))
    bars = axes.barh([names[name] for name in medians][::-1], list(medians.values())[::-1], color=BAR)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.12)
    axes.set(xlabel="seconds", title=f"{row['images']:,} images x {row['labels']:,} labels, all metrics")
    save(figure, "evaluation")


def main() -> None:
    """All plots."""
    IMAGES.mkdir(exist_ok=True)
    draw_loss()
    draw_inference()
    draw_evaluation()


if __name__ == "__main__":
    main()
