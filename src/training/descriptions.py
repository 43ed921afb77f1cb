"""Describe a run: at its start on the terminal, and in its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.checkpoint import CheckpointInfo, ModelConfig
from src.data.metadata import Metadata
from src.data.split import ZeroShotSplit
from src.embedding import LoaderConfig
from src.options import Unknown
from src.training.model_selection import TrainValSplit
from src.training.run_data import Data


def describe_start(
    data: Data, train_val: TrainValSplit, config: ModelConfig, loader: LoaderConfig, unknown: Unknown
) -> str:
    """Describe the data and the model of a run in a few lines."""
    split, training = data.metadata.split, data.training
    left_out = f" ({training.num_without_label} without a seen label left out)" if training.num_without_label else ""
    lines = [
        f"{split.name}: {len(split.seen)} seen and {len(split.unseen)} unseen labels, word vectors of length "
        f"{split.wordvec_dim}",
        f"{len(training.paths):,} training images{left_out}, {len(data.evaluation.paths):,} evaluation images",
    ]
    if (num_unknown := training.targets.num_unknown()) > 0:
        treated = "left out" if unknown == "ignore" else "taken as absent; --unknown ignore leaves them out"
        lines.append(f"{num_unknown:,} labels of training images are unknown: {treated}")
    if len(train_val.val_rows):
        labels = len(train_val.val.split.unseen)
        pseudo_unseen = f" and {labels} labels are pseudo-unseen" if labels else ""
        lines.append(f"to select an epoch {len(train_val.val_rows):,} training images are held out{pseudo_unseen}")
    together = f" in {loader.processes.count} processes" if loader.processes.count > 1 else ""
    lines.append(
        f"{config.model_name}, M = {config.num_rows}, {config.image_size} x {config.image_size} pixels, on "
        f"{loader.device}{together}"
    )
    return "\n".join(lines)


def describe_checkpoint(
    flags: Mapping[str, Any],
    metadata: Metadata,
    split: ZeroShotSplit,
    config: ModelConfig,
    epoch: int,
    metrics: Mapping[str, float],
) -> CheckpointInfo:
    """Describe the checkpoint of an epoch."""
    settings = {**flags, "metadata": str(metadata.folder), "epoch": epoch}
    info = CheckpointInfo("sdl", config, split, metrics=dict(metrics), settings=settings)
    if metadata.extra_words is not None:
        info.extra_words, info.extra_vectors = metadata.extra_words.words, metadata.extra_words.vectors
    return info
