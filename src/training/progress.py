"""Progress of a training run, and the form that it must have in a saved state."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import msgspec

from src.metrics.table import SETTINGS
from src.training.engine import EpochSums

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]  # neither NaN nor infinite
_Sum = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
_Name = Annotated[str, msgspec.Meta(max_length=100)]
_NEEDED = ("num_images", "num_labels", "num_labels_with_positive", "num_positives", "labels_per_image", "mAP_skip")


@dataclass
class TrainState:
    """Progress of a run, beside its weights.

    Attributes:
        seed: of order and augmentation; drawn at the start if none was given.
        epoch, step: the current epoch, counted from 1, and its finished steps.
        sums: of this epoch, in this process; in a saved state, in all of them.
        entries: the lines of log.jsonl.
        best: criterion -> (value, epoch).
        bad: messages about unreadable images, each once.
        lr: learning rates of the last step, by group.
        seconds: time spent in this epoch so far.
        finished: whether the last epoch is over.
        planned_epochs: ``--num-epochs`` of the start, which the warm-up is a fraction of; None: as it is now.
    """

    seed: int
    epoch: int = 1
    step: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    entries: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    lr: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False
    planned_epochs: int | None = None


class _Form(msgspec.Struct):
    """Types and ranges of the attributes of :class:`TrainState`."""

    seed: int
    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    step: _Count
    sums: _SumsForm
    entries: list[_Entry]
    best: dict[_Name, tuple[_Number, _Count]]
    bad: list[str]
    lr: dict[_Name, _Number]
    seconds: _Sum
    finished: bool
    planned_epochs: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None


class _SumsForm(msgspec.Struct):
    loss: _Number
    rank: _Number
    diversity: _Number
    regularizer: _Number
    images: _Sum
    gradient_norm: _Sum
    steps: _Sum
    skipped: _Sum


class _Entry(msgspec.Struct):
    """What curves and reports read of a line of log.jsonl."""

    epoch: _Count
    train: _EntryTrain
    lr: dict[_Name, _Number]
    metrics: dict[_Name, _Number]
    bad_evaluation_images: _Count
    seconds: _Sum
    selection: _EntrySelection | None = None
    ema_selection: _EntrySelection | None = None
    ema_metrics: dict[_Name, _Number] = {}


class _EntryTrain(msgspec.Struct):
    loss: _Number
    rank: _Number
    diversity: _Number
    regularizer: _Number
    gradient_norm: _Number
    num_images: _Count
    skipped_steps: _Count
    bad: _Count


class _EntrySelection(msgspec.Struct):
    name: _Name
    metric: _Name
    value: _Number


def is_finished(state: TrainState, epoch: int, num_epochs: int, patience: int | None) -> bool:
    """Return whether a run is over with an epoch: by its length, or by early stopping.

    Args:
        state: with the best epochs.
        epoch: the last one that was evaluated.
        num_epochs, patience: ``--num-epochs`` and ``--early-stopping``.
    """
    return epoch >= num_epochs or (patience is not None and without_improvement(state, epoch) >= patience)


def without_improvement(state: TrainState, epoch: int) -> int:
    """Return the number of epochs since the best one by the first criterion."""
    return epoch - next(iter(state.best.values()), (0.0, 0))[1]


def parse_progress(value: object) -> TrainState:
    """Return the progress in a saved state.

    Raises:
        ValueError: it lacks a part, or has one of another form; the message says which.
    """
    check_plain(value)
    form = msgspec.convert(value, _Form)
    assert isinstance(value, dict)
    if not -(2**63) <= form.seed < 2**64:
        raise ValueError(f"a seed of {form.seed:.3g}")
    if [entry.epoch for entry in form.entries] != list(range(1, form.epoch)):
        raise ValueError(f"the log of {len(form.entries)} epochs in epoch {form.epoch}")
    for entry in form.entries:
        _check_metrics(entry.metrics)
    stored = {attribute.name: value[attribute.name] for attribute in fields(TrainState) if attribute.name in value}
    stored["sums"] = EpochSums(**{attribute.name: value["sums"][attribute.name] for attribute in fields(EpochSums)})
    stored["best"] = {name: (number, epoch) for name, (number, epoch) in value["best"].items()}
    return TrainState(**stored)


def check_plain(value: object) -> None:
    """Check that a value consists of plain containers, text, numbers and None: what msgspec looks at.

    Raises:
        ValueError: it holds anything else.
    """
    waiting = [value]
    visited: set[int] = set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, (dict, list, tuple)):
            if id(one) in visited:  # a container may hold itself
                continue
            visited.add(id(one))
        if isinstance(one, dict):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
        elif one is not None and type(one) not in (str, int, float, bool):
            raise ValueError(f"a {type(one).__name__}")


def _check_metrics(metrics: Mapping[str, float]) -> None:
    """Check that the metrics can be reported."""
    for setting in SETTINGS:
        missing = [name for name in _NEEDED if f"{setting}.{name}" not in metrics]
        if f"{setting}.mAP" in metrics and missing:
            raise ValueError(f"metrics without {setting}.{missing[0]}")
