"""Scores as probabilities: Platt scaling, and how far probabilities can be believed.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999), with the smoothed targets that keep few positives
from promising too much, by Newton's method on the two numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

_MAX_NEWTON_STEPS = 100


def fit_platt(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Slope a and offset b of p = sigmoid(a s + b), one pair for all of [N, C], fitted by maximum likelihood.

    Args:
        scores: [N, C].
        targets: [N, C]: 1 positive, 0 negative, -1 unknown, which takes no part.

    Raises:
        ValueError: there is no positive or no negative, or scores do not rise with the targets (a <= 0).
    """
    known = targets != -1
    positive = targets[known] == 1
    x = scores[known].double()
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if num_positive == 0 or num_negative == 0:
        raise ValueError(f"nothing to fit: {num_positive} positives and {num_negative} negatives")
    # Platt's targets: (P + 1) / (P + 2) for positives, 1 / (N + 2) for negatives
    aim = torch.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2)).double()
    center, scale = x.mean(), x.std().clamp(min=1e-12)
    z = (x - center) / scale  # so that one step size suits both numbers
    slope, offset = 0.0, float(torch.logit(aim.mean()))
    loss = _negative_log_likelihood(z, aim, slope, offset)
    for _ in range(_MAX_NEWTON_STEPS):
        p = torch.sigmoid(slope * z + offset)
        weight, error = p * (1 - p), p - aim
        gradient = torch.stack([(error * z).sum(), error.sum()])
        curvature = torch.stack([(weight * z * z).sum(), (weight * z).sum(), weight.sum()])
        hessian = torch.stack([curvature[:2], curvature[1:]]) + 1e-12 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(hessian, gradient).tolist()
        length = 1.0
        while length > 1e-10:  # halve the step until it does not lead uphill
            tried = slope - length * step[0], offset - length * step[1]
            new_loss = _negative_log_likelihood(z, aim, *tried)
            if new_loss <= loss:
                break
            length /= 2
        else:
            break
        improvement, loss = loss - new_loss, new_loss
        slope, offset = tried
        if improvement < 1e-10 * max(loss, 1.0):
            break
    if slope <= 0:
        raise ValueError("scores do not rise with the targets: nothing says that a higher score is a likelier label")
    return slope / float(scale), offset - slope * float(center / scale)


def _negative_log_likelihood(x: Tensor, aim: Tensor, slope: float, offset: float) -> float:
    logit = slope * x + offset
    return float((softplus(logit) - aim * logit).sum())  # -sum [t log p + (1 - t) log(1 - p)]


class Reliability(NamedTuple):
    """Probabilities in bins of equal width; bins without any are left out.

    Attributes:
        predicted: [B] mean probability.
        observed: [B] share that is right.
        counts: [B].
        error: the expected calibration error, sum_b n_b / n |observed_b - predicted_b|.
    """

    predicted: Tensor
    observed: Tensor
    counts: Tensor
    error: float


def reliability(probabilities: Tensor, targets: Tensor, bins: int = 10) -> Reliability:
    """How often what is 70% sure is right.

    Args:
        probabilities: any shape, from 0 to 1.
        targets: the same shape: 1 positive, 0 negative, -1 unknown, which takes no part.
        bins: their number.

    Raises:
        ValueError: shapes differ, a probability is out of range, or nothing is known.
    """
    if probabilities.shape != targets.shape:
        raise ValueError(f"shapes differ: {tuple(probabilities.shape)} and {tuple(targets.shape)}")
    known = targets != -1
    p, right = probabilities[known].double(), (targets[known] == 1).double()
    if len(p) == 0 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities must be from 0 to 1, at least one of a known target")
    place = (p * bins).long().clamp(max=bins - 1)
    counts = torch.bincount(place, minlength=bins)
    predicted, observed = (
        torch.zeros(bins, dtype=torch.float64).index_add(0, place, values) / counts.clamp(min=1)
        for values in (p, right)
    )
    error = float((counts * (observed - predicted).abs()).sum() / len(p))
    filled = counts > 0
    return Reliability(predicted[filled], observed[filled], counts[filled], error)
