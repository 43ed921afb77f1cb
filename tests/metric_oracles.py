"""The metrics as their formulas read: one label, one image, one setting at a time, every ranking sorted whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from src.metrics import LabelBlocks, Protocol, rank_settings, zero_shot_report
from src.metrics.average_precision import average_precisions
from src.metrics.inputs import check_shapes

CPU = torch.device("cpu")


def average_precision(
    scores: Tensor, targets: Tensor, convention: str = "official", *, ignore_unknown: bool = False
) -> Tensor:
    """The average precision [C] of whole matrices [N, C] in one convention."""
    label, row = (targets == 1).t().nonzero(as_tuple=True)
    both = average_precisions(scores, label, row, targets == -1 if ignore_unknown else None)
    return getattr(both, convention)


def dense_report(
    scores: Tensor,
    targets: Tensor,
    seen: Sequence[int],
    unseen: Sequence[int],
    rows: tuple[Tensor | None, Tensor | None] = (None, None),
    **protocol: Any,
) -> dict[str, float]:
    """The report of whole matrices [N, C] and the images of both settings; further keywords are the protocol's."""
    check_shapes(scores.shape, targets.shape)
    blocks = LabelBlocks(len(scores), CPU, lambda labels: scores[:, labels], lambda labels: targets[:, labels])
    keywords = {"zero_shot_rows": rows[0], "generalized_rows": rows[1]}
    return zero_shot_report(rank_settings(blocks, seen, unseen, Protocol(**protocol), **keywords))


def f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def loop_f1_at_k(scores: Tensor, targets: Tensor, k: int) -> tuple[float, float, float]:
    hits = chosen = positives = 0
    for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        hits += sum(target[c] == 1 for c in best)
        chosen += k
        positives += sum(value == 1 for value in target)
    precision, recall = (hits / chosen if chosen else 0.0), (hits / positives if positives else 0.0)
    return precision, recall, f1(precision, recall)


def loop_average_precision(scores: Sequence[float], targets: Sequence[int], convention: str) -> float:
    """One label: the mean, over its positives, of the precision at their place in the ranking."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    precisions = []
    for place, row in enumerate(order, start=1):
        if targets[row] == 1:
            if convention == "skip":  # all that score as much are let in at once
                let_in = [other for other in order if scores[other] >= scores[row]]
            else:
                let_in = order[:place]
            precisions.append(sum(targets[other] == 1 for other in let_in) / len(let_in))
    if not precisions:
        return 0.0 if convention == "official" else math.nan
    return sum(precisions) / len(precisions)


def sorted_average_precision(scores: Tensor, positive: Tensor, convention: str) -> Tensor:
    """[n, c] -> [c]: a stable sort of every label, a running sum over all of it, and the end of every run of ties."""
    count = scores.shape[0]
    ranked, order = scores.sort(dim=0, descending=True, stable=True)
    relevant = positive.gather(0, order)
    hits = relevant.cumsum(dim=0).double()
    precision = hits / torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    if convention == "skip":
        is_end = torch.ones_like(relevant)
        is_end[:-1] = ranked[1:] != ranked[:-1]
        index = torch.arange(count)[:, None].expand_as(ranked)
        end = torch.where(is_end, index, count).flip(0).cummin(dim=0).values.flip(0)
        precision = precision.gather(0, end)
    epsilon = 1e-8 if convention == "official" else 0
    return (precision * relevant).sum(dim=0) / (hits[-1] + epsilon)


def mean(values: Sequence[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else 0.0


def plain_report(
    scores: Tensor,
    targets: Tensor,
    columns: Sequence[int],
    rows: Sequence[int],
    ks: Sequence[int],
    images: str,
    threshold: float | None,
) -> dict[str, float]:
    """One setting: pick its images and labels first, then every metric by itself."""
    columns = sorted(columns)
    if images == "positive-only":
        rows = [row for row in rows if any(targets[row, column] == 1 for column in columns)]
    scores, targets = scores[rows][:, columns], targets[rows][:, columns]
    positives = int((targets == 1).sum())
    report: dict[str, float] = {
        "num_images": len(rows),
        "num_labels": len(columns),
        "num_labels_with_positive": int((targets == 1).any(dim=0).sum()),
        "num_positives": positives,
        "labels_per_image": positives / len(rows) if len(rows) else 0.0,
    }
    results = {f"@{k}": loop_f1_at_k(scores, targets, k) for k in ks if k <= len(columns)}
    for k in ks:
        if k <= len(columns):
            results[f"ceiling@{k}"] = loop_f1_at_k((targets == 1).float(), targets, k)
    if threshold is not None:
        chosen, hits = int((scores > threshold).sum()), int(((scores > threshold) & (targets == 1)).sum())
        precision, recall = (hits / chosen if chosen else 0.0), (hits / positives if positives else 0.0)
        results["@threshold"] = precision, recall, f1(precision, recall)
    for name, values in results.items():
        before, _, after = name.partition("@")
        for letter, value in zip(("P", "R", "F1"), values, strict=True):
            report[f"{before}{'.' if before else ''}{letter}@{after}"] = 100 * value
    labels = range(len(columns))
    for key, convention in (("mAP", "official"), ("mAP_skip", "skip")):
        each = [loop_average_precision(scores[:, c].tolist(), targets[:, c].tolist(), convention) for c in labels]
        report[key] = 100 * mean(each)
    unknown = targets == -1
    if unknown.any():
        report["num_unknown"] = int(unknown.sum())
        known = [~unknown[:, c] for c in labels]
        each = [
            loop_average_precision(scores[known[c], c].tolist(), targets[known[c], c].tolist(), "skip") for c in labels
        ]
        report["mAP_verified"] = 100 * mean(each)
    return report
