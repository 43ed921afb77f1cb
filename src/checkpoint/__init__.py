"""Checkpoints: one self-describing file of this project, and the files of the released code."""

from src.checkpoint.info import FORMAT, CheckpointInfo, ModelConfig, info_of_dict, info_to_dict, package_versions
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
