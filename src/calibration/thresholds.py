"""Calibration: per-label thresholds, probabilities, and the bias between seen and unseen labels.

Scores are unbounded dot products, and the loss sees only differences between seen labels of one image: it constrains
neither an image's level nor the level of the unseen labels. Both are removed first:

    r_c = s_c - level(image) + seen_bias * [c unseen]

* level: a quantile of the image's scores over the split's seen labels, which can be computed for any image.
* seen_bias: by :func:`best_seen_bias`, from the ground truth of both sides; or by :func:`level_gap`, where the ground
  truth of unseen labels must not be used or is missing. It applies to a user's own words too.

A label becomes a tag where r_c exceeds its threshold (unseen and rare labels share one), its probability is
sigmoid(slope * r_c + offset), and ranking by r_c is calibrated stacking. All but seen_bias is fitted on the ground
truth of seen labels alone; the images should not be those of training, on which seen labels score too high.
docs/results.md has the measurements behind each choice.

Targets are 1 positive, 0 negative, -1 unknown; unlike in :mod:`src.metrics`, unknown ones are left out (except in
:func:`best_seen_bias`, which maximises a metric).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from src.calibration.platt import fit_platt
from src.metrics import f1_at_k

# A label with n positives has the own threshold (n * best + SHRINKAGE * shared) / (n + SHRINKAGE), with fewer than
# MIN_POSITIVES none. Both values are from cross-validation within halves of Corel5k's test images:
# a best-F1 threshold from a handful of positives is noise, and without shrinkage worse than the shared one.
MIN_POSITIVES = 3
SHRINKAGE = 20.0
# Candidates for an image's level; None is no level. The one with the best F1 is taken: a vocabulary of a few labels
# needs another than one of hundreds, where the 0.97 quantile won.
LEVEL_QUANTILES: tuple[float | None, ...] = (None, 0.5, 0.9, 0.97)
_BLOCK_ELEMENTS = 1 << 23  # working memory, in numbers


@dataclass(frozen=True, eq=False)
class Calibration:
    """Thresholds and probabilities fitted by :func:`fit_calibration`; thresholds apply to :meth:`calibrated` scores.

    Attributes:
        thresholds: [C] float64, the own threshold of each label of the split; NaN for labels without one: not seen in
            training, or rare in the fitting set.
        shared_threshold: of all other labels, including a user's own words.
        level_quantile: quantile of an image's seen scores that is its level; None: no level.
        seen_bias: how much more a seen label scores than an unseen one; 0 where the split has none unseen.
        slope, offset: of Platt scaling; the slope is positive.
        num_images, num_positives: of the fitting set, over seen labels.
    """

    thresholds: Tensor
    shared_threshold: float
    level_quantile: float | None
    seen_bias: float
    slope: float
    offset: float
    num_images: int
    num_positives: int

    def calibrated(self, scores: Tensor, seen_scores: Tensor, is_seen: Tensor) -> Tensor:
        """Map scores [N, K] of any labels to r [N, K], comparable between images and between seen and unseen labels.

        Args:
            scores: [N, K].
            seen_scores: [N, S], the same images' scores of all seen labels of the split, in any order.
            is_seen: [K] bool; False for a user's own words too.
        """
        level = image_level(seen_scores, self.level_quantile)
        # r_c = s_c - level + seen_bias [c unseen]
        return scores - level + self.seen_bias * (~is_seen).to(scores)

    def threshold_of(self, columns: Sequence[int] | Tensor) -> Tensor:
        """Return the float64 thresholds [K] of columns [K] of the split; -1 stands for a word outside the split."""
        index = torch.as_tensor(columns, dtype=torch.int64)
        own = torch.where(index >= 0, self.thresholds[index.clamp(min=0)], math.nan)
        return own.nan_to_num(nan=self.shared_threshold)

    def probability(self, calibrated: Tensor) -> Tensor:
        """Map calibrated scores of any shape to probabilities, which rank as the scores do.

        Compute it for whole [B, C] scores and select afterwards: vectorised exponentials may differ in the last bit
        with the position in memory.
        """
        return torch.sigmoid(self.slope * calibrated + self.offset)  # p = sigmoid(a r + b)

    def stacked(self, scores: Tensor, is_seen: Tensor) -> Tensor:
        """Apply calibrated stacking (Chao et al., ECCV 2016) to scores [N, K]: s_c - seen_bias [c seen].

        The labels of an image then rank as by :meth:`calibrated`.
        """
        return scores - self.seen_bias * is_seen.to(scores)

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and one tensor, which ``torch.load(weights_only=True)`` accepts."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Invert :meth:`to_dict`.

        Raises:
            ValueError: a key is missing or unknown, or a value is out of range.
        """
        made = dict(content)
        if made.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"a calibration of another version, with the keys {list(made)}")
        thresholds, quantile = made["thresholds"], made["level_quantile"]
        numbers = [value for name, value in made.items() if name not in ("thresholds", "level_quantile")]
        if (
            not (isinstance(thresholds, Tensor) and thresholds.ndim == 1 and thresholds.is_floating_point())
            or thresholds.isinf().any()
            or not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
            or not (made["slope"] > 0 and (quantile is None or 0 <= quantile <= 1))
        ):
            raise ValueError("a number of the calibration is missing or out of range")
        return cls(**{**made, "thresholds": thresholds.double()})


