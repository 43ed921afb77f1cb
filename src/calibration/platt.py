"""Platt scaling of scores to probabilities, and the reliability of probabilities.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999), with the smoothed targets that keep few positives
from giving overconfident probabilities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def fit_platt(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Fit slope a and offset b of p = sigmoid(a s + b) by maximum likelihood, one pair for all of [N, C].

    Args:
        scores: [N, C].
        targets: [N, C]: 1 positive, 0 negative, -1 unknown, which is left out; there are positives and negatives.

    Raises:
        ValueError: scores do not rise with the targets (a <= 0).
    """
    known = targets != -1
    positive = targets[known] == 1
    x = scores[known].double()
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    # Platt's targets: (P + 1) / (P + 2) for positives, 1 / (N + 2) for negatives
    aim = torch.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2)).double()
    center, scale = x.mean(), x.std().clamp(min=1e-12)
    z = (x - center) / scale  # so that scale and shift of the scores do not matter to the optimiser
    parameters = torch.tensor([0.0, float(aim.mean().logit())], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def negative_log_likelihood() -> Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(parameters[0] * z + parameters[1], aim)
        loss.backward()
        return loss

    optimizer.step(negative_log_likelihood)
    slope, offset = parameters.tolist()
    if slope <= 0:
        raise ValueError("scores do not rise with the targets: a higher score does not mean a likelier label")
    return slope / float(scale), offset - slope * float(center / scale)


class Reliability(NamedTuple):
    """Probabilities in bins of equal width; empty bins are left out.

    Attributes:
        predicted: [B] mean probability.
        observed: [B] share of positives.
        counts: [B].
        error: the expected calibration error, sum_b n_b / n |observed_b - predicted_b|.
    """

    predicted: Tensor
    observed: Tensor
    counts: Tensor
    error: float


def reliability(probabilities: Tensor, targets: Tensor, bins: int = 10) -> Reliability:
    """Compare predicted probabilities with observed frequencies, bin by bin.

    Args:
        probabilities: any shape, from 0 to 1.
        targets: the same shape: 1 positive, 0 negative, -1 unknown, which is left out; at least one is known.
        bins: their number.
    """
    known = targets != -1
    p, right = probabilities[known].double(), (targets[known] == 1).double()
    place = (p * bins).long().clamp(max=bins - 1)
    counts = torch.bincount(place, minlength=bins)
    filled = counts > 0
    predicted, observed = (
        (torch.bincount(place, weights=values, minlength=bins) / counts)[filled] for values in (p, right)
    )
    counts = counts[filled]
    return Reliability(predicted, observed, counts, float((counts * (observed - predicted).abs()).sum() / len(p)))
