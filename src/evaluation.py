"""Embedding images and evaluating embeddings: tensors and callables in, numbers out. No flags, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from src.data.dataset import Batch
from src.data.labels import LabelMatrix
from src.errors import UserError
from src.metrics.inputs import check_shapes
from src.metrics.zero_shot import Images, LabelBlocks, zero_shot_report_of_blocks
from src.scoring import score_labels


class Embedded(NamedTuple):
    """Model outputs [n, K] of the readable images, their rows [n] in the data set, and messages about the others."""

    outputs: Tensor
    rows: Tensor
    bad: tuple[str, ...]


@torch.inference_mode()
def check_image_size(model: Module, image_size: int, flag: str) -> None:
    """Run one black image through ``model``, which is left in eval mode.

    Raises:
        UserError: the backbone takes no images of this size (a vision transformer's patches, TResNet's first layer).
    """
    try:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{flag} {image_size}: the backbone takes no images of this size ({reason}); give one that it takes, or "
            "leave the flag out"
        ) from error


@torch.inference_mode()
def embed(
    forward: Callable[[Tensor], Tensor],
    loader: Iterable[Batch],
    *,
    device: torch.device,
    precision: torch.dtype | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Embedded:
    """Run images through ``forward`` (a model or its ``forward_features``); the outputs are float32 on the CPU.

    Args:
        precision: dtype under autocast; None computes in float32.
        on_batch: called after each batch with the number of images it held, unreadable ones included.

    Returns:
        Outputs [n, K]; where no image can be read, n is 0 and K too, since nothing says what it is.
    """
    outputs: list[Tensor] = []
    rows: list[Tensor] = []
    bad: list[str] = []
    for batch in loader:
        bad.extend(batch.bad)
        if len(batch.images):
            with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                output = forward(batch.images.to(device, non_blocking=True))
            outputs.append(output.float().cpu())
            rows.append(batch.rows)
        on_batch(len(batch.rows) + len(batch.bad))
    return Embedded(
        torch.cat(outputs) if outputs else torch.empty(0, 0),
        torch.cat(rows) if rows else torch.empty(0, dtype=torch.long),
        tuple(bad),
    )


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
