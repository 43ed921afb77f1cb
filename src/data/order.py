"""Order of the training images in an epoch, and their division into steps, micro-batches and processes.

It depends on the seed, the epoch and the sizes alone, so that a run can be resumed in the middle of an epoch, and
processes agree without communication.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return the random order [N] of N images in an epoch e, counted from 1: the e-th permutation of a generator."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch - 1):
        torch.randperm(count, generator=generator)
    return torch.randperm(count, generator=generator)


class MicroBatch(NamedTuple):
    """Images that one process passes through the model at once.

    Attributes:
        rows: of the training set, at least one.
        weight: share of the mean loss of ``rows`` in the mean loss of the step; 0 for a process without images of its
            own, which repeats one.
        ends_step: whether the optimiser steps after it.
    """

    rows: list[int]
    weight: float
    ends_step: bool


def num_steps(count: int, batch_size: int, *, accumulate: int = 1, processes: int = 1) -> int:
    """Return the number of optimisation steps of an epoch over ``count`` images."""
    return len(_step_sizes(count, batch_size, accumulate, processes))


def micro_batches(
    order: Tensor, batch_size: int, *, accumulate: int = 1, process: int = 0, processes: int = 1, start: int = 0
) -> list[MicroBatch]:
    """Return the micro-batches of one process in an epoch.

    A step has ``batch_size * accumulate * processes`` images. The last one has fewer. A single image has no variance
    for batch norm: no process gets one unless it is asked for, or there are too few images. A last step that is too
    small for that is merged into the step before, and one that is uneven has fewer micro-batches.

    Args:
        order: [N] rows.
        batch_size: images of a micro-batch.
        accumulate: micro-batches of each process in a step.
        process, processes: rank of this process, and number of processes.
        start: number of steps to leave out.
    """
    result: list[MicroBatch] = []
    sizes = _step_sizes(len(order), batch_size, accumulate, processes)
    for rows in order.split(sizes)[start:]:
        batches = min(accumulate, -(-len(rows) // (batch_size * processes)))
        if batch_size > 1:
            batches = max(1, min(batches, len(rows) // (2 * processes)))
        parts = rows.tensor_split(batches * processes)
        for batch in range(batches):
            own = parts[batch * processes + process]
            share = len(own) / len(rows)
            result.append(MicroBatch((own if len(own) else rows[:1]).tolist(), share, batch == batches - 1))
    return result


def _step_sizes(count: int, batch_size: int, accumulate: int, processes: int) -> list[int]:
    whole = batch_size * accumulate * processes
    sizes = [whole] * (count // whole) + ([count % whole] if count % whole else [])
    if len(sizes) > 1 and sizes[-1] < 2 * processes <= batch_size * processes:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes
