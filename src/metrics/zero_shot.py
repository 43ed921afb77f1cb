"""Multi-label metrics as pure functions of scores and targets, in the protocols of the zero-shot literature.

Every function takes ``scores`` [N, C] (float) and ``targets`` [N, C] (1 positive, 0 negative, -1 unknown), one row an
image and one column a label, and gives ratios between 0 and 1; :func:`zero_shot_report` turns them into the
percentages that papers print. Unknown labels count as negative, but for :func:`average_precision` where it is told
otherwise.

Two habits change the numbers of one and the same model, and are always named:

* images: ``positive-only`` counts only the images with at least one relevant positive label (the released code,
  DualCoOp, ML-Decoder); ``all-images`` counts every image (LESA, BiAM, Gen-MLZSL).
* mAP: ``official`` gives a label without any positive an average precision of 0 and breaks ties by position (the
  released code); ``skip`` leaves such labels out and treats equal scores as one threshold, as scikit-learn does.
  Where labels are unknown, ``mAP_verified`` is ``skip`` over the verified ones (LESA's and BiAM's Open Images).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from src.choices import IMAGES, Images
from src.metrics.accumulator import RankingTally
from src.metrics.average_precision import MapConvention, average_precision, mean_average_precision
from src.metrics.inputs import check_images, check_shapes, select_images
from src.metrics.precision_recall import PrecisionRecall, best_possible_f1_at_k, f1_at_k, f1_at_threshold, f1_of_choice

__all__ = [
    "IMAGES",
    "Images",
    "LabelBlocks",
    "MapConvention",
    "PrecisionRecall",
    "average_precision",
    "best_possible_f1_at_k",
    "f1_at_k",
    "f1_at_threshold",
    "f1_of_choice",
    "mean_average_precision",
    "ranking_report",
    "select_images",
    "zero_shot_report",
    "zero_shot_report_of_blocks",
]

# The largest block of labels' scores, in numbers: 3 * 2**24 float32 are 192 MiB. All scores need never exist at once.
_SCORE_BLOCK_ELEMENTS = 3 << 24
# Blocks have a multiple of this many labels where that fits: matrix products have their full rate at such widths.
_LABEL_STEP = 64


class LabelBlocks(NamedTuple):
    """Scores and targets of N images that are asked for by label.

    Attributes:
        num_images: N.
        device: where the blocks are.
        scores: ascending label indices [c], on the CPU -> scores [N, c].
        targets: the same -> targets [N, c].
    """

    num_images: int
    device: torch.device
    scores: Callable[[Tensor], Tensor]
    targets: Callable[[Tensor], Tensor]

    def split(self, labels: Tensor) -> tuple[Tensor, ...]:
        """Labels in as few parts as may be, of which each is few enough for its scores to exist at once."""
        most = max(1, _SCORE_BLOCK_ELEMENTS // max(1, self.num_images))
        parts = max(1, -(-len(labels) // most))
        even = max(1, -(-len(labels) // parts))
        width = -(-even // _LABEL_STEP) * _LABEL_STEP
        return labels.split(width if width <= most else even)


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
    check_shapes(scores.shape, targets.shape)
    tally = RankingTally(select_images(targets, images), scores.shape[1], ks=ks, threshold=threshold)
    tally.add(scores, targets)
    return tally.report()


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
        zero_shot_rows, generalized_rows: the images of each setting where a split lists them apart; None means all.

    Returns:
        The keys of :func:`ranking_report`, prefixed with ``zero_shot.`` and ``generalized.``; no ``zero_shot.*`` if
        nothing is unseen.

    Raises:
        ValueError: shapes differ, a column is listed twice, or as for :func:`ranking_report`.
    """
    check_shapes(scores.shape, targets.shape)  # here, since picking columns would make tensors of different C alike
    return zero_shot_report_of_blocks(
        LabelBlocks(len(scores), scores.device, lambda part: scores[:, part], lambda part: targets[:, part]),
        seen,
        unseen,
        ks=ks,
        images=images,
        threshold=threshold,
        zero_shot_rows=zero_shot_rows,
        generalized_rows=generalized_rows,
    )


def zero_shot_report_of_blocks(
    blocks: LabelBlocks,
    seen: Sequence[int],
    unseen: Sequence[int],
    *,
    ks: Sequence[int] = (3, 5),
    images: Images = "positive-only",
    threshold: float | None = None,
    zero_shot_rows: Tensor | None = None,
    generalized_rows: Tensor | None = None,
) -> dict[str, float]:
    """:func:`zero_shot_report` without the matrix of scores: a block of labels serves both settings and is let go.

    Args:
        blocks: scores and targets; the other arguments are those of :func:`zero_shot_report`.

    Raises:
        ValueError: a column is listed twice, or as for :func:`ranking_report`.
    """
    tallies = rank_settings(
        blocks,
        seen,
        unseen,
        ks=ks,
        images=images,
        threshold=threshold,
        zero_shot_rows=zero_shot_rows,
        generalized_rows=generalized_rows,
    )
    return {f"{name}.{key}": value for name, tally in tallies.items() for key, value in tally.report().items()}


def rank_settings(
    blocks: LabelBlocks,
    seen: Sequence[int],
    unseen: Sequence[int],
    *,
    ks: Sequence[int] = (3, 5),
    images: Images = "positive-only",
    threshold: float | None = None,
    zero_shot_rows: Tensor | None = None,
    generalized_rows: Tensor | None = None,
) -> dict[str, RankingTally]:
    """Rank the labels of each setting, ``zero_shot`` (left out if nothing is unseen) and ``generalized``.

    The labels of a tally are those of its setting in ascending order. Arguments and errors are those of
    :func:`zero_shot_report_of_blocks`.
    """
    check_images(images)
    if len({*seen, *unseen}) < len(seen) + len(unseen):
        raise ValueError("a label is listed twice among seen and unseen")
    settings: list[tuple[str, Tensor, RankingTally]] = []
    for name, labels, rows in (
        ("zero_shot", sorted(unseen), zero_shot_rows),
        ("generalized", sorted([*seen, *unseen]), generalized_rows),
    ):
        if labels:
            columns = torch.tensor(labels)
            counted = _counted_rows(blocks, columns, rows, images)
            settings.append((name, columns, RankingTally(counted, len(labels), ks=ks, threshold=threshold)))
    for part in blocks.split(settings[-1][1]) if settings else ():
        _add_block(blocks, part, settings)
    return {name: tally for name, _, tally in settings}


def _add_block(blocks: LabelBlocks, part: Tensor, settings: Sequence[tuple[str, Tensor, RankingTally]]) -> None:
    """Score some labels and add them to every setting; on return the scores are gone, before others are made."""
    scores, targets = blocks.scores(part), blocks.targets(part)
    for _, columns, tally in settings:
        own = torch.isin(part, columns)
        if own.all():
            tally.add(scores, targets)
        elif own.any():
            own = own.to(blocks.device)
            tally.add(scores[:, own], targets[:, own])


def _counted_rows(blocks: LabelBlocks, labels: Tensor, rows: Tensor | None, images: Images) -> Tensor:
    """Indices [n] of the images that a setting with these labels counts: among ``rows``, those of the protocol."""
    counted = torch.arange(blocks.num_images, device=blocks.device)
    counted = counted if rows is None else counted[rows.to(blocks.device)]
    if images == "all-images":
        return counted
    has_positive = torch.zeros(blocks.num_images, dtype=torch.bool, device=blocks.device)
    for part in blocks.split(labels):
        has_positive |= (blocks.targets(part) == 1).any(dim=1)
    return counted[has_positive[counted]]
