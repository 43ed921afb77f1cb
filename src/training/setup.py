"""From the flags of train.py to the parts of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from src.checkpoint import CheckpointInfo, ModelConfig
from src.config.train import IMAGE_SIZE
from src.data.metadata import Metadata
from src.data.parts import EvaluationSet, TrainingSet
from src.data.transforms import eval_transform, train_transform
from src.embedding import Reading
from src.inference.vocabulary import check_same_space
from src.loss_functions.SDL_loss import SDLLoss
from src.models import SDLModel
from src.models.inplace_abn import use_inplace_abn
from src.models.sdl_model import check_image_size, enable_grad_checkpointing
from src.training.batches import FeatureFeed, Feed, ImageFeed
from src.training.engine import Trained
from src.training.feature_cache import FeatureSettings
from src.training.mixed_precision import check_compiler, use_sync_bn
from src.training.model_selection import Division
from src.training.optim import MovingAverage, make_optimizer, make_schedule, parameter_groups
from src.training.starting_model import starting_model
from src.utils.distributed import Processes


def build_model(args: argparse.Namespace, metadata: Metadata) -> tuple[SDLModel, ModelConfig]:
    """The starting model with the memory options that were asked for.

    Raises:
        UserError: its file does not fit, or the backbone does not suit an option.
    """
    model, name, info = starting_model(
        args.model_path,
        model_name=args.model_name,
        num_rows=args.num_rows,
        wordvec_dim=metadata.split.wordvec_dim,
        image_size=args.image_size or IMAGE_SIZE,
        pretrain_backbone=args.pretrain_backbone,
        num_classes=args.num_classes,
    )
    if info is not None:
        check_same_space(info, metadata.split, metadata.folder)
    image_size = args.image_size or (IMAGE_SIZE if info is None else info.config.image_size)
    check_image_size(model, image_size, "--image-size")
    if args.grad_checkpointing:
        enable_grad_checkpointing(model.backbone, name)
    if args.inplace_abn:
        use_inplace_abn(model.backbone, name)
    return model, ModelConfig(name, model.num_rows, model.wordvec_dim, image_size)


def place_model(args: argparse.Namespace, model: SDLModel, device: torch.device, processes: Processes) -> SDLModel:
    """The model on its device, in the memory layout and with the batch norms that were asked for.

    Raises:
        UserError: batch norms over several processes are not to be had.
    """
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if args.sync_bn:
        model.backbone = use_sync_bn(model.backbone, device, processes.count)
    return model.to(device)


def build_feed(
    args: argparse.Namespace,
    model: SDLModel,
    sets: tuple[TrainingSet, EvaluationSet, Division],
    config: ModelConfig,
    reading: Reading,
    *,
    cache: Path,
    seed: int,
) -> Feed:
    """Cached features for a frozen backbone, augmented images otherwise."""
    evaluate_as = eval_transform(config.image_size, config.interpolation, exact=args.exact_pictures)
    if args.freeze_backbone:
        settings = FeatureSettings(
            config.model_name,
            config.image_size,
            config.interpolation,
            args.exact_pictures,
            reading.precision or torch.float32,
            reading.device.type,
            args.channels_last,
            args.inplace_abn,
        )
        return FeatureFeed(model, *sets, evaluate_as, reading, cache=args.feature_cache or cache, settings=settings)
    train_as = train_transform(
        config.image_size, cutout=args.cutout, augmentation=args.augmentation, exact=args.exact_pictures
    )
    return ImageFeed(model, *sets, (train_as, evaluate_as), reading, seed=seed, freeze_bn=args.freeze_bn)


def build_trained(
    args: argparse.Namespace,
    feed: Feed,
    criterion: SDLLoss,
    reading: Reading,
    *,
    total_steps: int,
) -> Trained:
    """Optimiser, schedule and moving average of the weights that the feed's module has.

    Raises:
        UserError: the model cannot be compiled here.
    """
    device, processes = reading.device, reading.processes
    groups = parameter_groups(feed.module, args.lr, args.weight_decay, backbone_scale=args.lr_backbone_scale)
    optimizer = make_optimizer(args.optimizer, groups, device)
    ddp = processes.wrap(feed.module, device)
    forward = feed.module if ddp is None else ddp
    if args.compile:
        check_compiler()
        forward = torch.compile(forward)  # type: ignore[assignment]  # a module again
    return Trained(
        feed.module,
        criterion.to(device),
        optimizer,
        make_schedule(args.schedule, optimizer, total_steps, args.warm_up),
        device,
        precision=None if args.freeze_backbone else reading.precision,  # a head alone is quick enough
        clip_norm=args.clip_grad_norm,
        average=None if args.ema is None else MovingAverage(feed.module, args.ema),
        processes=processes.count,
        forward=forward,
        ddp=ddp,
    )


def build_criterion(args: argparse.Namespace, metadata: Metadata, division: Division) -> SDLLoss:
    """The loss over the labels that are trained on."""
    split = division.trained_split(metadata.split)
    return SDLLoss(
        weight=args.var_weight,
        wordvec_array=split.word_vectors[:, list(split.seen)],
        normalization=args.normalization,
        unknown=args.unknown,
    )


def checkpoint_info(
    args: argparse.Namespace,
    metadata: Metadata,
    division: Division,
    config: ModelConfig,
    epoch: int,
    metrics: Mapping[str, float],
) -> CheckpointInfo:
    """All of an epoch's checkpoint but the weights."""
    settings = {**plain_settings(args), "metadata": str(metadata.folder), "epoch": epoch}
    info = CheckpointInfo(
        "sdl", config, division.trained_split(metadata.split), metrics=dict(metrics), settings=settings
    )
    if metadata.extra_words is not None:
        info.extra_words, info.extra_vectors = metadata.extra_words.words, metadata.extra_words.vectors
    return info


def plain_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as values that a checkpoint can hold; what a recipe gave is among them already."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
