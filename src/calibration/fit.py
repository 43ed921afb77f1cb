"""Fitting a calibration on one part of the evaluation images, and measuring it on the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from src.calibration.platt import Reliability, reliability
from src.calibration.thresholds import Calibration, best_seen_bias, fit_calibration
from src.choices import SeenBias
from src.data.split import ZeroShotSplit
from src.errors import UserError
from src.metrics import PrecisionRecall, f1_at_k, f1_of_choice
from src.scoring import score_labels


@dataclass(frozen=True)
class FittedCalibration:
    """A calibration, and what it is worth on images that it was not fitted on.

    Attributes:
        calibration: what was fitted.
        metrics: in percent, by name: ``seen.F1@5`` and ``seen.F1@fitted`` (the same for ``unseen`` and
            ``generalized``), ``generalized.F1@3`` before and ``generalized.stacked_F1@3`` after calibrated stacking,
            ``seen.ECE`` and ``unseen.ECE`` of the probabilities; and the numbers of images.
        curve: the reliability of the seen labels' probabilities.
    """

    calibration: Calibration
    metrics: dict[str, float]
    curve: Reliability


def fit_and_measure(
    embeddings: Tensor,
    targets: Tensor,
    split: ZeroShotSplit,
    *,
    share: float = 0.5,
    seed: int = 0,
    bias: SeenBias = "labels",
) -> FittedCalibration:
    """Fit on a random part of the images and measure on the rest.

    Args:
        embeddings: [N, D*M].
        targets: [N, C], 1 positive, 0 negative, -1 unknown.
        split: C labels; the ground truth of unseen ones decides the bias, and nothing else that is fitted.
        share: of the images, to fit on.
        seed: of the division.
        bias: how much seen labels lose: by the ``labels`` of the fitting images (:func:`best_seen_bias`), or by the
            ``gap`` between the two sides' scores, which looks at no unseen label's ground truth.

    Raises:
        UserError: a part has no positive seen label, or scores do not rise with the labels.
    """
    order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(seed))
    count = round(share * len(order))
    fitting, rest = order[:count].sort().values, order[count:].sort().values
    scores = score_labels(embeddings, split.word_vectors)
    seen, unseen = list(split.seen), list(split.unseen)
    for part, rows in (("to fit on", fitting), ("to measure on", rest)):
        if not (targets[rows][:, seen] == 1).any():
            raise UserError(
                f"--fit-thresholds: none of the {len(rows)} images {part} has a seen label; give more labelled ones"
            )
    if unseen and bias == "labels" and not (targets[fitting][:, unseen] == 1).any():
        raise UserError(
            "--fit-bias labels: the images to fit on have no unseen label; give --fit-bias gap, or more images"
        )
    try:
        best = best_seen_bias(scores[fitting], targets[fitting], seen, unseen) if unseen and bias == "labels" else None
        calibration = fit_calibration(scores[fitting], targets[fitting], seen, unseen, seen_bias=best)
    except ValueError as error:
        raise UserError(f"--fit-thresholds: {error}") from error
    metrics, curve = _measure(calibration, scores[rest], targets[rest], split)
    sizes = {"num_fitted_on": float(len(fitting)), "num_measured_on": float(len(rest))}
    return FittedCalibration(calibration, {**sizes, **metrics}, curve)


def _measure(
    calibration: Calibration, scores: Tensor, targets: Tensor, split: ZeroShotSplit
) -> tuple[dict[str, float], Reliability]:
    is_seen = torch.zeros(len(split.labels), dtype=torch.bool)
    is_seen[list(split.seen)] = True
    calibrated = calibration.calibrated(scores, scores[:, is_seen], is_seen)
    chosen = calibrated > calibration.threshold_of(range(len(split.labels)))
    probabilities = calibration.probability(calibrated)
    metrics: dict[str, float] = {}

    def add(name: str, result: PrecisionRecall) -> None:
        metrics[name] = 100 * result.f1

    sides = {"seen": list(split.seen), "unseen": list(split.unseen), "generalized": [*split.seen, *split.unseen]}
    for side, columns in sides.items():
        if not columns or not (targets[:, columns] == 1).any():
            continue
        for k in (k for k in (3, 5) if k <= len(columns)):
            add(f"{side}.F1@{k}", f1_at_k(scores[:, columns], targets[:, columns], k))
        add(f"{side}.F1@fitted", f1_of_choice(chosen[:, columns], targets[:, columns]))
        if side != "generalized":
            metrics[f"{side}.ECE"] = 100 * reliability(probabilities[:, columns], targets[:, columns]).error
        elif split.unseen:
            stacked = calibration.stacked(scores, is_seen)
            for k in (k for k in (3, 5) if k <= len(columns)):
                add(f"{side}.stacked_F1@{k}", f1_at_k(stacked[:, columns], targets[:, columns], k))
    return metrics, reliability(probabilities[:, is_seen], targets[:, is_seen])


def format_fit(fitted: FittedCalibration) -> str:
    """What was measured, as a table."""
    metrics = fitted.metrics
    lines = [
        f"calibration fitted on {metrics['num_fitted_on']:.0f} images, measured on the other "
        f"{metrics['num_measured_on']:.0f} (micro-F1 in percent):",
        f"  {'labels':<12}{'top 3':>8}{'top 5':>8}{'fitted thresholds':>20}{'stacked top 3':>16}{'stacked top 5':>16}",
    ]
    for side, title in (("seen", "seen"), ("unseen", "unseen"), ("generalized", "both")):
        if f"{side}.F1@fitted" in metrics:
            names = ("F1@3", "F1@5", "F1@fitted", "stacked_F1@3", "stacked_F1@5")
            cells = [f"{metrics[f'{side}.{name}']:.2f}" if f"{side}.{name}" in metrics else "-" for name in names]
            widths = (8, 8, 20, 16, 16)
            lines.append(f"  {title:<12}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)))
    errors = [f"{side} {metrics[f'{side}.ECE']:.2f}" for side in ("seen", "unseen") if f"{side}.ECE" in metrics]
    lines.append(f"  expected calibration error of the probabilities, in points: {', '.join(errors)}")
    lines.append(f"  stacking takes {fitted.calibration.seen_bias:.3f} off the scores of seen labels")
    return "\n".join(lines)
