"""All that a training run needs to go on exactly: one file, with the one before it as a reserve."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from src.data.parts import TrainingSet
from src.data.split import ZeroShotSplit
from src.errors import UserError
from src.models.state_files import read_state_file
from src.training.engine import EpochSums, Trained
from src.utils.files import atomic_write

FORMAT = "sdl-training-state/1"
STATE, PREVIOUS = "state.pt", "state-previous.pt"
# Flags that may differ when a run goes on: they change what is read and written where, not the numbers.
FREE_SETTINGS = frozenset(
    {"resume", "overwrite", "workers", "path_output", "save_steps", "save_epochs", "keep", "max_bad_images",
     "tensorboard", "recipe", "feature_cache", "half_weights", "device"}
)  # fmt: skip


@dataclass
class Progress:
    """How far a run has come, beside its weights.

    Attributes:
        epoch, step: the epoch that it is in, counted from 1, and the steps of it that are done.
        sums: of this epoch, in this process.
        sums_elsewhere: in a state, those of the second process and further ones.
        seed: of order and augmentation; drawn once where the user gave none.
        entries: the lines of log.jsonl.
        best: choice -> (value, epoch).
        bad: messages about unreadable images, each once.
        lr: learning rates of the last step, by group.
        seconds: spent in this epoch before the run stopped.
        finished: whether the last epoch is over.
    """

    seed: int
    epoch: int = 1
    step: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    entries: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    lr: dict[str, float] = field(default_factory=dict)
    sums_elsewhere: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False


def data_facts(training: TrainingSet, split: ZeroShotSplit) -> dict[str, Any]:
    """What the order of an epoch and the meaning of the weights depend on: a state fits no other data."""
    digest = hashlib.sha256("\n".join(split.labels).encode("utf-8", "surrogateescape"))
    digest.update(repr(split.seen).encode())
    digest.update(split.word_vectors.contiguous().numpy().tobytes())
    images = hashlib.sha256("\n".join(path.name for path in training.paths).encode("utf-8", "surrogateescape"))
    for tensor in (training.targets.offsets, training.targets.columns, training.targets.values):
        images.update(tensor.numpy().tobytes())
    return {
        "training images": len(training.paths),
        "labels and word vectors": digest.hexdigest()[:16],
        "images with their labels": images.hexdigest()[:16],
    }


def save_state(
    folder: Path, trained: Trained, progress: Progress, settings: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Write ``state.pt``; the file that was there becomes ``state-previous.pt``.

    At every moment one of the two is whole, whatever kills the run.

    Args:
        folder: of the run.
        trained, progress: what to save.
        settings: the flags as plain values.
        data: facts of the data that order and labels depend on.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        "format": FORMAT,
        "module": trained.module.state_dict(),
        "average": None if trained.average is None else trained.average.module.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "scheduler": trained.scheduler.state_dict(),
        "scaler": trained.scaler.state_dict(),
        "progress": asdict(progress),
        "settings": dict(settings),
        "data": dict(data),
    }
    state = folder / STATE
    with atomic_write(folder / f"{STATE}.new") as stream:
        torch.save(content, stream)
    if state.exists():
        os.replace(state, folder / PREVIOUS)
    os.replace(folder / f"{STATE}.new", state)


def read_state(folder: Path) -> dict[str, Any] | None:
    """The latest whole state of a run, or None where the folder has none.

    A file that a crash cut short is passed over for the one before it, which is said on standard error.

    Raises:
        UserError: there are files, but none that can be read.
    """
    problems: list[str] = []
    for name in (f"{STATE}.new", STATE, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = read_state_file(path)
            _check_bits(path)
            if content.get("format") != FORMAT:
                raise UserError(f"{path} is no training state of this version")
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            print(f"going on from {path}: {'; '.join(problems)}", file=sys.stderr)
        return dict(content)
    if problems:
        raise UserError(
            f"--resume: no state in {folder} can be read ({'; '.join(problems)}); give --overwrite to start anew"
        )
    return None


def _check_bits(path: Path) -> None:
    """Raise :class:`UserError` where a bit was lost: PyTorch writes check sums, and does not look at them."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        damaged = str(error)
    if damaged is not None:
        raise UserError(f"{path} cannot be read; it is damaged ({damaged})")


def restore(
    content: Mapping[str, Any], trained: Trained, settings: Mapping[str, Any], data: Mapping[str, Any]
) -> Progress:
    """Put a state back into what is trained.

    Raises:
        UserError: the flags or the data are not those of the run.
    """
    differing = [
        f"--{name} {settings[name]} (was {content['settings'].get(name)})"
        for name in settings
        if name not in FREE_SETTINGS and content["settings"].get(name) != settings[name]
    ]
    if differing:
        raise UserError(f"--resume: the run was started with other flags: {', '.join(differing)}; give those again")
    changed = [
        f"{name} {data[name]} (was {content['data'].get(name)})"
        for name in data
        if content["data"].get(name) != data[name]
    ]
    if changed:
        raise UserError(f"--resume: the data are not those of the run: {', '.join(changed)}")
    if bool(content["scaler"]) != trained.scaler.is_enabled():
        with_or_without = "with" if content["scaler"] else "without"
        raise UserError(
            f"--resume: the state was saved {with_or_without} a loss scaler; give the --precision of the run's start"
        )
    trained.module.load_state_dict(content["module"])
    if trained.average is not None:
        trained.average.module.load_state_dict(content["average"])
    trained.optimizer.load_state_dict(content["optimizer"])
    trained.scheduler.load_state_dict(content["scheduler"])
    trained.scaler.load_state_dict(content["scaler"])
    stored = dict(content["progress"])
    stored["sums"] = EpochSums(**stored["sums"])
    stored["best"] = {name: (value, epoch) for name, (value, epoch) in stored["best"].items()}
    return Progress(**stored)
