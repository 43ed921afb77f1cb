#!/usr/bin/env python3
"""Train a zero-shot multi-label model: a zero-shot split in, a checkpoint and its curves out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from src.checkpoint import CheckpointInfo, ModelConfig
from src.cli import choose_device, run_script, seed_everything
from src.data.metadata import Metadata, detect_kind, load_metadata
from src.data.parts import EvaluationSet, TrainingSet, load_evaluation_set, load_training_set
from src.data.transforms import eval_transform, train_transform
from src.engine import (
    EpochResult,
    NonFiniteLossError,
    Step,
    decay_groups,
    one_cycle,
    train_one_epoch,
)
from src.errors import UserError, blaming
from src.evaluation import check_image_size, evaluate
from src.loss_functions.SDL_loss import SDLLoss
from src.models import SDLModel
from src.models.inplace_abn import use_inplace_abn
from src.models.sdl_model import enable_grad_checkpointing
from src.report import format_report, summary
from src.run_folder import RunFolder
from src.train_flags import IMAGE_SIZE, LR_FINE_TUNING, LR_FROZEN, train_parser
from src.training import (
    FeatureFeed,
    Feed,
    LoaderOptions,
    PictureFeed,
    present_rows,
    starting_model,
    warn_about_bad_pictures,
)
from src.vocabulary import check_same_space

OFFICIAL_METADATA = Path("data/COCO")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if the loss stopped being finite."""
    return run_script("train.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = train_parser(__doc__).parse_args(argv)
    args.lr = args.lr or (LR_FROZEN if args.freeze_backbone else LR_FINE_TUNING)
    seed_everything(args.seed)
    device = choose_device(args.device)
    with blaming("--metadata"):
        metadata = load_metadata(metadata_folder(args.metadata, args.data))
    if args.wordvec_dim not in (None, metadata.split.wordvec_dim):
        raise UserError(
            f"--wordvec_dim {args.wordvec_dim}: the word vectors in {metadata.folder} have length "
            f"{metadata.split.wordvec_dim}; leave the flag out"
        )
    with blaming("--metadata"):
        training, evaluation = load_training_set(metadata, args.data), load_evaluation_set(metadata, args.data)
    with blaming("--model-path"):
        model, config = build_model(args, metadata)
    with blaming("--path_output"):
        folder = RunFolder(args.path_output, args.best_metric, overwrite=args.overwrite)
    print(describe(metadata, training, evaluation, config, device))
    feed = build_feed(args, model.to(device), training, evaluation, metadata, config, device)
    try:
        fit(args, model, feed, evaluation, metadata, config, folder, device)
    except NonFiniteLossError as error:
        remedy = "lower --lr or give --autocast-enabled 0" if mixed_precision(args, device) else "lower --lr"
        print(f"train.py: the loss is not finite at {error}; {remedy}", file=sys.stderr)
        return 1
    finish(args, folder)
    return 0


def metadata_folder(metadata: str | None, data: str | None) -> Path:
    """``--metadata``; without it ``--data`` where that is a metadata folder; else the released script's default.

    Raises:
        UserError: there is none of them.
    """
    if metadata is not None:
        return Path(metadata)
    if data is not None and detect_kind(Path(data)) is not None:
        return Path(data)
    if detect_kind(OFFICIAL_METADATA) is None:
        given = "" if data is None else f"--data {data} is no metadata folder, and "
        raise UserError(
            f"--metadata is needed: {given}there is none at ./{OFFICIAL_METADATA}; make one with prepare_data.py and "
            "give --metadata DIR"
        )
    return OFFICIAL_METADATA


def build_model(args: argparse.Namespace, metadata: Metadata) -> tuple[SDLModel, ModelConfig]:
    """The starting model with the memory options that were asked for."""
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


def build_feed(
    args: argparse.Namespace,
    model: SDLModel,
    training: TrainingSet,
    evaluation: EvaluationSet,
    metadata: Metadata,
    config: ModelConfig,
    device: torch.device,
) -> Feed:
    """Cached features for a frozen backbone, augmented pictures otherwise."""
    options = LoaderOptions(args.batch_size, args.workers, args.seed, pin_memory=device.type == "cuda")
    autocast = mixed_precision(args, device)
    evaluate_as = eval_transform(config.image_size, config.interpolation)
    if args.freeze_backbone:
        cache = args.feature_cache or metadata.folder / "feature_cache"
        return FeatureFeed(
            model,
            training,
            evaluation,
            evaluate_as,
            options,
            device,
            autocast,
            cache,
            facts=(config.model_name, config.image_size, config.interpolation),
        )
    train_as = train_transform(config.image_size, cutout=args.cutout, augmentation=args.augmentation)
    return PictureFeed(model, training, evaluation, (train_as, evaluate_as), options, device, autocast, args.freeze_bn)


def mixed_precision(args: argparse.Namespace, device: torch.device) -> bool:
    """Whether to run under autocast: on a GPU, unless it is switched off."""
    return bool(args.autocast_enabled) and device.type == "cuda"


def fit(
    args: argparse.Namespace,
    model: SDLModel,
    feed: Feed,
    evaluation: EvaluationSet,
    metadata: Metadata,
    config: ModelConfig,
    folder: RunFolder,
    device: torch.device,
) -> None:
    """Train and evaluate for ``--num-epochs`` (released recipe: Adam, OneCycle with 10% warm-up)."""
    split = metadata.split
    criterion = SDLLoss(
        weight=args.var_weight,
        wordvec_array=split.word_vectors[:, list(split.seen)],
        normalization=args.normalization,
        unknown=args.unknown,
    ).to(device)
    optimizer = torch.optim.Adam(decay_groups(feed.module, args.weight_decay), lr=args.lr)
    scheduler = one_cycle(optimizer, args.lr, total_steps=args.num_epochs * feed.steps)
    scaler = torch.amp.GradScaler(device.type) if mixed_precision(args, device) and not args.freeze_backbone else None
    known_bad: set[str] = set()
    for epoch in range(1, args.num_epochs + 1):
        started = time.monotonic()
        feed.set_training()
        with tqdm(
            total=feed.steps, desc=f"epoch {epoch}/{args.num_epochs}", unit="step", disable=None, leave=False
        ) as bar:
            result = train_one_epoch(
                feed.module,
                criterion,
                optimizer,
                scheduler,
                feed.batches(),
                device=device,
                scaler=scaler,
                on_step=lambda step, bar=bar: show(bar, step),
            )
        if result.num_pictures == 0:
            raise UserError(f"--data: none of the {len(result.bad)} training pictures can be read ({result.bad[0]})")
        embedded = feed.embeddings()
        warn_about_bad_pictures(result.bad + embedded.bad, known_bad)
        report = evaluate(
            embedded.outputs,
            split.word_vectors,
            seen=split.seen,
            unseen=split.unseen,
            device=device,
            images=args.images,
            **present_rows(evaluation, embedded.rows),
        )
        entry = epoch_entry(epoch, result, report, len(embedded.bad), time.monotonic() - started)
        info = CheckpointInfo("sdl", config, split, metrics=report, settings=settings_of(args, metadata, epoch))
        if metadata.extra_words is not None:
            info.extra_words, info.extra_vectors = metadata.extra_words.words, metadata.extra_words.vectors
        improved = folder.record(entry, model, info, half=args.half_weights)
        best = f"  (best {' and '.join(improved)} so far)" if improved else ""
        print(
            f"epoch {epoch}/{args.num_epochs}  loss {result.loss:.3f}  {summary(report)}  {entry['seconds']:.1f} "
            f"s{best}",
            flush=True,
        )


def show(bar: Any, step: Step) -> None:
    """One step on the progress bar."""
    bar.set_postfix_str(
        f"loss {step.loss:.2f} rank {step.rank:.2f} omega {step.diversity:.2f} reg {step.regularizer:.2f} lr "
        f"{step.lr:.1e}",
        refresh=False,
    )
    bar.update()


def epoch_entry(
    epoch: int, result: EpochResult, report: dict[str, float], num_bad_eval: int, seconds: float
) -> dict[str, Any]:
    """The line of log.jsonl for one epoch."""
    train = {**result._asdict(), "bad": len(result.bad)}
    return {
        "epoch": epoch,
        "train": train,
        "metrics": report,
        "bad_evaluation_pictures": num_bad_eval,
        "seconds": round(seconds, 2),
    }


def settings_of(args: argparse.Namespace, metadata: Metadata, epoch: int) -> dict[str, Any]:
    """The flags as plain values, the metadata folder that they led to, and the epoch, for the checkpoint."""
    return {
        **{name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "metadata": str(metadata.folder),
        "epoch": epoch,
    }


def describe(
    metadata: Metadata, training: TrainingSet, evaluation: EvaluationSet, config: ModelConfig, device: torch.device
) -> str:
    """What is about to run."""
    split = metadata.split
    dropped = f" ({training.num_without_label} without a seen label left out)" if training.num_without_label else ""
    return (
        f"{split.name}: {len(split.seen)} seen and {len(split.unseen)} unseen labels, word vectors of length "
        f"{split.wordvec_dim}\n"
        f"{len(training.paths):,} training pictures{dropped}, {len(evaluation.paths):,} evaluation pictures\n"
        f"{config.model_name}, M = {config.num_rows}, {config.image_size} x {config.image_size} pixels, on {device}"
    )


def finish(args: argparse.Namespace, folder: RunFolder) -> None:
    """Curves, the final table, and where the checkpoints are."""
    from src.visualize import save_curves  # matplotlib is slow to import

    save_curves(folder.entries, folder.path / "curves.png")
    print(f"\nlast epoch:\n{format_report(folder.entries[-1]['metrics'], images=args.images)}")
    for setting, (value, epoch) in folder.best.items():
        print(
            f"best {setting}.{folder.metric}: {value:.2f} in epoch {epoch} (chosen on the evaluation pictures "
            f"themselves): {folder.path / f'model-best-{setting}.ckpt'}"
        )
    print(
        f"last: {folder.path / 'model-last.ckpt'}; log: {folder.path / 'log.jsonl'}; curves: "
        f"{folder.path / 'curves.png'}"
    )


if __name__ == "__main__":
    sys.exit(main())
