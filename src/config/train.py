"""Settings of train.py, which its flags (``train_flags.py``) give."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config.settings import settings_of
from src.errors import UserError
from src.options import (
    Augmentation,
    Device,
    DistBN,
    Images,
    Normalization,
    Optimizer,
    Precision,
    Schedule,
    Selection,
    Truncated,
    Unknown,
)

IMAGE_SIZE = 224
MAX_LR = 1e30
LR_FINE_TUNING = 2.5e-5  # the released COCO script
LR_FROZEN = 1e-3  # a fresh head on fixed features takes a larger one (chosen on Corel5k, docs/results.md)


@dataclass(frozen=True)
class DataSettings:
    """Location of the data and reading of images; the attributes are the flags of the same names."""

    metadata: str | None
    data: str | None
    wordvec_dim: int | None
    augmentation: Augmentation
    cutout: float
    exact_pictures: bool
    workers: int
    max_pixels: int | None = None
    truncated: Truncated = "refuse"


@dataclass(frozen=True)
class ModelSettings:
    """The model, its initial weights and its trained part; the attributes are the flags of the same names."""

    model_name: str | None = None
    model_path: str = "auto"
    use_ema: bool = False
    pretrain_backbone: int | None = None
    num_classes: int | None = None
    num_rows: int | None = None
    class_words: float | None = None
    image_size: int | None = None
    freeze_backbone: bool = False
    feature_cache: Path | None = None
    freeze_bn: bool = False
    grad_checkpointing: bool = False
    inplace_abn: bool = False
    channels_last: bool = False
    sync_bn: bool = False


@dataclass(frozen=True)
class LossSettings:
    """The loss; the attributes are the flags of the same names."""

    var_weight: float | None
    normalization: Normalization
    unknown: Unknown


@dataclass(frozen=True)
class OptimSettings:
    """The optimisation step; the attributes are the flags of the same names."""

    optimizer: Optimizer
    lr: float
    lr_backbone_scale: float
    schedule: Schedule
    warm_up: float
    weight_decay: float
    clip_grad_norm: float | None
    ema: float | None
    compile: bool


@dataclass(frozen=True)
class RunSettings:
    """Length of the run and size of its steps; the attributes are the flags of the same names."""

    num_epochs: int
    batch_size: int
    accumulate: int
    early_stopping: int | None
    save_steps: int
    max_bad_images: int | None
    dist_bn: DistBN


@dataclass(frozen=True)
class SelectionSettings:
    """Selection of the best epoch; the attributes are the flags of the same names."""

    images: Images
    select_on: Selection
    val_share: float
    held_out_labels: float
    best_metric: str


@dataclass(frozen=True)
class OutputSettings:
    """The output folder; the attributes are the flags of the same names."""

    path_output: Path
    overwrite: bool
    resume: bool
    save_epochs: int | None
    keep: int | None
    tensorboard: bool
    half_weights: bool


@dataclass(frozen=True)
class TrainSettings:
    """Settings of train.py.

    Attributes:
        data, model, loss, optim, run, selection, output: the flags in groups.
        device, precision, autocast_enabled, seed: the flags of these names.
        flags: all flags by name, as plain values, for checkpoints and reports.
    """

    data: DataSettings
    model: ModelSettings
    loss: LossSettings
    optim: OptimSettings
    run: RunSettings
    selection: SelectionSettings
    output: OutputSettings
    device: Device
    precision: Precision | None
    autocast_enabled: bool
    seed: int | None
    flags: Mapping[str, Any]


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in the flags whose defaults depend on others."""
    args.lr = args.lr or (LR_FROZEN if args.freeze_backbone else LR_FINE_TUNING)
    # When a process dies, torchrun restarts all of them with the flags of the first start: now they resume
    args.resume = args.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return args


def train_settings(args: argparse.Namespace) -> TrainSettings:
    """Group the parsed flags.

    Raises:
        UserError: a learning rate with which Adam's step leaves the range of float32.
    """
    if args.lr * max(1.0, args.lr_backbone_scale) > MAX_LR:
        raise UserError(
            f"--lr {args.lr:g}: times --lr-backbone-scale {args.lr_backbone_scale:g} it is above {MAX_LR:g}; give a "
            "smaller one"
        )
    return TrainSettings(
        data=settings_of(DataSettings, args),
        model=settings_of(ModelSettings, args),
        loss=settings_of(LossSettings, args),
        optim=settings_of(OptimSettings, args),
        run=settings_of(RunSettings, args),
        selection=settings_of(SelectionSettings, args),
        output=settings_of(OutputSettings, args),
        device=args.device,
        precision=args.precision,
        autocast_enabled=bool(args.autocast_enabled),
        seed=args.seed,
        flags={name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
    )
