"""Training an epoch: tensors and callables in, numbers out. No flags, no files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from src.data.dataset import Batch
from src.loss_functions.SDL_loss import SDLLoss


class NonFiniteLossError(Exception):
    """The loss became NaN or infinite; the message names the step and the parts."""


class TrainBatch(NamedTuple):
    """inputs [b, ...] (pictures or cached features), targets [b, C_seen], messages about unreadable pictures."""

    inputs: Tensor
    targets: Tensor
    bad: tuple[str, ...] = ()


class Step(NamedTuple):
    """What one training step reports: its loss, the loss's parts, and the learning rate it used."""

    loss: float
    rank: float
    diversity: float
    regularizer: float
    lr: float


class EpochResult(NamedTuple):
    """Means over the pictures of an epoch, and the pictures that could not be read."""

    loss: float
    rank: float
    diversity: float
    regularizer: float
    num_pictures: int
    bad: tuple[str, ...]


def decay_groups(module: Module, weight_decay: float) -> list[dict[str, object]]:
    """Two parameter groups: L2 on weight matrices, none on biases and one-dimensional weights (the released recipe)."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
    ]


def one_cycle(optimizer: Optimizer, max_lr: float, total_steps: int) -> OneCycleLR:
    """OneCycle with a tenth of the steps as warm-up (the released recipe).

    PyTorch divides by zero where the warm-up ends with the very first step, as it does with 10 steps in all; there it
    ends a hair later.
    """
    pct_start = 0.1 + 1e-6 if total_steps == 10 else 0.1
    return OneCycleLR(optimizer, max_lr=max_lr, total_steps=total_steps, pct_start=pct_start)


def picture_batches(loader: DataLoader[Batch], targets_of: Callable[[Tensor], Tensor]) -> Iterator[TrainBatch]:
    """Join the loader's pictures with their targets; ``targets_of`` maps their rows [b] to [b, C_seen]."""
    for batch in loader:
        yield TrainBatch(batch.pictures, targets_of(batch.rows), batch.bad)


def feature_batches(
    features: Tensor, targets_of: Callable[[Tensor], Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[TrainBatch]:
    """Shuffled batches of cached features [N, F]; ``targets_of`` maps rows [b] to targets [b, C_seen]."""
    for rows in torch.randperm(len(features), generator=generator).split(batch_size):
        yield TrainBatch(features[rows], targets_of(rows))


def train_one_epoch(
    module: Module,
    criterion: SDLLoss,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Iterable[TrainBatch],
    *,
    device: torch.device,
    scaler: torch.amp.GradScaler | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> EpochResult:
    """Train ``module`` for one pass over ``batches``.

    Args:
        module: maps inputs to embeddings [b, D*M]: the whole model on pictures, or the head on cached features. Its
            train/eval mode is the caller's affair.
        criterion: the loss over the seen labels, with ``reduction="mean"``.
        scheduler: stepped once a batch that has a picture.
        scaler: mixed precision: the forward pass runs under autocast and the loss is scaled; None computes in float32.
        on_step: called after each step.

    Raises:
        NonFiniteLossError: before the step that would have used such a loss.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    count = 0
    bad: list[str] = []
    for index, batch in enumerate(batches):
        bad.extend(batch.bad)
        if len(batch.inputs):
            lr = float(scheduler.get_last_lr()[0])
            values = _train_step(module, criterion, optimizer, batch, device, scaler, index)
            sums += len(batch.inputs) * torch.tensor(values, dtype=torch.float64)
            count += len(batch.inputs)
            scheduler.step()
            on_step(Step(*values, lr=lr))
    loss, rank, diversity, regularizer = (sums / max(count, 1)).tolist()
    return EpochResult(loss, rank, diversity, regularizer, count, tuple(bad))


def _train_step(
    module: Module,
    criterion: SDLLoss,
    optimizer: Optimizer,
    batch: TrainBatch,
    device: torch.device,
    scaler: torch.amp.GradScaler | None,
    index: int,
) -> tuple[float, float, float, float]:
    inputs = batch.inputs.to(device, non_blocking=True)
    targets = batch.targets.to(device, non_blocking=True)
    with torch.autocast(device.type, enabled=scaler is not None):
        embedding = module(inputs)  # [b, D*M]
    loss, parts = criterion.with_parts(embedding, targets)
    values = (loss.item(), parts.rank.item(), parts.diversity.item(), parts.regularizer.item())
    if not math.isfinite(values[0]):
        names = ("loss", *parts._fields)
        raise NonFiniteLossError(
            f"step {index + 1}: " + ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
        )
    optimizer.zero_grad(set_to_none=True)
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return values
