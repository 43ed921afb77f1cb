"""In which order an epoch goes through the training images, and how its steps are shared out.

All of it follows from the seed, the epoch and the sizes alone, so a run can go on in the middle of an epoch, and
several processes agree without a word.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class EpochOrder:
    """A random order of N images for every epoch: the e-th permutation that a generator with this seed draws."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._restart()

    def _restart(self) -> None:
        self._generator = torch.Generator()
        self._generator.manual_seed(self._seed)
        self._drawn = 0

    def of(self, epoch: int) -> Tensor:
        """The order [N] of an epoch, counted from 1. Epochs are quickest in ascending order."""
        if epoch <= self._drawn:
            self._restart()
        while True:
            order = torch.randperm(self._count, generator=self._generator)
            self._drawn += 1
            if self._drawn == epoch:
                return order


class Portion(NamedTuple):
    """What one process takes from one optimisation step, or from a part of it where gradients are accumulated.

    Attributes:
        rows: images, never none.
        weight: what the mean loss of ``rows`` counts within the mean loss of the whole step's images; 0 for a process
            for which none is left, and which then repeats one.
        ends_step: whether the optimiser steps afterwards.
    """

    rows: list[int]
    weight: float
    ends_step: bool


def num_steps(count: int, batch_size: int, *, accumulate: int = 1, processes: int = 1) -> int:
    """The optimisation steps of an epoch over ``count`` images."""
    return len(_step_sizes(count, batch_size, accumulate, processes))


def portions(
    order: Tensor, batch_size: int, *, accumulate: int = 1, process: int = 0, processes: int = 1, start: int = 0
) -> list[Portion]:
    """What one process of several takes from an epoch.

    A step has ``batch_size * accumulate * processes`` images. The last one has fewer; if so few that a process could
    get a single image, for which batch norm has no variance, it joins the step before it.

    Args:
        order: [N] rows.
        batch_size: images that go through the model at once, in each process.
        accumulate: batches a step, in each process.
        process, processes: which process this is, of how many.
        start: steps that are done already.
    """
    result: list[Portion] = []
    sizes = _step_sizes(len(order), batch_size, accumulate, processes)
    for rows in order.split(sizes)[start:]:
        batches = min(accumulate, -(-len(rows) // (batch_size * processes)))
        parts = rows.tensor_split(batches * processes)
        for batch in range(batches):
            own = parts[batch * processes + process]
            share = len(own) / len(rows)
            result.append(Portion((own if len(own) else rows[:1]).tolist(), share, batch == batches - 1))
    return result


def _step_sizes(count: int, batch_size: int, accumulate: int, processes: int) -> list[int]:
    whole = batch_size * accumulate * processes
    sizes = [whole] * (count // whole) + ([count % whole] if count % whole else [])
    if len(sizes) > 1 and sizes[-1] < 2 * processes <= batch_size * processes:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes
