"""The output folder of a training run: its log and its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from src.checkpoint import CheckpointInfo, save_checkpoint
from src.errors import UserError
from src.files import atomic_write
from src.models import SDLModel

SETTINGS = ("zero_shot", "generalized")


class RunFolder:
    """The output folder of a training run.

    ``log.jsonl`` one JSON line an epoch; ``model-last.ckpt``; ``model-best-zero_shot.ckpt`` and
    ``model-best-generalized.ckpt``, the best epochs by one metric; ``curves.png``.

    Args:
        path: the folder.
        metric: what "best" means, such as ``F1@3``.
        overwrite: replace an earlier run.

    Raises:
        UserError: the folder holds a run already, or cannot be written.
    """

    def __init__(self, path: Path, metric: str, *, overwrite: bool = False) -> None:
        self.path = path
        self.metric = metric
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, tuple[float, int]] = {}  # setting -> (value, epoch)
        # An empty log is a run that stopped in its first epoch: there is nothing to lose.
        log = path / "log.jsonl"
        if log.exists() and log.stat().st_size and not overwrite:
            raise UserError(
                f"--path_output {path} holds a training run already; choose another folder or give --overwrite"
            )
        self._write_log()
        for name in self._outputs():
            (path / name).unlink(missing_ok=True)  # of an earlier run: beside this one's log they would mislead

    def record(self, entry: dict[str, Any], model: SDLModel, info: CheckpointInfo, *, half: bool) -> list[str]:
        """Log an epoch and save its checkpoints; returns the settings of which it is the best epoch so far."""
        self.entries.append(entry)
        self._write_log()
        save_checkpoint(self.path / "model-last.ckpt", model, info, half=half)
        improved = []
        for setting in SETTINGS:
            value = entry["metrics"].get(f"{setting}.{self.metric}")
            if value is not None and value > self.best.get(setting, (-1.0, 0))[0]:
                self.best[setting] = (value, entry["epoch"])
                save_checkpoint(self.path / f"model-best-{setting}.ckpt", model, info, half=half)
                improved.append(setting)
        return improved

    @staticmethod
    def _outputs() -> tuple[str, ...]:
        return ("model-last.ckpt", *(f"model-best-{setting}.ckpt" for setting in SETTINGS), "curves.png")

    def _write_log(self) -> None:
        with atomic_write(self.path / "log.jsonl", "w") as stream:
            stream.writelines(json.dumps(entry, allow_nan=False) + "\n" for entry in self.entries)
