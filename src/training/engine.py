"""Train for an epoch: tensors and callables in, numbers out. No flags, no files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, field
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
    """The loss or its gradient is NaN or infinite; the weights are those before the step.

    Attributes:
        rows: [b] images of the micro-batch, or of the step where only the gradient is not finite.
    """

    def __init__(self, message: str, rows: Tensor) -> None:
        super().__init__(message)
        self.rows = rows


class TrainBatch(NamedTuple):
    """Micro-batch with its images.

    Attributes:
        inputs: [b, ...] images or cached features, b > 0.
        targets: [b, C_seen].
        rows: [b] of the training set.
        weight: share of its mean loss in that of the step, see :class:`src.data.order.MicroBatch`.
        ends_step: whether the optimiser steps after it.
        bad: messages about unreadable images, which others replace.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor
    weight: float = 1.0
    ends_step: bool = True
    bad: tuple[str, ...] = ()


class StepMetrics(NamedTuple):
    """Mean loss of one optimisation step and its parts, the norm of the gradient, and the learning rate by group."""

    loss: float
    rank: float
    diversity: float
    regularizer: float
    gradient_norm: float
    lr: dict[str, float]


@dataclass
class EpochSums:
    """Running sums of an epoch: over images, or over steps from ``gradient_norm`` on."""

    loss: float = 0.0
    rank: float = 0.0
    diversity: float = 0.0
    regularizer: float = 0.0
    images: float = 0.0
    gradient_norm: float = 0.0  # without skipped steps
    steps: float = 0.0
    skipped: float = 0.0  # steps that the loss scaler of half precision skipped

    def values(self) -> list[float]:
        """Return the sums in the order of the fields."""
        return list(astuple(self))

    def means(self) -> dict[str, float]:
        """Return the means for the log."""
        return {
            **{name: getattr(self, name) / max(self.images, 1) for name in _PARTS},
            "gradient_norm": self.gradient_norm / max(self.steps - self.skipped, 1),
            "num_images": int(self.images),
            "skipped_steps": int(self.skipped),
        }


@dataclass
class Learner:
    """Everything that an optimisation step uses and changes.

    Attributes:
        module: maps inputs to embeddings [b, D*M]: the whole model on images, or the head on cached features. The
            caller sets its train/eval mode.
        criterion: loss over the labels of ``targets``, with ``reduction="mean"``.
        optimizer: each parameter group has a ``name``.
        scheduler: makes one step per optimisation step.
        device: of the module.
        precision: dtype of the forward pass under autocast; None computes in float32. float16 scales the loss.
        clip_norm: maximum norm of the gradient; None does not clip.
        average: moving average of the weights.
        processes: number of processes that train together.
        forward: callable form of the module, wrapped or compiled; None calls the module itself.
        ddp: wrapper that averages gradients over processes; None in a single process.
        scaler: of the loss, disabled unless the precision is float16.
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
    learner: Learner,
    batches: Iterable[TrainBatch],
    sums: EpochSums,
    on_step: Callable[[StepMetrics], None] = lambda metrics: None,
) -> None:
    """Train on ``batches``: an epoch, or the rest of one.

    Args:
        learner: the model and its optimiser.
        batches: in the order of the steps.
        sums: are increased with each step.
        on_step: called after each step, when weights, schedule, average and sums are consistent: it may save the
            state, or raise.

    Raises:
        NonFiniteLossError: before the weights move.
    """
    step: list[TrainBatch] = []
    for batch in batches:
        step.append(batch)
        if batch.ends_step:
            metrics = _take_step(learner, step, sums)
            step = []
            on_step(metrics)


def _take_step(learner: Learner, batches: list[TrainBatch], sums: EpochSums) -> StepMetrics:
    """Make one optimisation step; the gradients of its micro-batches are accumulated."""
    lr = {str(group["name"]): float(group["lr"]) for group in learner.optimizer.param_groups}
    learner.optimizer.zero_grad(set_to_none=True)
    values = [_forward_and_backward(learner, batch) for batch in batches]  # [4] each, on the device
    norm_on_device = _gradient_norm(learner)
    # The only synchronisation with the device: losses of all micro-batches and the norm are read together
    *flat, norm = torch.cat([*values, norm_on_device.double().reshape(1)]).tolist()
    losses = [flat[4 * index : 4 * index + 4] for index in range(len(batches))]
    _check_finite(learner, batches, losses, norm)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    skipped = not math.isfinite(norm)  # a gradient overflowed in half precision, so the scaler has skipped the step
    learner.scheduler.step()
    if learner.average is not None:
        learner.average.update(learner.module)
    # The repeated image of a process without images of its own does not count
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
    return StepMetrics(loss, rank, diversity, regularizer, norm, lr)


def _forward_and_backward(learner: Learner, batch: TrainBatch) -> Tensor:
    """Accumulate the gradient of ``weight`` times the mean loss; returns the loss and its parts [4] on the device."""
    inputs = batch.inputs.to(learner.device, non_blocking=True)
    targets = batch.targets.to(learner.device, non_blocking=True)
    forward = learner.module if learner.forward is None else learner.forward  # a compiled module has no truth value
    # Processes exchange gradients once per step
    with contextlib.nullcontext() if learner.ddp is None or batch.ends_step else learner.ddp.no_sync():
        with torch.autocast(learner.device.type, dtype=learner.precision, enabled=learner.precision is not None):
            embedding = forward(inputs)  # [b, D*M]
        loss, parts = learner.criterion.with_parts(embedding, targets)
        # DDP averages gradients over processes: times their number, the weights sum to the mean over all images
        learner.scaler.scale(loss * (batch.weight * learner.processes)).backward()
    return torch.stack([loss.detach(), *parts]).double()


def _gradient_norm(learner: Learner) -> Tensor:
    """Clip the step's gradient and return its norm before that, on the device."""
    learner.scaler.unscale_(learner.optimizer)
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    if learner.clip_norm is None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)
    return torch.nn.utils.clip_grad_norm_(parameters, learner.clip_norm)


def _check_finite(learner: Learner, batches: list[TrainBatch], losses: list[list[float]], norm: float) -> None:
    """Raise :class:`NonFiniteLossError` for a loss that is not finite, or a gradient that no scaler will skip."""
    for batch, values in zip(batches, losses, strict=True):
        if not math.isfinite(values[0]):
            shown = ", ".join(f"{name} {value:g}" for name, value in zip(_PARTS, values, strict=True))
            raise NonFiniteLossError(shown, batch.rows)
    if not math.isfinite(norm) and not learner.scaler.is_enabled():
        rows = torch.cat([batch.rows for batch in batches])
        raise NonFiniteLossError(f"the loss is finite, the norm of its gradient is {norm:g}", rows)
