"""The output folder of a training run: its log, its checkpoints, its state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from src.checkpoint import CheckpointInfo, save_checkpoint
from src.errors import UserError
from src.models import SDLModel
from src.training.state import PREVIOUS, STATE
from src.utils.files import atomic_write, check_writable

LOG = "log.jsonl"
EVENTS = "tensorboard"


class Candidate(NamedTuple):
    """Weights of an epoch that may be the best: the model itself, or its moving average.

    Attributes:
        suffix: of the file name: empty, or ``-ema``.
        model: the weights.
        info: the rest of the checkpoint, with the metrics of these weights.
        choices: choice -> value, the larger the better, such as ``zero_shot`` -> F1@3 in percent.
    """

    suffix: str
    model: SDLModel
    info: CheckpointInfo
    choices: Mapping[str, float]


class RunFolder:
    """The output folder of a training run.

    ``log.jsonl`` one JSON line an epoch; ``model-last.ckpt`` the last epoch; ``model-best-<choice>.ckpt`` the best
    epoch by each choice; ``model-epoch-0005.ckpt`` further epochs; ``-ema`` in a name: the moving average.

    Args:
        path: the folder.
        half: store weight matrices in half precision.
        every: also keep every so many epochs' checkpoint; None: none.
        keep: how many of these stay, the latest; None: all.
    """

    def __init__(self, path: Path, *, half: bool = False, every: int | None = None, keep: int | None = None) -> None:
        self.path = path
        self._half, self._every, self._keep = half, every, keep

    def check(self, *, goes_on: bool, resume: bool, overwrite: bool) -> None:
        """Make sure that a run can write here; an earlier one stays as it is.

        Args:
            goes_on: there is a state from which this run goes on.
            resume, overwrite: the flags.

        Raises:
            UserError: the folder holds a run that would be lost, or cannot be written.
        """
        # An empty log is a run that stopped in its first epoch: there is nothing to lose.
        log = self.path / LOG
        if not goes_on and not overwrite and log.is_file() and log.stat().st_size:
            what = "without a state to go on from" if resume else "already"
            way = "" if resume else "--resume to go on with it, or "
            raise UserError(
                f"--path_output {self.path} holds a training run {what}; choose another folder, or give {way}"
                "--overwrite to replace it"
            )
        check_writable(log, "--path_output")

    def start(self, *, goes_on: bool) -> None:
        """Remove what a killed run left half-written and, for a new run, what an earlier one left.

        The state goes first: a run that is killed here must not go on with the earlier one's.
        """
        for file in self.path.glob(".*.tmp"):
            file.unlink(missing_ok=True)
        if goes_on:
            return
        for name in (f"{STATE}.new", STATE, PREVIOUS):
            (self.path / name).unlink(missing_ok=True)
        self.write_log([])
        for pattern in ("model-*.ckpt", "model-*.ckpt.sha256", "*.png", "report.html"):
            for file in self.path.glob(pattern):
                file.unlink()  # beside this run's log it would mislead
        shutil.rmtree(self.path / EVENTS, ignore_errors=True)

    def record(
        self, entries: list[dict[str, Any]], candidates: list[Candidate], best: dict[str, tuple[float, int]]
    ) -> list[str]:
        """Log an epoch, the last of ``entries``, and save its checkpoints.

        Args:
            entries: the whole log.
            candidates: the weights of this epoch.
            best: choice -> (value, epoch); is brought up to date.

        Returns:
            The choices of which this epoch is the best so far.
        """
        self.write_log(entries)
        epoch = entries[-1]["epoch"]
        for candidate in candidates:
            self._save(f"model-last{candidate.suffix}.ckpt", candidate)
            if self._every is not None and epoch % self._every == 0:
                self._save(f"model-epoch-{epoch:04d}{candidate.suffix}.ckpt", candidate)
        self._prune()
        improved = []
        for choice in candidates[0].choices:
            leader = max(candidates, key=lambda candidate: candidate.choices[choice])
            value = leader.choices[choice]
            if value > best.get(choice, (-1.0, 0))[0]:
                best[choice] = (value, epoch)
                self._save(f"model-best-{choice}.ckpt", leader)
                improved.append(choice)
        return improved

    def write_log(self, entries: list[dict[str, Any]]) -> None:
        """Write ``log.jsonl`` anew."""
        with atomic_write(self.path / LOG, "w") as stream:
            stream.writelines(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)

    def _save(self, name: str, candidate: Candidate) -> None:
        save_checkpoint(self.path / name, candidate.model, candidate.info, half=self._half)

    def _prune(self) -> None:
        if self._keep is None:
            return
        epochs = sorted({file.name[: len("model-epoch-0000")] for file in self.path.glob("model-epoch-*.ckpt")})
        for stem in epochs[: -self._keep]:
            for file in self.path.glob(f"{stem}*"):
                file.unlink()
