"""The learner's part of a saved state: what is taken from it, and the form that it must have.

Only what training changes is taken: weights, moments, rates and counters. All else follows from the flags, and PyTorch
versions differ in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.training.engine import Learner
from src.training.progress import check_plain

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam and AdamW


@dataclass(frozen=True)
class LearnerState:
    """State dicts that fit the parts of a learner."""

    module: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]

    def load(self, learner: Learner) -> None:
        """Load into the learner."""
        learner.module.load_state_dict(self.module)
        if learner.average is not None and self.average is not None:
            learner.average.module.load_state_dict(self.average)
        learner.optimizer.load_state_dict(self.optimizer)
        learner.scheduler.load_state_dict(self.scheduler)
        learner.scaler.load_state_dict(self.scaler)


def fit_learner(content: Mapping[str, Any], learner: Learner) -> LearnerState:
    """Take the learner's part of a saved state.

    Args:
        content: of the file, with the keys of :class:`LearnerState`.
        learner: is not changed.

    Raises:
        ValueError: a part is missing, of another type or shape, or not a number; the message says which. PyTorch
            raises other types for odd kinds of tensors.
    """
    average = None if learner.average is None else learner.average.module
    if (content["average"] is None) != (average is None):
        raise ValueError("a moving average where none is expected, or none where one is")
    return LearnerState(
        module=_weights(content["module"], learner.module, "weights"),
        average=None if average is None else _weights(content["average"], average, "moving average"),
        optimizer=_optimizer(content["optimizer"], learner.optimizer),
        scheduler=_scheduler(content["scheduler"], learner.scheduler.state_dict()),
        scaler=_scaler(content["scaler"], learner.scaler.state_dict()),
    )


def _weights(saved: Any, module: torch.nn.Module, what: str) -> dict[str, Tensor]:
    expected = module.state_dict()
    saved = _mapping(saved, what)
    if saved.keys() != expected.keys():
        different = sorted(str(key) for key in saved.keys() ^ expected.keys())
        raise ValueError(f"{what} with other keys, such as {different[0]}")
    return {key: check_tensor(saved[key], like, f"{what} {key}") for key, like in expected.items()}


def _optimizer(saved: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    fresh = optimizer.state_dict()
    saved = _mapping(saved, "optimizer")
    groups, states = saved.get("param_groups"), _mapping(saved.get("state"), "optimizer state")
    if not isinstance(groups, list) or len(groups) != len(fresh["param_groups"]):
        raise ValueError("other parameter groups in the optimizer")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = range(len(parameters))
    if any(type(number) is not int or number not in numbers for number in states):
        raise ValueError("other parameters in the optimizer")
    return {
        "state": {number: _moments(moments, parameters[number]) for number, moments in states.items()},
        "param_groups": [_group(group, own) for group, own in zip(groups, fresh["param_groups"], strict=True)],
    }


def _moments(saved: Any, parameter: Tensor) -> dict[str, Any]:
    saved = _mapping(saved, "optimizer state of a parameter")
    step = saved.get("step")
    if isinstance(step, Tensor):
        step = check_tensor(step, torch.tensor(0.0), "step").item()
    first, second = (check_tensor(saved.get(name), parameter, name) for name in _MOMENTS)
    if not bool((second >= 0).all()):
        raise ValueError("exp_avg_sq below 0")
    return {
        "step": torch.tensor(_number(step, "step", lambda value: value >= 0), dtype=torch.float32),
        "exp_avg": first,
        "exp_avg_sq": second,
    }


def _group(saved: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Take rate and momentum, which a schedule moves, and leave the rest as the flags say."""
    saved = _mapping(saved, "optimizer group")
    check_plain(dict(saved))
    betas = saved.get("betas")
    if not isinstance(betas, (list, tuple)) or len(betas) != 2 or saved.get("params") != own["params"]:
        raise ValueError(f"another form of the parameter group {own['name']}")
    rate = _number(saved.get("lr"), "lr", lambda value: value >= 0)
    return {**own, "lr": rate, "betas": tuple(_number(beta, "betas", lambda value: 0 <= value < 1) for beta in betas)}


def _scheduler(saved: Any, own: dict[str, Any]) -> dict[str, Any]:
    saved = _mapping(saved, "scheduler")
    rates, counts = saved.get("_last_lr"), {name: saved.get(name) for name in ("last_epoch", "_step_count")}
    if not isinstance(rates, list) or len(rates) != len(own["_last_lr"]):
        raise ValueError("other learning rates in the scheduler")
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count <= 2**53:
            raise ValueError(f"no {name} in the scheduler")
    return {**own, **counts, "_last_lr": [_number(rate, "lr", lambda value: value >= 0) for rate in rates]}


def _scaler(saved: Any, own: dict[str, Any]) -> dict[str, Any]:
    saved = _mapping(saved, "scaler")
    if not own:
        return {}
    tracked = saved.get("_growth_tracker")
    if type(tracked) is not int or not 0 <= tracked <= 2**31:
        raise ValueError("no _growth_tracker in the scaler")
    scale = _number(saved.get("scale"), "scale", lambda value: value > 0)
    return {**own, "scale": scale, "_growth_tracker": tracked}


def _mapping(value: Any, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"no {what}")
    return value


def _number(value: Any, what: str, is_valid: Callable[[float], bool]) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not is_valid(value):
        raise ValueError(f"no valid {what}")
    return float(value)


def check_tensor(value: Any, like: Tensor, what: str) -> Tensor:
    """Return a plain tensor of the shape and dtype of ``like`` that holds no NaN.

    Raises:
        ValueError: it is another one, or none.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} is no tensor")
    if value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(f"{what} of shape {tuple(value.shape)} and {value.dtype}")
    if value.layout != torch.strided or value.device.type != "cpu":
        raise ValueError(f"{what} of another layout")
    if bool(value.isnan().any()):
        raise ValueError(f"{what} holds NaN")
    return value.detach()
