"""Evaluate embeddings: tensors in, metrics out. No flags, no files."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from src.data.labels import LabelMatrix
from src.metrics.inputs import check_shapes
from src.metrics.zero_shot import Images, LabelBlocks, zero_shot_report_of_blocks
from src.scoring import score_labels


@torch.inference_mode()
def evaluate(
    embeddings: Tensor,
    word_vectors: Tensor,
    targets: Tensor | LabelMatrix,
    seen: Sequence[int],
    unseen: Sequence[int],
    *,
    device: torch.device | None = None,
    ks: Sequence[int] = (3, 5),
    images: Images = "positive-only",
    threshold: float | None = None,
    zero_shot_rows: Tensor | None = None,
    generalized_rows: Tensor | None = None,
    block: int = 256,
) -> dict[str, float]:
    """Zero-shot and generalised metrics, in percent: embeddings [N, D*M], word vectors [D, C], targets [N, C].

    Scores are made for ``block`` images at a time, and for as many labels at once as fit into 192 MiB; [N, C] scores
    never exist whole.

    Args:
        targets: a tensor, or a sparse :class:`src.data.labels.LabelMatrix`, made dense a block of labels at a time.
        device: where to compute; that of ``embeddings`` if left out. Embeddings and targets may be elsewhere.
        block: how many images are scored at once.

    The other arguments, the result and the errors are those of :func:`src.metrics.zero_shot.zero_shot_report`.
    """
    num_images = len(embeddings)
    check_shapes((num_images, word_vectors.shape[1]), targets.shape)
    words = word_vectors.to(device=device or embeddings.device, dtype=embeddings.dtype)

    def scores_of(labels: Tensor) -> Tensor:
        chosen = words[:, labels]
        scores = torch.empty(num_images, len(labels), dtype=embeddings.dtype, device=words.device)
        for part, result in zip(embeddings.split(block), scores.split(block), strict=True):
            score_labels(part.to(words.device), chosen, out=result)
        return scores

    def targets_of(labels: Tensor) -> Tensor:
        chosen = targets.select_columns(labels).dense() if isinstance(targets, LabelMatrix) else targets[:, labels]
        return chosen.to(words.device)

    return zero_shot_report_of_blocks(
        LabelBlocks(num_images, words.device, scores_of, targets_of),
        seen,
        unseen,
        ks=ks,
        images=images,
        threshold=threshold,
        zero_shot_rows=zero_shot_rows,
        generalized_rows=generalized_rows,
    )
