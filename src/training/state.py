"""Save and restore the full training state; the previous file is kept as a backup."""

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
from src.training.engine import EpochSums, Learner
from src.utils.files import atomic_write

FORMAT = "sdl-training-state/3"
STATE, PREVIOUS = "state.pt", "state-previous.pt"
# Flags that may differ when a run is resumed: they change where things are read and written, not the numbers.
FREE_SETTINGS = frozenset(
    {"resume", "overwrite", "workers", "path_output", "save_steps", "save_epochs", "keep", "max_bad_images",
     "tensorboard", "recipe", "feature_cache", "half_weights", "device"}
)  # fmt: skip


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


@dataclass(frozen=True)
class RunIdentity:
    """Settings and data that must be equal to resume a run.

    Attributes:
        settings: flags as plain values, the precision in use, and the number of processes.
        data: facts of the data, see :func:`data_facts`.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, Any]

    def check(self, content: Mapping[str, Any]) -> None:
        """Compare with a saved state.

        Raises:
            UserError: the flags or the data differ; all differences are named.
        """
        flags = _differences(content["settings"], self.settings, "--")
        if flags:
            raise UserError(f"--resume: the run was started with other flags: {', '.join(flags)}; give those again")
        data = _differences(content["data"], self.data)
        if data:
            raise UserError(f"--resume: the data are not those of the run: {', '.join(data)}")


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [
        f"{prefix}{name} {value} (was {then.get(name)})"
        for name, value in now.items()
        if name not in FREE_SETTINGS and then.get(name) != value
    ]


def data_facts(training: TrainingSet, split: ZeroShotSplit) -> dict[str, Any]:
    """Identify the data that the order of an epoch and the meaning of the weights depend on."""
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


def save_state(folder: Path, learner: Learner, state: TrainState, identity: RunIdentity) -> None:
    """Write ``state.pt``; the file that was there becomes ``state-previous.pt`` before, so that one is always whole.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        "format": FORMAT,
        "module": learner.module.state_dict(),
        "average": None if learner.average is None else learner.average.module.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "progress": asdict(state),
        "settings": dict(identity.settings),
        "data": dict(identity.data),
    }
    path = folder / STATE
    if path.exists():
        os.replace(path, folder / PREVIOUS)
    with atomic_write(path) as stream:
        torch.save(content, stream)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the latest intact state of a run; None if the folder has none.

    A damaged file is reported on standard error, and the one before it is used.

    Raises:
        UserError: there are files, but none can be read.
    """
    problems: list[str] = []
    for name in (STATE, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = read_state_file(path)
            _check_crc(path)
            if content.get("format") != FORMAT:
                raise UserError(f"{path} is no training state of this version")
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            print(f"resuming from {path}: {'; '.join(problems)}", file=sys.stderr)
        return dict(content)
    if problems:
        raise UserError(
            f"--resume: no state in {folder} can be read ({'; '.join(problems)}); give --overwrite to start a new run"
        )
    return None


def _check_crc(path: Path) -> None:
    """Raise :class:`UserError` for a damaged file: PyTorch writes checksums, but does not verify them."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        damaged = str(error)
    if damaged is not None:
        raise UserError(f"{path} cannot be read; it is damaged ({damaged})")


def restore(content: Mapping[str, Any], learner: Learner, identity: RunIdentity) -> TrainState:
    """Load a saved state into the learner.

    Raises:
        UserError: flags, data or precision are not those of the run.
    """
    identity.check(content)
    if bool(content["scaler"]) != learner.scaler.is_enabled():
        with_or_without = "with" if content["scaler"] else "without"
        raise UserError(
            f"--resume: the state was saved {with_or_without} a loss scaler; give the --precision of the run's start"
        )
    learner.module.load_state_dict(content["module"])
    if learner.average is not None:
        learner.average.module.load_state_dict(content["average"])
    learner.optimizer.load_state_dict(content["optimizer"])
    learner.scheduler.load_state_dict(content["scheduler"])
    learner.scaler.load_state_dict(content["scaler"])
    stored = dict(content["progress"])
    stored["sums"] = EpochSums(**stored["sums"])
    stored["best"] = {name: (value, epoch) for name, (value, epoch) in stored["best"].items()}
    return TrainState(**stored)
