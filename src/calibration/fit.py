"""Fit a calibration on one part of the evaluation images, and measure it on the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from src.calibration.platt import Reliability, reliability
from src.calibration.thresholds import Calibration, best_seen_bias, fit_calibration
from src.data.parts import GroundTruth
from src.data.split import ZeroShotSplit
from src.errors import UserError
from src.metrics import Protocol, f1_of_choice, ranking_report, select_images
from src.metrics.table import align
from src.options import FitOptions
from src.scoring import score_labels


@dataclass(frozen=True)
class FittedCalibration:
    """A calibration, and its metrics on images that it was not fitted on.

    Attributes:
        calibration: what was fitted.
        protocol: which images the F1 of each side counts, and the K.
        metrics: in percent, by name. For each side, ``seen``, ``unseen`` and ``generalized``: ``seen.F1@K`` of the K
            best labels, ``seen.F1@fitted`` of those above their thresholds, and the number of images that count,
            ``seen.num_images``; ``generalized.stacked_F1@K`` after calibrated stacking; ``seen.ECE`` and ``unseen.ECE``
            of the probabilities of all measured images; ``num_fitted_on`` and ``num_measured_on``.
        curve: the reliability of the seen labels' probabilities on all measured images.
    """

    calibration: Calibration
    protocol: Protocol
    metrics: dict[str, float]
    curve: Reliability


def fit_and_measure(
    embeddings: Tensor, split: ZeroShotSplit, truth: GroundTruth, options: FitOptions, protocol: Protocol
) -> FittedCalibration:
    """Fit on a random part of the images and measure on the rest.

    The fit uses all images of its part. Measured are, as in :func:`src.evaluation.evaluate`, the images of each side's
    setting that count under the protocol.

    Args:
        embeddings: [N, D*M].
        split: C labels; the ground truth of unseen ones sets the bias, and nothing else that is fitted.
        truth: targets [N, C], and the images of each setting.
        options: the division of the images, and how the bias is set.
        protocol: of the measured F1.

    Raises:
        UserError: a part has no positive seen label, or scores do not rise with the labels.
    """
    order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(options.seed))
    fitting, rest = (part.sort().values for part in order.tensor_split([round(options.share * len(order))]))
    scores = score_labels(embeddings, split.word_vectors)
    targets = truth.select_rows(fitting).dense()
    measured = truth.select_rows(rest)
    _check_positives(targets, measured.dense(), split, options)
    try:
        bias = None
        if split.unseen and options.bias == "labels":
            bias = best_seen_bias(scores[fitting], targets, split.seen, split.unseen)
        calibration = fit_calibration(scores[fitting], targets, split.seen, split.unseen, seen_bias=bias)
    except ValueError as error:
        raise UserError(f"--fit-thresholds: {error}") from error
    metrics, curve = _measure(calibration, split, scores[rest], measured, protocol)
    sizes = {"num_fitted_on": len(fitting), "num_measured_on": len(rest)}
    return FittedCalibration(calibration, protocol, {**sizes, **metrics}, curve)


def _check_positives(fitting: Tensor, rest: Tensor, split: ZeroShotSplit, options: FitOptions) -> None:
    """Raise UserError where a part of the targets [n, C] has no positive label that it needs."""
    for part, targets in (("to fit on", fitting), ("to measure on", rest)):
        if not (targets[:, split.seen] == 1).any():
            raise UserError(
                f"--fit-thresholds: none of the {len(targets)} images {part} has a seen label; give more labelled ones"
            )
    if split.unseen and options.bias == "labels" and not (fitting[:, split.unseen] == 1).any():
        raise UserError(
            "--fit-bias labels: the images to fit on have no unseen label; give --fit-bias gap, or more images"
        )


def _measure(
    calibration: Calibration, split: ZeroShotSplit, scores: Tensor, truth: GroundTruth, protocol: Protocol
) -> tuple[dict[str, float], Reliability]:
    """Measure a calibration on images with these scores [n, C]; return metrics and the curve of the seen labels."""
    targets = truth.dense()
    is_seen = torch.zeros(len(split.labels), dtype=torch.bool)
    is_seen[list(split.seen)] = True
    calibrated = calibration.calibrated(scores, scores[:, is_seen], is_seen)
    chosen = calibrated > calibration.threshold_of(range(len(split.labels)))
    probabilities, stacked = calibration.probability(calibrated), calibration.stacked(scores, is_seen)
    metrics: dict[str, float] = {}
    for side, labels, setting_rows in (
        ("seen", split.seen, truth.generalized_rows),
        ("unseen", split.unseen, truth.zero_shot_rows),
        ("generalized", (*split.seen, *split.unseen), truth.generalized_rows),
    ):
        columns = sorted(labels)
        if not columns or not (targets[:, columns] == 1).any():
            continue
        rows = torch.arange(len(targets)) if setting_rows is None else setting_rows
        rows = rows[select_images(targets[rows][:, columns], protocol.images)]
        of_side = targets[rows][:, columns]
        report = ranking_report(scores[rows][:, columns], of_side, protocol)
        f1_names = [name for name in report if name.startswith("F1@") and name != "F1@threshold"]
        metrics |= {f"{side}.{name}": report[name] for name in ("num_images", *f1_names)}
        if side == "generalized" and split.unseen:
            report = ranking_report(stacked[rows][:, columns], of_side, protocol)
            metrics |= {f"{side}.stacked_{name}": report[name] for name in f1_names}
        metrics[f"{side}.F1@fitted"] = 100 * f1_of_choice(chosen[rows][:, columns], of_side).f1
        if side != "generalized":
            metrics[f"{side}.ECE"] = 100 * reliability(probabilities[:, columns], targets[:, columns]).error
    return metrics, reliability(probabilities[:, is_seen], targets[:, is_seen])


def format_fit(fitted: FittedCalibration) -> str:
    """Format the metrics as a table that names its protocol; about stacking only where labels are unseen."""
    metrics, ks = fitted.metrics, fitted.protocol.ks
    stacks = any("stacked" in name for name in metrics)
    columns = {
        "images": "num_images",
        **{f"top {k}": f"F1@{k}" for k in ks},
        "fitted thresholds": "F1@fitted",
        **{f"stacked top {k}": f"stacked_F1@{k}" for k in ks if stacks},
    }
    rows = [["labels", *columns]]
    for side, name in (("seen", "seen"), ("unseen", "unseen"), ("generalized", "both")):
        if f"{side}.F1@fitted" in metrics and (side != "generalized" or stacks):
            values = [metrics.get(f"{side}.{key}") for key in columns.values()]
            cells = ["-" if value is None else f"{value:.2f}" for value in values]
            rows.append([name, f"{metrics[f'{side}.num_images']:.0f}", *cells[1:]])
    errors = [f"{side} {metrics[f'{side}.ECE']:.2f}" for side in ("seen", "unseen") if f"{side}.ECE" in metrics]
    lines = [
        *align(rows),
        f"protocol: {fitted.protocol.images}; micro-F1 in percent",
        f"expected calibration error of the probabilities of all measured images, in points: {', '.join(errors)}",
    ]
    if stacks:
        lines.append(f"stacking subtracts {fitted.calibration.seen_bias:.3f} from the scores of seen labels")
    fitting, rest = metrics["num_fitted_on"], metrics["num_measured_on"]
    return "\n  ".join([f"calibration fitted on {fitting:.0f} images, measured on the other {rest:.0f}", *lines])
