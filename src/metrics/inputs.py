"""Input checks, image selection and blocks of working memory, shared by all metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from src.options import Images

# Working memory of a block of rows or columns, in numbers: with the int64 keys of a ranking 16 MiB, few enough for the
# allocator to hand the same pages to every block.
_BLOCK_ELEMENTS = 1 << 21


def check_shapes(scores: Sequence[int], targets: Sequence[int]) -> None:
    """Raise ValueError where the shapes of scores and targets differ, or are not those of matrices."""
    if len(scores) != 2 or tuple(scores) != tuple(targets):
        raise ValueError(f"scores and targets must both be [N, C], got {tuple(scores)} and {tuple(targets)}")


def select_images(targets: Tensor, images: Images) -> Tensor:
    """Return the indices [n] of the rows of ``targets`` [N, C] that count under a protocol."""
    if images == "all-images":
        return torch.arange(targets.shape[0], device=targets.device)
    return (targets == 1).any(dim=1).nonzero()[:, 0]


def blocks(length: int, width: int) -> list[slice]:
    """Return slices that cover ``length`` so that a slice times ``width`` stays within the working memory."""
    step = max(1, _BLOCK_ELEMENTS // max(1, width))
    return [slice(start, start + step) for start in range(0, length, step)]
