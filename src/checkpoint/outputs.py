"""Checkpoints as outputs of a script: which files saving one writes, and which existing ones it may replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from src.utils.digest import is_side_file, side_file
from src.utils.outputs import Output
from src.utils.streams import is_stream


def checkpoint_outputs(flag: str, path: Path, is_own: Callable[[Mapping[str, Any]], bool]) -> dict[str, Output]:
    """Return what :func:`src.checkpoint.digest.save_with_digest` writes.

    Args:
        flag: names the checkpoint.
        path: the checkpoint.
        is_own: says of the content of an existing checkpoint whether the script wrote it: a trained one is never
            replaced by accident.
    """

    def is_own_file(existing: Path) -> bool:
        from src.models.state_files import read_state_file  # PyTorch takes a second to import

        return is_own(read_state_file(existing))

    outputs = {flag: Output(path, is_own_file)}
    if not is_stream(path):
        outputs[f"{flag}, its digest"] = Output(side_file(path), is_side_file)
    return outputs


def is_calibrated(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a checkpoint is that of ``validate.py --fit-thresholds``."""
    return content.get("calibration") is not None


def is_average(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a checkpoint is that of ``python -m src.checkpoint average``."""
    return "averaged" in content.get("settings", {})
