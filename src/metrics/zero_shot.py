"""Reports of all metrics: of one set of labels, and of the two settings of zero-shot learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.metrics.accumulator import RankingAccumulator
from src.metrics.inputs import check_shapes, select_images
from src.options import DEFAULT_PROTOCOL, Images, Protocol

# The largest block of labels' scores, in numbers: 3 * 2**24 float32 are 192 MiB. All scores need never exist at once.
_SCORE_BLOCK_ELEMENTS = 3 << 24
# Blocks have a multiple of this many labels where that fits: matrix products have their full rate at such widths.
_LABEL_STEP = 64


@dataclass(frozen=True)
class LabelBlocks:
    """Scores and targets of N images, made on demand for a block of labels.

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
        """Cut labels into blocks whose scores fit into the working memory."""
        most = max(1, _SCORE_BLOCK_ELEMENTS // max(1, self.num_images))
        return labels.split(most if most < _LABEL_STEP else most // _LABEL_STEP * _LABEL_STEP)


def ranking_report(scores: Tensor, targets: Tensor, protocol: Protocol = DEFAULT_PROTOCOL) -> dict[str, float]:
    """Compute all metrics of one set of relevant labels, in percent.

    Args:
        scores, targets: [N, C] over the relevant labels only.
        protocol: what counts. A K above C is left out, since there are no K labels to choose.

    Returns:
        ``P@K R@K F1@K`` and ``ceiling.*@K`` for every K, ``P R F1@threshold`` where the protocol has a threshold,
        ``mAP`` (official convention), ``mAP_skip``, where labels are unknown ``mAP_verified`` and ``num_unknown``, and
        the counts that a comparison needs: ``num_images``, ``num_labels``, ``num_labels_with_positive``,
        ``num_positives``, ``labels_per_image``.

    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    check_shapes(scores.shape, targets.shape)
    accumulator = RankingAccumulator(select_images(targets, protocol.images), scores.shape[1], protocol)
    accumulator.add(scores, targets)
    return accumulator.report()


def rank_settings(
    blocks: LabelBlocks,
    seen: Sequence[int],
    unseen: Sequence[int],
    protocol: Protocol = DEFAULT_PROTOCOL,
    *,
    zero_shot_rows: Tensor | None = None,
    generalized_rows: Tensor | None = None,
) -> dict[str, RankingAccumulator]:
    """Rank the labels of both settings of multi-label zero-shot learning; each block of labels is scored once.

    ``zero_shot`` ranks the unseen labels only; ``generalized`` ranks seen and unseen together. Labels on neither side
    take no part.

    Args:
        blocks: scores and targets of the N images.
        seen, unseen: column indices.
        protocol: as for :func:`ranking_report`.
        zero_shot_rows, generalized_rows: the images of each setting where a split lists them apart; None: all.

    Returns:
        By setting, the metrics of its labels in ascending order; no ``zero_shot`` if nothing is unseen.

    Raises:
        ValueError: a column is listed twice, or a score is NaN.
    """
    if len({*seen, *unseen}) < len(seen) + len(unseen):
        raise ValueError("a label is listed twice among seen and unseen")
    settings: list[tuple[str, Tensor, RankingAccumulator]] = []
    for name, labels, rows in (
        ("zero_shot", sorted(unseen), zero_shot_rows),
        ("generalized", sorted([*seen, *unseen]), generalized_rows),
    ):
        if labels:
            columns = torch.tensor(labels)
            counted = _counted_rows(blocks, columns, rows, protocol.images)
            settings.append((name, columns, RankingAccumulator(counted, len(labels), protocol)))
    for part in blocks.split(settings[-1][1]) if settings else ():
        _add_block(blocks, part, settings)
    return {name: ranking for name, _, ranking in settings}


def zero_shot_report(rankings: Mapping[str, RankingAccumulator]) -> dict[str, float]:
    """Report both settings: the keys of :func:`ranking_report`, prefixed with ``zero_shot.`` and ``generalized.``."""
    return {f"{name}.{key}": value for name, ranking in rankings.items() for key, value in ranking.report().items()}


def _add_block(blocks: LabelBlocks, part: Tensor, settings: Sequence[tuple[str, Tensor, RankingAccumulator]]) -> None:
    """Score some labels and add them to every setting; on return the scores are gone, before others are made."""
    scores, targets = blocks.scores(part), blocks.targets(part)
    for _, columns, ranking in settings:
        own = torch.isin(part, columns)
        if own.all():
            ranking.add(scores, targets)
        elif own.any():
            own = own.to(blocks.device)
            ranking.add(scores[:, own], targets[:, own])


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
