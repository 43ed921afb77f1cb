"""Multi-label metrics as pure functions of scores and targets, in the protocols of the zero-shot literature.

Every function takes ``scores`` [N, C] (float) and ``targets`` [N, C] (1 positive, 0 negative, -1 unknown), one row a
picture and one column a label, and gives ratios between 0 and 1; :func:`zero_shot_report` turns them into the
percentages that papers print. Unknown labels count as negative, but for :func:`average_precision` where it is told
otherwise.

Two habits change the numbers of one and the same model, and are always named:

* images: ``positive-only`` counts only the pictures with at least one relevant positive label (the released code,
  DualCoOp, ML-Decoder); ``all-images`` counts every picture (LESA, BiAM, Gen-MLZSL).
* mAP: ``official`` gives a label without any positive an average precision of 0 and breaks ties by position (the
  released code); ``skip`` leaves such labels out and treats equal scores as one threshold, as scikit-learn does.
  Where labels are unknown, ``mAP_verified`` is ``skip`` over the verified ones (LESA's and BiAM's Open Images).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from src.scoring import top_k_labels

Images = Literal["positive-only", "all-images"]
MapConvention = Literal["official", "skip"]

IMAGES: tuple[Images, ...] = ("positive-only", "all-images")
# Working memory of a block of rows or columns, in numbers: the [N, C] inputs are the only large arrays that exist
# whole.
_BLOCK_ELEMENTS = 1 << 23
# The released code's guard against division by zero; kept so that its numbers come out to the last digit.
_OFFICIAL_EPSILON = 1e-8


class PrecisionRecall(NamedTuple):
    """Micro-averaged precision, recall and F1, each between 0 and 1."""

    precision: float
    recall: float
    f1: float


def _check_shapes(scores: Tensor, targets: Tensor) -> None:
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            f"scores and targets must both be [N, C], got {tuple(scores.shape)} and {tuple(targets.shape)}"
        )


def _check(scores: Tensor, targets: Tensor) -> None:
    _check_shapes(scores, targets)
    if scores.isnan().any():
        raise ValueError("scores contain NaN")


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def select_images(targets: Tensor, images: Images) -> Tensor:
    """Indices [n] of the rows of ``targets`` [N, C] that a protocol evaluates.

    Raises:
        ValueError: ``images`` is not a known protocol.
    """
    if images == "all-images":
        return torch.arange(targets.shape[0], device=targets.device)
    if images == "positive-only":
        return (targets == 1).any(dim=1).nonzero()[:, 0]
    raise ValueError(f"images must be one of {IMAGES}, got {images!r}")


def f1_at_k(scores: Tensor, targets: Tensor, k: int) -> PrecisionRecall:
    """Micro precision, recall and F1 over the k best labels of each row, the measure of this literature.

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
    _check(scores, targets)
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k must be between 1 and the number of labels {scores.shape[1]}, got {k}")
    positive = targets == 1
    hits = 0
    for rows in _blocks(scores.shape[0], scores.shape[1]):
        labels = top_k_labels(scores[rows], k)[1]
        hits += int(positive[rows].gather(1, labels).sum())
    precision = _ratio(hits, scores.shape[0] * k)
    recall = _ratio(hits, int(positive.sum()))
    return PrecisionRecall(precision, recall, _f1(precision, recall))


def best_possible_f1_at_k(targets: Tensor, k: int) -> PrecisionRecall:
    """The ceiling of :func:`f1_at_k` on these targets [N, C]: what a perfect ranking reaches.

    It is below 1, since k rarely equals the number of labels. k is at least 1.
    """
    counts = (targets == 1).sum(dim=1)
    hits = int(counts.clamp(max=k).sum())
    precision = _ratio(hits, targets.shape[0] * k)
    recall = _ratio(hits, int(counts.sum()))
    return PrecisionRecall(precision, recall, _f1(precision, recall))


def f1_at_threshold(scores: Tensor, targets: Tensor, threshold: float) -> PrecisionRecall:
    """Micro precision, recall and F1 of the labels that score above ``threshold``. Zeros where a denominator is 0."""
    _check(scores, targets)
    return f1_of_choice(scores > threshold, targets)


