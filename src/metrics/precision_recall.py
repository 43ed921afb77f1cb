"""Micro precision, recall and F1 of the k best labels, or of given ones.

Every function takes ``scores`` [N, C] (float) and ``targets`` [N, C] (1 positive, anything else not).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from src.metrics.inputs import check_shapes
from src.scoring import top_k_labels


class PrecisionRecall(NamedTuple):
    """Micro-averaged precision, recall and F1, each between 0 and 1."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of_counts(cls, hits: int, chosen: int, positives: int) -> PrecisionRecall:
        """P = hits / chosen, R = hits / positives, F1 = 2 P R / (P + R). Zeros where a denominator is 0."""
        precision, recall = ratio(hits, chosen), ratio(hits, positives)
        return cls(precision, recall, ratio(2 * precision * recall, precision + recall))


class BestLabels(NamedTuple):
    """The k best labels of some rows, best first: scores, indices, and which are positive; each [b, k]."""

    scores: Tensor
    labels: Tensor
    relevant: Tensor


def ratio(part: float, whole: float) -> float:
    """``part / whole``, 0 where there is nothing."""
    return part / whole if whole else 0.0


def best_labels(
    scores: Tensor, positive: Tensor, k: int, before: BestLabels | None = None, first: int = 0
) -> BestLabels:
    """Find the k best labels of every row; among equal scores the label with the lower index comes first.

    Args:
        scores: [b, c].
        positive: [b, c] bool.
        k: at least 1; where there are fewer labels than k, all are taken.
        before: the best among labels with lower indices, which these labels join.
        first: the index of the first of these labels.

    Raises:
        ValueError: k is below 1, or a score is NaN.
    """
    best, labels = top_k_labels(scores, min(k, scores.shape[1]))
    relevant = positive.gather(1, labels)
    if before is None:
        return BestLabels(best, labels + first, relevant)
    # Both lists have equal scores by ascending label, and the first list has the lower labels: place orders as label.
    best, labels, relevant = (
        torch.cat(both, dim=1) for both in zip(before, (best, labels + first, relevant), strict=True)
    )
    best, places = top_k_labels(best, min(k, best.shape[1]))
    return BestLabels(best, labels.gather(1, places), relevant.gather(1, places))


def f1_at_k(scores: Tensor, targets: Tensor, k: int) -> PrecisionRecall:
    """Compute micro precision, recall and F1 over the k best labels of each row, the measure of this literature.

    Pooled over all rows: P = hits / (N k), R = hits / (number of positives), hence K * P / R = mean labels a row. Ties
    at the k-th place go to the label with the lower index.

    Args:
        scores, targets: [N, C].
        k: 1 <= k <= C.

    Returns:
        Zeros where a denominator is 0 (no rows, or no positives).

    Raises:
        ValueError: shapes differ, k is out of range, or a score is NaN.
    """
    check_shapes(scores.shape, targets.shape)
    if k > scores.shape[1]:
        raise ValueError(f"k must be between 1 and the number of labels {scores.shape[1]}, got {k}")
    positive = targets == 1
    hits = best_labels(scores, positive, k).relevant.sum()
    return PrecisionRecall.of_counts(int(hits), scores.shape[0] * k, int(positive.sum()))


def best_possible_f1_at_k(positives: Tensor, k: int) -> PrecisionRecall:
    """Compute the ceiling of :func:`f1_at_k`: the result of a perfect ranking.

    It is below 1, since k rarely equals the number of labels.

    Args:
        positives: [N], the number of positive labels of every row.
        k: at least 1.
    """
    return PrecisionRecall.of_counts(int(positives.clamp(max=k).sum()), len(positives) * k, int(positives.sum()))


def f1_of_choice(chosen: Tensor, targets: Tensor) -> PrecisionRecall:
    """Compute micro precision, recall and F1 of the labels ``chosen`` [N, C] bool; zeros where a denominator is 0."""
    check_shapes(chosen.shape, targets.shape)
    positive = targets == 1
    return PrecisionRecall.of_counts(int((chosen & positive).sum()), int(chosen.sum()), int(positive.sum()))