def image_level(seen_scores: Tensor, quantile: float | None) -> Tensor:
    """Return the level [N, 1] of images with seen scores [N, S]: the value of rank floor(quantile * (S - 1)), from 0.

    Zeros for None.
    """
    if quantile is None:
        return seen_scores.new_zeros(len(seen_scores), 1)
    return seen_scores.kthvalue(1 + int(quantile * (seen_scores.shape[1] - 1)), dim=1, keepdim=True).values


def fit_calibration(
    scores: Tensor,
    targets: Tensor,
    seen: Sequence[int],
    unseen: Sequence[int],
    *,
    seen_bias: float | None = None,
) -> Calibration:
    """Fit everything on the ground truth of seen labels; that of other labels is not used.

    Args:
        scores, targets: [N, C] over all labels of the split. Images without a known seen label are left out.
        seen, unseen: column indices; labels on neither side are left out.
        seen_bias: from :func:`best_seen_bias`; None takes :func:`level_gap`, which suits seen and unseen labels of
            about the same frequency.

    Raises:
        ValueError: scores are NaN or infinite, or do not rise with the targets; or the seen labels have no known
            positive or no known negative.
    """
    _check_finite(scores)
    columns = torch.as_tensor(seen, dtype=torch.int64)
    rows = (targets[:, columns] != -1).any(dim=1)
    known_scores, seen_targets = scores[rows], targets[rows][:, columns]
    seen_scores = known_scores[:, columns]
    num_positives, num_negatives = int((seen_targets == 1).sum()), int((seen_targets == 0).sum())
    if num_positives == 0 or num_negatives == 0:
        raise ValueError(
            f"nothing to fit: the seen labels have {num_positives} positives and {num_negatives} negatives"
        )
    if seen_bias is None:
        seen_bias = level_gap(seen_scores, known_scores[:, list(unseen)]) if len(unseen) else 0.0
    best_f1, quantile, shared = -1.0, None, 0.0
    for candidate in LEVEL_QUANTILES:
        threshold, f1 = best_shared_threshold(seen_scores - image_level(seen_scores, candidate), seen_targets)
        if f1 > best_f1:
            best_f1, quantile, shared = f1, candidate, threshold
    calibrated = seen_scores - image_level(seen_scores, quantile)
    own, counts = best_f1_thresholds(calibrated, seen_targets)
    shrunk = (counts * own + SHRINKAGE * shared) / (counts + SHRINKAGE)  # t_c = (n_c t_own + k t_shared) / (n_c + k)
    thresholds = torch.full((scores.shape[1],), math.nan, dtype=torch.float64)
    thresholds[columns] = shrunk.masked_fill(counts < MIN_POSITIVES, math.nan).cpu()
    slope, offset = fit_platt(calibrated, seen_targets)
    return Calibration(thresholds, shared, quantile, seen_bias, slope, offset, int(rows.sum()), num_positives)


def _check_finite(scores: Tensor) -> None:
    if not scores.isfinite().all():
        raise ValueError("scores contain NaN or infinity")


def level_gap(seen_scores: Tensor, unseen_scores: Tensor) -> float:
    """Return the median over images of the best seen score [N, S] minus the best unseen one [N, U].

    It is a ``seen_bias`` that needs no ground truth: with it, the best label of half the images is a seen one.
    """
    return float((seen_scores.amax(dim=1) - unseen_scores.amax(dim=1)).double().quantile(0.5))


