"""Checkpoints: one self-describing file of this project, and the files of the released code.

Names are imported on first use, so that ``python -m src.checkpoint --help`` and ``verify`` start without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.checkpoint.info import FORMAT, CheckpointInfo, ModelConfig, package_versions
    from src.checkpoint.own import load_checkpoint, save_checkpoint, save_with_calibration

__all__ = [
    "FORMAT",
    "CheckpointInfo",
    "ModelConfig",
    "load_checkpoint",
    "package_versions",
    "save_checkpoint",
    "save_with_calibration",
]

_BUILDS_MODELS = ("load_checkpoint", "save_checkpoint", "save_with_calibration")  # timm takes a second to import


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"src.checkpoint.{'own' if name in _BUILDS_MODELS else 'info'}"), name)
