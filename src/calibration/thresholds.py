"""Calibration: when is a score high enough, how likely is the label, and how do unseen labels compare with seen ones?

Scores are unbounded dot products, and the loss sees only differences between labels of one image, only among seen
labels: neither an image's level nor the level of the unseen labels is trained. Both are taken out first:

    r_c = s_c - level(image) + seen_bias * [c unseen]

* level: a quantile of the image's scores over the split's seen labels, which are at hand for any image.
* seen_bias: by :func:`best_seen_bias`, with the ground truth of both sides; or, where that of unseen labels may not be
  looked at or is not there, by :func:`level_gap`. It applies to a user's own words too.

A tag is kept where r_c exceeds the label's threshold (unseen labels and rare ones share one), its probability is
sigmoid(slope * r_c + offset), and ranking by r_c is calibrated stacking. All but seen_bias is fitted on the ground
truth of seen labels alone; the images should not be those of training, on which seen labels score too high. What each
choice was measured against stands in docs/results.md.

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

# Both by cross-validation within halves of Corel5k's test images. A label's best-F1 threshold from a handful of
# positives is noise: without shrinkage it does worse than the shared one.
MIN_POSITIVES = 3
SHRINKAGE = 20.0
# What the level of an image may be; None is no level. The one with the best F1 is taken: a vocabulary of a few labels
# needs another than one of hundreds, where the 0.97 quantile won.
LEVEL_QUANTILES: tuple[float | None, ...] = (None, 0.5, 0.9, 0.97)
_BLOCK_ELEMENTS = 1 << 23  # working memory, in numbers


@dataclass(frozen=True, eq=False)
class Calibration:
    """What :func:`fit_calibration` found; every threshold is one of :meth:`calibrated` scores.

    Attributes:
        thresholds: [C] float64, the own threshold of each label of the split; NaN where it has none: not seen in
            training, or rare in the fitting set.
        shared_threshold: that of all others, a user's own words included.
        level_quantile: which quantile of its seen scores is an image's level; None: no level.
        seen_bias: how much more a seen label scores than an unseen one; 0 where the split has none unseen.
        slope, offset: Platt's; the slope is positive.
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
        """Scores [N, K] of any labels -> r [N, K], comparable between images and between seen and unseen labels.

        Args:
            scores: [N, K].
            seen_scores: [N, S], the same images' scores of all seen labels of the split, in any order.
            is_seen: [K] bool; false also for a user's own words.
        """
        level = image_level(seen_scores, self.level_quantile)
        # r_c = s_c - level + seen_bias [c unseen]
        return scores - level + self.seen_bias * (~is_seen).to(scores)

    def threshold_of(self, columns: Sequence[int] | Tensor) -> Tensor:
        """[K] columns of the split, -1 for a word that it does not have -> [K] float64 thresholds."""
        index = torch.as_tensor(columns, dtype=torch.int64)
        own = torch.where(index >= 0, self.thresholds[index.clamp(min=0)], math.nan)
        return own.nan_to_num(nan=self.shared_threshold)

    def probability(self, calibrated: Tensor) -> Tensor:
        """Calibrated scores, any shape -> probabilities; the order stays."""
        return torch.sigmoid(self.slope * calibrated + self.offset)  # p = sigmoid(a r + b)

    def stacked(self, scores: Tensor, is_seen: Tensor) -> Tensor:
        """Calibrated stacking (Chao et al., ECCV 2016): s_c - seen_bias [c seen].

        Scores [N, K] and is_seen [K] -> [N, K]. It ranks the labels of an image as :meth:`calibrated` does.
        """
        return scores - self.seen_bias * is_seen.to(scores)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and one tensor, as ``torch.load(weights_only=True)`` admits."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a key is missing or unknown, or a value is none that :func:`fit_calibration` gives.
        """
        names = {field.name for field in fields(cls)}
        if set(content) != names:
            raise ValueError(f"a calibration has the keys {sorted(names)}, this one has {sorted(map(str, content))}")
        thresholds, quantile = content["thresholds"], content["level_quantile"]
        if not isinstance(thresholds, Tensor) or thresholds.ndim != 1 or thresholds.isinf().any():
            raise ValueError("a calibration's thresholds must be a tensor [C] of numbers or NaN")
        for name in names - {"thresholds", *(("level_quantile",) if quantile is None else ())}:
            if not isinstance(content[name], (int, float)) or not math.isfinite(content[name]):
                raise ValueError(f"a calibration's {name} must be a number, got {content[name]!r}")
        if content["slope"] <= 0 or not (quantile is None or 0 <= quantile <= 1):
            raise ValueError(f"slope {content['slope']} must be positive, level_quantile {quantile} from 0 to 1")
        return cls(**{**content, "thresholds": thresholds.double()})


def image_level(seen_scores: Tensor, quantile: float | None) -> Tensor:
    """[N, S] -> [N, 1]: each row's value of rank floor(quantile * (S - 1)), ascending from 0; zeros for None."""
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
    min_positives: int = MIN_POSITIVES,
    shrinkage: float = SHRINKAGE,
) -> Calibration:
    """Fit everything on the ground truth of seen labels; that of others is not looked at.

    Args:
        scores, targets: [N, C] over all labels of the split. Images without a known seen label take no part.
        seen, unseen: column indices; labels on neither side take no part.
        seen_bias: what is known to be best (:func:`best_seen_bias`); None takes :func:`level_gap`, which is right where
            seen and unseen labels are about as frequent.
        min_positives: labels with fewer of them get no own threshold.
        shrinkage: an own threshold is (n * best-F1 threshold + shrinkage * shared threshold) / (n + shrinkage), where
            n is the label's number of positives.

    Raises:
        ValueError: shapes, columns or values are wrong; the seen labels have no known positive or no known negative;
            or scores do not rise with the targets.
    """
    _check(scores, targets, seen, unseen)
    if min_positives < 1 or not shrinkage >= 0:
        raise ValueError(f"min_positives must be at least 1, shrinkage at least 0: {min_positives}, {shrinkage}")
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
    f1, quantile, shared = -1.0, None, 0.0
    for candidate in LEVEL_QUANTILES:
        found = best_shared_threshold(seen_scores - image_level(seen_scores, candidate), seen_targets)
        if found[1] > f1:
            (shared, f1), quantile = found, candidate
    calibrated = seen_scores - image_level(seen_scores, quantile)
    own, counts = best_f1_thresholds(calibrated, seen_targets)
    # t_c = (n_c t_own + k t_shared) / (n_c + k)
    shrunk = (counts * own + shrinkage * shared) / (counts + shrinkage)
    thresholds = torch.full((scores.shape[1],), math.nan, dtype=torch.float64)
    thresholds[columns] = shrunk.masked_fill(counts < min_positives, math.nan).cpu()
    slope, offset = fit_platt(calibrated, seen_targets)
    return Calibration(thresholds, shared, quantile, seen_bias, slope, offset, int(rows.sum()), num_positives)


def _check(scores: Tensor, targets: Tensor, seen: Sequence[int] = (), unseen: Sequence[int] = ()) -> None:
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores and targets must be [N, C], got {tuple(scores.shape)} and {tuple(targets.shape)}")
    if not scores.isfinite().all():
        raise ValueError("scores contain NaN or infinity")
    if not ((targets == 1) | (targets == 0) | (targets == -1)).all():
        raise ValueError("targets must be 1, 0 or -1")
    columns = [*seen, *unseen]
    if len(set(columns)) < len(columns) or not all(0 <= column < scores.shape[1] for column in columns):
        raise ValueError(f"seen and unseen must be columns from 0 to {scores.shape[1] - 1}, each listed once")


def level_gap(seen_scores: Tensor, unseen_scores: Tensor) -> float:
    """[N, S], [N, U] -> the median over images of best seen minus best unseen score, a ``seen_bias`` without truth.

    With it, the best label of half the images is a seen one.
    """
    return float((seen_scores.amax(dim=1) - unseen_scores.amax(dim=1)).double().quantile(0.5))


def best_seen_bias(scores: Tensor, targets: Tensor, seen: Sequence[int], unseen: Sequence[int], *, k: int = 3) -> float:
    """The bias by which calibrated stacking has the best generalised F1@k on labelled images.

    Unlike all else here it looks at the ground truth of unseen labels: how frequent they are decides how much seen
    labels must lose, and scores do not tell. Tried are 0 and 21 quantiles of the gap between an image's best seen and
    best unseen score; of several best ones the first counts.

    Args:
        scores, targets: [N, C] over all labels of the split; unknown targets count as absent.
        seen, unseen: column indices; labels on neither side take no part.
        k: of F1@k; at most as many labels as there are.

    Raises:
        ValueError: shapes, columns or values are wrong, a side has no label, or there is no image.
    """
    _check(scores, targets, seen, unseen)
    if len(seen) == 0 or len(unseen) == 0 or len(scores) == 0:
        raise ValueError("a bias between seen and unseen labels needs labels on both sides, and images")
    gaps = (scores[:, list(seen)].amax(dim=1) - scores[:, list(unseen)].amax(dim=1)).double()
    tried = [0.0, *gaps.quantile(torch.linspace(0, 1, 21, dtype=torch.float64, device=gaps.device)).tolist()]
    columns = [*seen, *unseen]
    is_seen = (torch.arange(len(columns)) < len(seen)).to(scores)
    chosen, known = scores[:, columns], targets[:, columns]
    f1 = [f1_at_k(chosen - bias * is_seen, known, min(k, len(columns))).f1 for bias in tried]  # s_c - bias [c seen]
    return tried[f1.index(max(f1))]


