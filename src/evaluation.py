"""Evaluate embeddings: tensors in, metrics out. No flags, no files."""

from __future__ import annotations

import torch
from torch import Tensor

from src.data.parts import GroundTruth
from src.data.split import ZeroShotSplit
from src.metrics import DEFAULT_PROTOCOL, LabelBlocks, Protocol, RankingAccumulator, rank_settings, zero_shot_report
from src.metrics.inputs import check_shapes
from src.scoring import score_labels


@torch.inference_mode()
def evaluate(
    embeddings: Tensor,
    split: ZeroShotSplit,
    truth: GroundTruth,
    protocol: Protocol = DEFAULT_PROTOCOL,
    *,
    device: torch.device | None = None,
    block_size: int = 256,
) -> dict[str, float]:
    """Compute zero-shot and generalised metrics, in percent.

    Scores are made for ``block_size`` images at a time, and for as many labels at once as fit into 192 MiB; sparse
    targets are made dense for the same labels. Neither [N, C] scores nor [N, C] dense targets ever exist whole.

    Args:
        embeddings: [N, D*M].
        split: word vectors [D, C], and which labels are seen and unseen.
        truth: targets [N, C] and the images of each setting.
        protocol: which images count, the K of P/R/F1@K, and a threshold.
        device: where to compute; that of ``embeddings`` if left out. Embeddings and targets may be elsewhere.
        block_size: images that are scored at once.

    Returns:
        The metrics of :func:`src.metrics.zero_shot.zero_shot_report`.

    Raises:
        ValueError: shapes do not fit each other, or a score is NaN.
    """
    return zero_shot_report(rank(embeddings, split, truth, protocol, device=device, block_size=block_size))


@torch.inference_mode()
def rank(
    embeddings: Tensor,
    split: ZeroShotSplit,
    truth: GroundTruth,
    protocol: Protocol = DEFAULT_PROTOCOL,
    *,
    device: torch.device | None = None,
    block_size: int = 256,
) -> dict[str, RankingAccumulator]:
    """Rank the labels of each setting for its images, as :func:`evaluate` does; arguments and errors are its.

    Returns:
        ``zero_shot`` (left out if nothing is unseen) and ``generalized``: average precisions and best labels, whose
        labels are those of the setting in ascending order.
    """
    num_images = len(embeddings)
    check_shapes((num_images, len(split.labels)), truth.targets.shape)
    words = split.word_vectors.to(device=device or embeddings.device, dtype=embeddings.dtype)

    def scores_of(labels: Tensor) -> Tensor:
        chosen = words[:, labels]
        scores = torch.empty(num_images, len(labels), dtype=embeddings.dtype, device=words.device)
        for part, result in zip(embeddings.split(block_size), scores.split(block_size), strict=True):
            score_labels(part.to(words.device), chosen, out=result)
        return scores

    return rank_settings(
        LabelBlocks(num_images, words.device, scores_of, lambda labels: truth.dense(labels).to(words.device)),
        split.seen,
        split.unseen,
        protocol,
        zero_shot_rows=truth.zero_shot_rows,
        generalized_rows=truth.generalized_rows,
    )
