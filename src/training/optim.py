"""Parameter groups, optimiser, learning-rate schedule and moving average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from src.models import SDLModel
from src.options import Optimizer as OptimizerName
from src.options import Schedule


def parameter_groups(
    module: nn.Module, lr: float, weight_decay: float, *, backbone_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Group parameters into backbone and head, each with and without weight decay.

    As in the released code, biases and 1-D weights have no decay. Frozen parameters and empty groups are left out.

    Args:
        module: an :class:`SDLModel`, or a module that is all head.
        lr: learning rate of the head.
        weight_decay: of weight matrices.
        backbone_scale: learning rate of the backbone as a multiple of ``lr``.

    Returns:
        Groups with a ``name``, ``backbone`` or ``head``.
    """
    head = {id(parameter) for parameter in (module.embedding if isinstance(module, SDLModel) else module).parameters()}
    groups: list[dict[str, Any]] = []
    for name, rate in (("backbone", lr * backbone_scale), ("head", lr)):
        for decays in (False, True):
            parameters = [
                parameter
                for parameter in module.parameters()
                if parameter.requires_grad and (id(parameter) in head) == (name == "head")
                if (parameter.ndim > 1) == decays
            ]
            if parameters:
                decay = weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": rate, "weight_decay": decay, "name": name})
    return groups


def make_optimizer(name: OptimizerName, groups: list[dict[str, Any]], device: torch.device) -> Optimizer:
    """Create Adam, with decay as L2 in the gradient like the released code, or AdamW; fused on a GPU."""
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, fused=True if device.type == "cuda" else None)


def make_schedule(kind: Schedule, optimizer: Optimizer, total_steps: int, warm_up: float = 0.1) -> LRScheduler:
    """Create the learning-rate schedule; the rates of the optimiser's groups are the peaks.

    Args:
        kind: ``one_cycle`` (released code; it also moves Adam's first momentum against the rate), ``cosine`` to 0, or
            ``constant``.
        optimizer: its groups have their peak rates.
        total_steps: optimisation steps of the run.
        warm_up: fraction of the steps in which the rate rises.
    """
    if kind == "one_cycle" and total_steps > 1:
        # PyTorch divides by zero if the warm-up ends with the first step
        pct_start = warm_up + (1e-6 if warm_up * total_steps == 1 else 0)
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=pct_start)
    warm_steps = round(warm_up * total_steps)

    def factor(step: int) -> float:
        if step < warm_steps:
            return (step + 1) / warm_steps
        if kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm_steps) / max(1, total_steps - warm_steps)))
        return 1.0  # also for one_cycle with a single step, whose rate would be near 0

    return LambdaLR(optimizer, factor)


class MovingAverage:
    """Exponential moving average of a module's weights and batch statistics: a <- decay a + (1 - decay) w.

    Attributes:
        module: copy with the averages, in eval mode.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the averages after a step; counters are copied."""
        for average, value in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - self._decay)  # a + (1 - decay) (w - a)
            else:
                average.copy_(value)