def f1_of_choice(chosen: Tensor, targets: Tensor) -> PrecisionRecall:
    """Micro precision, recall and F1 of the labels that are ``chosen`` [N, C] bool. Zeros where a denominator is 0."""
    _check_shapes(chosen, targets)
    positive = targets == 1
    hits = int((chosen & positive).sum())
    precision, recall = _ratio(hits, int(chosen.sum())), _ratio(hits, int(positive.sum()))
    return PrecisionRecall(precision, recall, _f1(precision, recall))


def average_precision(
    scores: Tensor,
    targets: Tensor,
    convention: MapConvention = "official",
    unknown: Literal["negative", "ignore"] = "negative",
) -> Tensor:
    """The average precision of every label over the rows.

    ``official``: AP = sum of precision@rank over the ranks of positives / (|positives| + 1e-8); equal scores keep the
    order of the rows. ``skip``: precision is read at the end of each run of equal scores
    (``sklearn.metrics.average_precision_score``).

    Args:
        scores, targets: [N, C].
        convention: see above.
        unknown: what a target of -1 is: ``negative``, or ``ignore``: that picture takes no part in that label's AP.

    Returns:
        [C] float64 between 0 and 1. A label without any positive is 0 (``official``) or NaN (``skip``).

    Raises:
        ValueError: shapes differ, a score is NaN, or ``convention`` or ``unknown`` is none of these.
    """
    _check(scores, targets)
    if convention not in ("official", "skip"):
        raise ValueError(f"convention must be 'official' or 'skip', got {convention!r}")
    if unknown not in ("negative", "ignore"):
        raise ValueError(f"unknown must be 'negative' or 'ignore', got {unknown!r}")
    result = torch.zeros(scores.shape[1], dtype=torch.float64, device=scores.device)
    for labels in _blocks(scores.shape[1], scores.shape[0]):
        block, known = scores[:, labels], targets[:, labels]
        if unknown == "ignore":  # below every other picture, it changes no positive's rank
            block = block.masked_fill(known == -1, -torch.inf)
        result[labels] = _average_precision_block(block, known == 1, convention)
    return result


def _average_precision_block(scores: Tensor, positive: Tensor, convention: MapConvention) -> Tensor:
    count = scores.shape[0]
    if count == 0:
        return scores.new_full(
            (scores.shape[1],), 0.0 if convention == "official" else float("nan"), dtype=torch.float64
        )
    ranked, order = scores.sort(dim=0, descending=True, stable=True)  # [N, c]
    relevant = positive.gather(0, order)  # [N, c]: is the picture at this rank a positive?
    hits = relevant.cumsum(dim=0).double()  # true positives up to this rank
    rank = torch.arange(1, count + 1, dtype=torch.float64, device=scores.device).unsqueeze(1)
    precision = hits / rank
    if convention == "skip":
        precision = precision.gather(0, _end_of_ties(ranked))
    total = hits[-1]
    summed = (precision * relevant).sum(dim=0)
    # AP = 1/|positives| sum over positives of precision at their rank
    return (
        summed / (total + _OFFICIAL_EPSILON) if convention == "official" else summed / total
    )  # 0/0 is NaN: no positive


def _end_of_ties(ranked: Tensor) -> Tensor:
    """[N, c] sorted scores -> [N, c] index of the last row of each run of equal scores."""
    count = ranked.shape[0]
    index = torch.arange(count, device=ranked.device).unsqueeze(1).expand_as(ranked)
    is_end = torch.ones_like(ranked, dtype=torch.bool)
    is_end[:-1] = ranked[1:] != ranked[:-1]
    return torch.where(is_end, index, count).flip(0).cummin(dim=0).values.flip(0)


def mean_average_precision(
    scores: Tensor,
    targets: Tensor,
    convention: MapConvention = "official",
    unknown: Literal["negative", "ignore"] = "negative",
) -> float:
    """mAP: the mean of :func:`average_precision` over labels, under ``skip`` over those with a positive.

    0 where no label is left to average.
    """
    return _mean_ap(average_precision(scores, targets, convention, unknown))


def _mean_ap(per_label: Tensor) -> float:
    kept = per_label[~per_label.isnan()]
    return float(kept.mean()) if kept.numel() else 0.0


