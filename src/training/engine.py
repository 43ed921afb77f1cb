"""Training an epoch: tensors and callables in, numbers out. No flags, no files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.loss_functions.SDL_loss import SDLLoss
from src.training.optim import MovingAverage

_PARTS = ("loss", "rank", "diversity", "regularizer")  # of a step


class NonFiniteLossError(Exception):
    """The loss or its gradient became NaN or infinite; no weight has moved for it.

    Attributes:
        rows: [b] the images at fault, or among them.
    """

    def __init__(self, message: str, rows: Tensor) -> None:
        super().__init__(message)
        self.rows = rows


class TrainBatch(NamedTuple):
    """What goes through the model at once.

    Attributes:
        inputs: [b, ...] images or cached features, b > 0.
        targets: [b, C_seen].
        rows: [b] of the training set.
        weight: what this batch's mean loss counts within its step's (see :class:`src.data.order.Portion`).
        ends_step: whether the optimiser steps afterwards.
        bad: messages about images that others stand in for.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor
    weight: float = 1.0
    ends_step: bool = True
    bad: tuple[str, ...] = ()


class Step(NamedTuple):
    """One optimisation step: its mean loss, the loss's parts, the length of the gradient, the learning rates used."""

    loss: float
    rank: float
    diversity: float
    regularizer: float
    gradient_norm: float
    lr: dict[str, float]


@dataclass
class EpochSums:
    """Sums over the images of an epoch so far, or over its steps where it says so: an epoch can go on from them."""

    loss: float = 0.0
    rank: float = 0.0
    diversity: float = 0.0
    regularizer: float = 0.0
    images: float = 0.0
    gradient_norm: float = 0.0  # over steps that were not skipped
    steps: float = 0.0
    skipped: float = 0.0  # steps that the loss scaler of half precision left out

    def values(self) -> list[float]:
        """All of them, in the order of the fields."""
        return [getattr(self, one.name) for one in fields(self)]

    def means(self) -> dict[str, float]:
        """What the log says of the epoch."""
        return {
            **{name: getattr(self, name) / max(self.images, 1) for name in _PARTS},
            "gradient_norm": self.gradient_norm / max(self.steps - self.skipped, 1),
            "num_images": int(self.images),
            "skipped_steps": int(self.skipped),
        }


@dataclass
class Trained:
    """What a step works on.

    Attributes:
        module: maps inputs to embeddings [b, D*M]: the whole model on images, or the head on cached features. Its
            train/eval mode is the caller's affair.
        criterion: the loss over the labels of ``targets``, with ``reduction="mean"``.
        optimizer: whose groups have a ``name``.
        scheduler: stepped once a step.
        device: where to compute.
        precision: dtype of the forward pass under autocast; None computes in float32. float16 scales the loss.
        clip_norm: longest gradient; None leaves it as it is.
        average: a moving average that follows the weights.
        processes: how many train together.
        forward: the module as it is called, wrapped or compiled; the module itself if left out.
        ddp: the wrapper that averages gradients over the processes; None where there is one process.
    """

    module: nn.Module
    criterion: SDLLoss
    optimizer: Optimizer
    scheduler: LRScheduler
    device: torch.device
    precision: torch.dtype | None = None
    clip_norm: float | None = None
    average: MovingAverage | None = None
    processes: int = 1
    forward: nn.Module | None = None
    ddp: DistributedDataParallel | None = None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)


def train_epoch(
    trained: Trained,
    batches: Iterable[TrainBatch],
    sums: EpochSums,
    on_step: Callable[[Step], None] = lambda step: None,
) -> None:
    """Train for one pass over ``batches``, or for what is left of one.

    Args:
        trained: what is trained.
        batches: in the order of the steps.
        sums: grow with each step.
        on_step: called after each step, when weights, schedule, average and sums agree: what it raises, or a state
            that it saves, leaves nothing half done.

    Raises:
        NonFiniteLossError: before the step that would have used such a loss.
    """
    step: list[TrainBatch] = []
    for batch in batches:
        step.append(batch)
        if batch.ends_step:
            result = _take_step(trained, step, sums)
            step = []
            on_step(result)


def _take_step(trained: Trained, batches: list[TrainBatch], sums: EpochSums) -> Step:
    """Forward, backward and one move of the weights; the gradients of several batches add up."""
    lr = {str(group["name"]): float(group["lr"]) for group in trained.optimizer.param_groups}
    trained.optimizer.zero_grad(set_to_none=True)
    values = [_forward_and_backward(trained, batch) for batch in batches]  # [4] each, on the device
    norm_on_device = _gradient_norm(trained)
    # The step's only wait for the device: losses of all batches and the norm come over together
    *flat, norm = torch.cat([*values, norm_on_device.double().reshape(1)]).tolist()
    losses = [flat[4 * index : 4 * index + 4] for index in range(len(batches))]
    _check_finite(trained, batches, losses, norm)
    trained.scaler.step(trained.optimizer)
    trained.scaler.update()
    skipped = not math.isfinite(norm)  # a gradient overflowed half precision: the scaler has moved no weight
    trained.scheduler.step()
    if trained.average is not None:
        trained.average.update(trained.module)
    # A repeated image of a process without any does not count
    counts = [len(batch.inputs) if batch.weight else 0 for batch in batches]
    totals = [
        sum(count * part for count, part in zip(counts, parts, strict=True)) for parts in zip(*losses, strict=True)
    ]
    for name, value in zip((*_PARTS, "images"), (*totals, sum(counts)), strict=True):
        setattr(sums, name, getattr(sums, name) + value)
    sums.steps += 1
    sums.skipped += skipped
    sums.gradient_norm += 0.0 if skipped else norm
    loss, rank, diversity, regularizer = (total / max(sum(counts), 1) for total in totals)
    return Step(loss, rank, diversity, regularizer, norm, lr)


def _forward_and_backward(trained: Trained, batch: TrainBatch) -> Tensor:
    """Add the gradient of ``weight`` times the batch's mean loss; returns the loss and its parts, [4] on the device."""
    inputs = batch.inputs.to(trained.device, non_blocking=True)
    targets = batch.targets.to(trained.device, non_blocking=True)
    forward = trained.module if trained.forward is None else trained.forward  # a compiled one has no truth value
    # Processes exchange gradients once a step
    with contextlib.nullcontext() if trained.ddp is None or batch.ends_step else trained.ddp.no_sync():
        with torch.autocast(trained.device.type, dtype=trained.precision, enabled=trained.precision is not None):
            embedding = forward(inputs)  # [b, D*M]
        loss, parts = trained.criterion.with_parts(embedding, targets)
        # Gradients are averaged over processes: times their number, the weights add up to the mean over all images
        trained.scaler.scale(loss * (batch.weight * trained.processes)).backward()
    return torch.stack([loss.detach(), *parts]).double()


def _gradient_norm(trained: Trained) -> Tensor:
    """Clip the step's gradient and return its norm before that, on the device."""
    trained.scaler.unscale_(trained.optimizer)
    parameters = [parameter for group in trained.optimizer.param_groups for parameter in group["params"]]
    if trained.clip_norm is None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)
    return torch.nn.utils.clip_grad_norm_(parameters, trained.clip_norm)


def _check_finite(trained: Trained, batches: list[TrainBatch], losses: list[list[float]], norm: float) -> None:
    """Raise :class:`NonFiniteLossError` where a loss is not finite, or a gradient that no loss scaler will skip."""
    for batch, values in zip(batches, losses, strict=True):
        if not math.isfinite(values[0]):
            shown = ", ".join(f"{name} {value:g}" for name, value in zip(_PARTS, values, strict=True))
            raise NonFiniteLossError(shown, batch.rows)
    if not math.isfinite(norm) and not trained.scaler.is_enabled():
        rows = torch.cat([batch.rows for batch in batches])
        raise NonFiniteLossError(f"the loss is finite, the length of its gradient is {norm:g}", rows)