def _midway(upper: Tensor, lower: Tensor) -> Tensor:
    """Between two neighbouring scores; just below the upper one where there is no lower one (-inf)."""
    upper, lower = upper.double(), lower.double()
    return torch.where(lower.isinf(), upper.nextafter(lower), (upper + lower) / 2)


def best_f1_thresholds(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The threshold of best F1 for every label, in closed form over the sorted scores.

    Of several best ones the highest is taken; equal scores are never parted.

    Args:
        scores, targets: [N, C].

    Returns:
        ([C] float64 thresholds, NaN for a label without positives; [C] numbers of positives).

    Raises:
        ValueError: shapes or values are wrong.
    """
    _check(scores, targets)
    step = max(1, _BLOCK_ELEMENTS // max(1, len(scores)))
    thresholds = [
        _best_f1_block(*block) for block in zip(scores.split(step, dim=1), targets.split(step, dim=1), strict=True)
    ]
    return torch.cat(thresholds), (targets == 1).sum(dim=0)


def _best_f1_block(scores: Tensor, targets: Tensor) -> Tensor:
    if len(scores) == 0:
        return scores.new_full((scores.shape[1],), math.nan, dtype=torch.float64)
    ranked, order = scores.masked_fill(targets == -1, -torch.inf).sort(dim=0, descending=True)
    hits = (targets == 1).gather(0, order).cumsum(dim=0)
    lower = pad(ranked[1:], (0, 0, 0, 1), value=-torch.inf)
    rank = torch.arange(1, len(ranked) + 1, device=ranked.device).unsqueeze(1)
    f1 = 2 * hits.double() / (rank + hits[-1])  # F1 = 2 TP / (predicted + positives)
    best = f1.masked_fill(ranked == lower, -1.0).argmax(dim=0, keepdim=True)  # the first of equals
    found = _midway(ranked.gather(0, best), lower.gather(0, best))[0]
    return found.masked_fill(hits[-1] == 0, math.nan)


def best_shared_threshold(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """The one threshold of best micro-F1 over all known pairs of [N, C], and that F1.

    Only the scores of positives can be the lowest that is kept, so that the pairs are counted between those instead of
    sorted. Of several best thresholds the highest is taken.

    Raises:
        ValueError: shapes or values are wrong, or there is no positive.
    """
    _check(scores, targets)
    lowest, positives_at = scores[targets == 1].unique(return_counts=True)  # [K] ascending
    if len(lowest) == 0:
        raise ValueError("no positive: a threshold of best F1 does not exist")
    step = max(1, _BLOCK_ELEMENTS // max(1, scores.shape[1]))
    blocks = [part[known != -1] for part, known in zip(scores.split(step), targets.split(step), strict=True)]
    pairs_at = sum(
        torch.bincount(torch.searchsorted(lowest, block, right=True), minlength=len(lowest) + 1) for block in blocks
    )
    assert isinstance(pairs_at, Tensor)  # [K + 1]: pairs from each kept score up to the next, first those below all
    hits, predicted = positives_at.flip(0).cumsum(0), pairs_at[1:].flip(0).cumsum(0)  # by descending score
    f1 = 2 * hits.double() / (predicted + hits[-1])  # F1 = 2 TP / (predicted + positives)
    upper = lowest.flip(0)[f1.argmax()]
    below = torch.stack([block.masked_fill(block >= upper, -torch.inf).amax() for block in blocks if len(block)]).amax()
    return float(_midway(upper, below)), float(f1.max())