def best_seen_bias(scores: Tensor, targets: Tensor, seen: Sequence[int], unseen: Sequence[int], *, k: int = 3) -> float:
    """Search the bias with which calibrated stacking has the best generalised F1@k on labelled images.

    Unlike everything else here it uses the ground truth of unseen labels: the right bias depends on their frequency,
    which scores do not show. Candidates are 0 and 21 quantiles of the gap between an image's best seen and best unseen
    score; the first of equally good ones is taken.

    Args:
        scores, targets: [N, C] over all labels of the split; unknown targets count as negative.
        seen, unseen: column indices; labels on neither side are left out.
        k: of F1@k, at most the number of labels.

    Raises:
        ValueError: scores are NaN or infinite.
    """
    _check_finite(scores)
    gaps = (scores[:, list(seen)].amax(dim=1) - scores[:, list(unseen)].amax(dim=1)).double()
    tried = [0.0, *gaps.quantile(torch.linspace(0, 1, 21, dtype=torch.float64, device=gaps.device)).tolist()]
    columns = [*seen, *unseen]
    is_seen = (torch.arange(len(columns)) < len(seen)).to(scores)
    chosen, known = scores[:, columns], targets[:, columns]
    f1 = [f1_at_k(chosen - bias * is_seen, known, min(k, len(columns))).f1 for bias in tried]  # s_c - bias [c seen]
    return tried[f1.index(max(f1))]


def _midway(upper: Tensor, lower: Tensor) -> Tensor:
    """Return the middle of two neighbouring scores; just below the upper one if there is no lower one (-inf)."""
    upper, lower = upper.double(), lower.double()
    return torch.where(lower.isinf(), upper.nextafter(lower), (upper + lower) / 2)


def best_f1_thresholds(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Find the threshold of best F1 for every label, in closed form over the sorted scores.

    The highest of equally good ones is taken; equal scores are never separated.

    Args:
        scores, targets: [N, C], N at least 1.

    Returns:
        ([C] float64 thresholds, NaN for a label without positives; [C] numbers of positives).
    """
    step = max(1, _BLOCK_ELEMENTS // max(1, len(scores)))
    thresholds = [
        _best_f1_block(*block) for block in zip(scores.split(step, dim=1), targets.split(step, dim=1), strict=True)
    ]
    return torch.cat(thresholds), (targets == 1).sum(dim=0)


def _best_f1_block(scores: Tensor, targets: Tensor) -> Tensor:
    ranked, order = scores.masked_fill(targets == -1, -torch.inf).sort(dim=0, descending=True)
    hits = (targets == 1).gather(0, order).cumsum(dim=0)
    lower = pad(ranked[1:], (0, 0, 0, 1), value=-torch.inf)
    rank = torch.arange(1, len(ranked) + 1, device=ranked.device).unsqueeze(1)
    f1 = 2 * hits.double() / (rank + hits[-1])  # F1 = 2 TP / (predicted + positives)
    best = f1.masked_fill(ranked == lower, -1.0).argmax(dim=0, keepdim=True)  # the first of equals
    found = _midway(ranked.gather(0, best), lower.gather(0, best))[0]
    return found.masked_fill(hits[-1] == 0, math.nan)


def best_shared_threshold(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Find the one threshold of best micro-F1 over all known pairs of [N, C], with a positive; return it and that F1.

    Only the score of a positive can be the lowest one kept, so pairs are counted between those scores, not sorted. The
    highest of equally good thresholds is taken.
    """
    lowest, positives_at = scores[targets == 1].unique(return_counts=True)  # [K] ascending
    known = scores[targets != -1]
    # [K + 1] numbers of pairs: those below all of ``lowest``, then those from each of it up to the next
    pairs_at = torch.bincount(torch.searchsorted(lowest, known, right=True, out_int32=True), minlength=len(lowest) + 1)
    hits, predicted = positives_at.flip(0).cumsum(0), pairs_at[1:].flip(0).cumsum(0)  # by descending score
    f1 = 2 * hits.double() / (predicted + hits[-1])  # F1 = 2 TP / (predicted + positives)
    upper = lowest.flip(0)[f1.argmax()]
    below = known.masked_fill(known >= upper, -torch.inf).amax()
    return float(_midway(upper, below)), float(f1.max())
