"""Checkpoints: one self-describing file of this project, and the files of the released code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from src.checkpoint.info import FORMAT, CheckpointInfo, ModelConfig, info_of_dict, info_to_dict, package_versions

if TYPE_CHECKING:
    from src.checkpoint.own import load_checkpoint, save_checkpoint, save_with_calibration

__all__ = [
    "FORMAT",
    "CheckpointInfo",
    "ModelConfig",
    "info_of_dict",
    "info_to_dict",
    "load_checkpoint",
    "package_versions",
    "save_checkpoint",
    "save_with_calibration",
]


def __getattr__(name: str) -> Any:
    """The functions of own.py, on first use: it builds models, and timm takes a second to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.checkpoint import own

    return getattr(own, name)
