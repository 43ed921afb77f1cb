"""Output folder of a training run: log and checkpoints."""

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
        criteria: name -> value, the larger the better, such as ``zero_shot`` -> F1@3 in percent.
    """

    suffix: str
    model: SDLModel
    info: CheckpointInfo
    criteria: Mapping[str, float]


class RunFolder:
    """Write the log and the checkpoints of a training run.

    ``log.jsonl``: one JSON line per epoch; ``model-last.ckpt``: the last epoch; ``model-best-<criterion>.ckpt``: the
    best epoch by each criterion; ``model-epoch-0005.ckpt``: further epochs; ``-ema`` in a name: the moving average.

    Args:
        path: the folder.
        half: store weight matrices in half precision.
        every: keep the checkpoint of every N-th epoch; None: of none.
        keep: number of these to keep, the latest; None: all.
    """

    def __init__(self, path: Path, *, half: bool = False, every: int | None = None, keep: int | None = None) -> None:
        self.path = path
        self._half, self._every, self._keep = half, every, keep

    def check(self, *, has_state: bool, resume: bool, overwrite: bool) -> None:
        """Check that a run can write here, without changing anything.

        Args:
            has_state: there is a state to resume from.
            resume, overwrite: the flags.

        Raises:
            UserError: the folder holds a run that would be lost, or cannot be written.
        """
        # An empty log belongs to a run that stopped in its first epoch: there is nothing to lose.
        log = self.path / LOG
        if not has_state and not overwrite and log.is_file() and log.stat().st_size:
            what = "without a state to resume from" if resume else "already"
            way = "" if resume else "--resume to resume it, or "
            raise UserError(
                f"--path_output {self.path} holds a training run {what}; choose another folder, or give {way}"
                "--overwrite to replace it"
            )
        check_writable(log, "--path_output")

    def start(self, *, resumed: bool) -> None:
        """Remove temporary files of a killed run and, for a new run, all files of an earlier one.

        The state is removed first: if this run is killed now, it must not resume the earlier one.
        """
        for file in self.path.glob(".*.tmp"):
            file.unlink(missing_ok=True)
        if resumed:
            return
        for name in (STATE, PREVIOUS):
            (self.path / name).unlink(missing_ok=True)
        self.write_log([])
        for pattern in ("model-*.ckpt", "model-*.ckpt.sha256", "*.png", "report.html"):
            for file in self.path.glob(pattern):
                file.unlink()
        shutil.rmtree(self.path / EVENTS, ignore_errors=True)

    def record(
        self, entries: list[dict[str, Any]], candidates: list[Candidate], best: dict[str, tuple[float, int]]
    ) -> list[str]:
        """Log an epoch, the last of ``entries``, and save its checkpoints.

        Args:
            entries: the whole log.
            candidates: the weights of this epoch.
            best: criterion -> (value, epoch); updated here.

        Returns:
            The criteria by which this epoch is the best so far.
        """
        self.write_log(entries)
        epoch = entries[-1]["epoch"]
        for candidate in candidates:
            self._save(f"model-last{candidate.suffix}.ckpt", candidate)
            if self._every is not None and epoch % self._every == 0:
                self._save(f"model-epoch-{epoch:04d}{candidate.suffix}.ckpt", candidate)
        self._prune()
        improved = []
        for criterion in candidates[0].criteria:
            winner = max(candidates, key=lambda candidate: candidate.criteria[criterion])
            value = winner.criteria[criterion]
            if value > best.get(criterion, (-1.0, 0))[0]:
                best[criterion] = (value, epoch)
                self._save(f"model-best-{criterion}.ckpt", winner)
                improved.append(criterion)
        return improved

    def write_log(self, entries: list[dict[str, Any]]) -> None:
        """Write ``log.jsonl``."""
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
