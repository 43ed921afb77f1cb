"""Save and restore the full training state; the previous file is kept as a backup."""

from __future__ import annotations

import hashlib
import os
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from src.data.parts import TrainingSet
from src.data.split import ZeroShotSplit
from src.errors import UserError
from src.training.engine import Learner
from src.training.progress import TrainState
from src.training.run_files import PREVIOUS, STATE
from src.utils.files import atomic_write
from src.utils.manifest import Manifest, digest_of

FORMAT = "sdl-training-state/3"
# Flags that may differ when a run is resumed: they change where things are read and written, not the numbers.
FREE_SETTINGS = frozenset(
    {"resume", "overwrite", "workers", "path_output", "save_steps", "save_epochs", "keep", "max_bad_images",
     "tensorboard", "recipe", "feature_cache", "half_weights", "device"}
)  # fmt: skip


class StoredState(NamedTuple):
    """A state as it was read.

    Attributes:
        path: the file.
        content: of the file.
        progress: part of it.
    """

    path: Path
    content: dict[str, Any]
    progress: TrainState


@dataclass(frozen=True)
class RunIdentity:
    """Settings and data that must be equal to resume a run.

    Attributes:
        settings: flags as plain values, the precision in use, and the number of processes.
        data: facts of the data, see :func:`data_facts`.
        defaults: values of the flags, for those that the version of the run's start did not have.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def check(self, stored: StoredState) -> None:
        """Compare with a saved state.

        Raises:
            UserError: the flags or the data differ; all differences are named.
        """
        then = {**self.defaults, **stored.content["settings"]}
        flags = _differences(then, self.settings, "--")
        if flags.keys() == {"num_epochs"} and self.settings.get("schedule") != "constant":
            raise UserError(
                f"--resume: the run was started with other flags: {flags['num_epochs']}; give that again. Under "
                f"--schedule {self.settings.get('schedule')} the learning rates of all epochs depend on their number; "
                "only --schedule constant can go on for more. To train on, start a new run from the last weights: "
                "--model-path .../model-last.ckpt and another --path_output"
            )
        if "num_epochs" in flags and self.settings.get("schedule") == then.get("schedule") == "constant":
            self._check_length(flags.pop("num_epochs"), stored.progress)
        if flags:
            raise UserError(
                f"--resume: the run was started with other flags: {', '.join(flags.values())}; give those again"
            )
        data = _differences(stored.content["data"], self.data)
        if data:
            raise UserError(f"--resume: the data are not those of the run: {', '.join(data.values())}")

    def _check_length(self, difference: str, progress: TrainState) -> None:
        """Check another number of epochs under a constant schedule, whose rates do not depend on it."""
        begun = progress.epoch - (progress.step == 0)
        if self.settings["num_epochs"] < begun:
            raise UserError(f"--resume: {difference}: epoch {begun} of the run has begun; give at least that many")


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Describe each value that differs, by name."""
    return {
        name: f"{prefix}{name} {value} (was {textwrap.shorten(str(then.get(name)), 80)})"
        for name, value in now.items()
        if name not in FREE_SETTINGS and then.get(name) != value
    }


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


def save_state(
    folder: Path,
    learner: Learner,
    state: TrainState,
    identity: RunIdentity,
    manifest: Manifest | None = None,
    *,
    replaces: bool = False,
) -> None:
    """Write ``state.pt``; the file that was there becomes ``state-previous.pt`` before, so that one is always whole.

    Args:
        folder: of the run.
        learner, state, identity: to save.
        manifest: of the folder, where the new name is recorded.
        replaces: the file that is there is another run's, and is replaced in one step.

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
    if path.exists() and not replaces:
        if manifest is not None:
            manifest.record(folder / PREVIOUS, digest_of(path))
        os.replace(path, folder / PREVIOUS)
    with atomic_write(path) as stream:
        torch.save(content, stream)
