"""How a calibration is fitted; free of PyTorch, so that flags are parsed at once."""

from __future__ import annotations

from dataclasses import dataclass

from src.choices import SeenBias


@dataclass(frozen=True)
class FitOptions:
    """How a calibration is fitted and measured.

    Attributes:
        share: of the images to fit on; the rest is measured on.
        seed: of the random division of the images.
        bias: what sets the bias of seen labels: the ``labels`` of the fitting images, unseen ones included
            (:func:`src.calibration.thresholds.best_seen_bias`), or the ``gap`` between the scores of both sides, which
            uses no ground truth of unseen labels (:func:`src.calibration.thresholds.level_gap`).
    """

    share: float = 0.5
    seed: int = 0
    bias: SeenBias = "labels"