def _blocks(length: int, width: int) -> list[slice]:
    """Slices that cover ``length`` so that a slice times ``width`` stays within the working memory."""
    step = max(1, _BLOCK_ELEMENTS // max(1, width))
    return [slice(start, start + step) for start in range(0, length, step)]


def ranking_report(
    scores: Tensor,
    targets: Tensor,
    *,
    ks: Sequence[int] = (3, 5),
    images: Images = "positive-only",
    threshold: float | None = None,
) -> dict[str, float]:
    """All metrics of one set of relevant labels, in percent.

    Args:
        scores, targets: [N, C] over the relevant labels only.
        ks: the K of P/R/F1@K; those above C are left out, since there are no K labels to choose.
        images: which rows count.
        threshold: also report P/R/F1 of the labels above this score.

    Returns:
        ``P@K R@K F1@K`` and ``ceiling.*@K`` for every K, ``mAP`` (official convention), ``mAP_skip``, where labels are
        unknown ``mAP_verified`` and ``num_unknown``, and the counts that a reader needs to compare: ``num_images``,
        ``num_labels``, ``num_labels_with_positive``, ``num_positives``, ``labels_per_image``.

    Raises:
        ValueError: shapes differ, a score is NaN, k is below 1, or ``images`` is not a known protocol.
    """
    _check_shapes(scores, targets)  # here, since picking rows would make tensors of different N alike
    rows = select_images(targets, images)
    scores, targets = scores[rows], targets[rows]
    positives = int((targets == 1).sum())
    report: dict[str, float] = {
        "num_images": len(rows),
        "num_labels": scores.shape[1],
        "num_labels_with_positive": int((targets == 1).any(dim=0).sum()),
        "num_positives": positives,
        "labels_per_image": _ratio(positives, len(rows)),
    }
    for k in (k for k in ks if k <= scores.shape[1]):
        for prefix, result in (("", f1_at_k(scores, targets, k)), ("ceiling.", best_possible_f1_at_k(targets, k))):
            _add_percent(report, prefix, f"@{k}", result)
    if threshold is not None:
        _add_percent(report, "", "@threshold", f1_at_threshold(scores, targets, threshold))
    report["mAP"] = 100 * mean_average_precision(scores, targets, "official")
    report["mAP_skip"] = 100 * mean_average_precision(scores, targets, "skip")
    num_unknown = int((targets == -1).sum())
    if num_unknown:
        report["num_unknown"] = num_unknown
        report["mAP_verified"] = 100 * mean_average_precision(scores, targets, "skip", "ignore")
    return report


def _add_percent(report: dict[str, float], prefix: str, suffix: str, result: PrecisionRecall) -> None:
    for name, value in zip(("P", "R", "F1"), result, strict=True):
        report[f"{prefix}{name}{suffix}"] = 100 * value


def zero_shot_report(
    scores: Tensor,
    targets: Tensor,
    seen: Sequence[int],
    unseen: Sequence[int],
    *,
    ks: Sequence[int] = (3, 5),
    images: Images = "positive-only",
    threshold: float | None = None,
    zero_shot_rows: Tensor | None = None,
    generalized_rows: Tensor | None = None,
) -> dict[str, float]:
    """The two settings of multi-label zero-shot learning from one matrix of scores.

    ``zero_shot`` ranks the unseen labels only; ``generalized`` ranks seen and unseen together. Labels on neither side
    take no part.

    Args:
        scores, targets: [N, C] over all labels of the split.
        seen, unseen: column indices.
        ks, images, threshold: as for :func:`ranking_report`.
        zero_shot_rows, generalized_rows: the pictures of each setting where a split lists them apart; None means all.

    Returns:
        The keys of :func:`ranking_report`, prefixed with ``zero_shot.`` and ``generalized.``; no ``zero_shot.*`` if
        nothing is unseen.

    Raises:
        ValueError: shapes differ, a column is listed twice, or as for :func:`ranking_report`.
    """
    _check_shapes(scores, targets)  # here, since picking columns would make tensors of different C alike
    if len({*seen, *unseen}) < len(seen) + len(unseen):
        raise ValueError("a label is listed twice among seen and unseen")
    report: dict[str, float] = {}
    settings = (
        ("zero_shot", list(unseen), zero_shot_rows),
        ("generalized", [*seen, *unseen], generalized_rows),
    )
    for name, columns, rows in settings:
        if not columns:
            continue
        part_scores, part_targets = scores[:, sorted(columns)], targets[:, sorted(columns)]
        if rows is not None:
            part_scores, part_targets = part_scores[rows], part_targets[rows]
        part = ranking_report(part_scores, part_targets, ks=ks, images=images, threshold=threshold)
        report.update({f"{name}.{key}": value for key, value in part.items()})
    return report
