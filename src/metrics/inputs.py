"""What every metric shares: the shapes that it takes, the images that a protocol counts, blocks of working memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from src.choices import IMAGES, Images

# Working memory of a block of rows or columns, in numbers: with the int64 keys of a ranking 16 MiB, few enough for the
# allocator to hand the same pages to every block.
_BLOCK_ELEMENTS = 1 << 21


def check_shapes(scores: Sequence[int], targets: Sequence[int]) -> None:
    """Compare the shapes of scores and targets.

    Raises:
        ValueError: they differ, or are not those of matrices.
    """
    if len(scores) != 2 or tuple(scores) != tuple(targets):
        raise ValueError(f"scores and targets must both be [N, C], got {tuple(scores)} and {tuple(targets)}")


def check_numbers(scores: Tensor) -> None:
    """Look for scores that cannot be ranked.

    Raises:
        ValueError: a score is NaN.
    """
    if scores.numel() and scores.max().isnan():  # NaN is passed on by max, which makes nothing as large as the scores
        raise ValueError("scores contain NaN")


def check_images(images: str) -> None:
    """Look at the name of a protocol.

    Raises:
        ValueError: ``images`` is not a known protocol.
    """
    if images not in IMAGES:
        raise ValueError(f"images must be one of {IMAGES}, got {images!r}")


def select_images(targets: Tensor, images: Images) -> Tensor:
    """Indices [n] of the rows of ``targets`` [N, C] that a protocol evaluates.

    Raises:
        ValueError: ``images`` is not a known protocol.
    """
    check_images(images)
    if images == "all-images":
        return torch.arange(targets.shape[0], device=targets.device)
    return (targets == 1).any(dim=1).nonzero()[:, 0]


def blocks(length: int, width: int) -> list[slice]:
    """Slices that cover ``length`` so that a slice times ``width`` stays within the working memory."""
    step = max(1, _BLOCK_ELEMENTS // max(1, width))
    return [slice(start, start + step) for start in range(0, length, step)]
