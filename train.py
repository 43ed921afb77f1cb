#!/usr/bin/env python3
"""Train a zero-shot multi-label model: a zero-shot split in, a checkpoint and its curves out."""

from __future__ import annotations

import argparse
import functools
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from src.checkpoint import ModelConfig
from src.config.arguments import run_script
from src.config.recipes import parse_with_recipe, write_settings
from src.config.train import LR_FINE_TUNING, LR_FROZEN, train_parser
from src.data.dataset import naming_dead_workers
from src.data.metadata import Metadata, detect_kind, load_metadata
from src.data.parts import EvaluationSet, TrainingSet, load_evaluation_set, load_training_set
from src.embedding import Embedded, Reading
from src.errors import NonFiniteRunError, UserError, blaming
from src.metrics import Protocol, format_report
from src.training.epoch_evaluation import Judge
from src.training.mixed_precision import DTYPES, choose_precision
from src.training.model_selection import Division, divide
from src.training.run_folder import EVENTS, RunFolder
from src.training.setup import (
    build_criterion,
    build_feed,
    build_model,
    build_trained,
    checkpoint_info,
    place_model,
    plain_settings,
)
from src.training.state import Progress, data_facts, read_state, restore
from src.training.tensorboard import open_watcher
from src.training.trainer import Plan, Trainer, steps_of
from src.utils.device import seed_everything
from src.utils.distributed import Processes, device_of, joined
from src.utils.signals import StoppedBySignalError, StopRequest, listening

OFFICIAL_METADATA = Path("data/COCO")
FEWEST_BAD = 10  # unreadable images that are borne however few there are


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 1 if the loss stopped being finite, or 128 and the signal's number if the run was asked to end."""
    return run_script("train.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    parser = train_parser(__doc__)
    args = parse_with_recipe(parser, argv)
    args.lr = args.lr or (LR_FROZEN if args.freeze_backbone else LR_FINE_TUNING)
    # After one process has died, torchrun starts all of them again: they go on, whatever the flags said at first
    args.resume = args.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    # Outermost, since PyTorch tells of a dead process wherever this one happens to be
    with naming_dead_workers(), joined(args.device) as processes, listening() as stop:
        try:
            train(args, parser, processes, stop)
        except NonFiniteRunError as error:
            print(
                f"train.py: the loss is not finite in {error}; lower --lr, or give --precision float32", file=sys.stderr
            )
            return 1
        except StoppedBySignalError as stopped:
            if processes.is_first:
                print(f"train.py: stopped ({stopped}); the same command with --resume goes on", file=sys.stderr)
            return stopped.status
    return 0


def train(args: argparse.Namespace, parser: argparse.ArgumentParser, processes: Processes, stop: StopRequest) -> None:
    """A whole run, new or gone on with."""
    device = device_of(args.device, processes)
    metadata, training, evaluation = load_data(args)
    folder = RunFolder(args.path_output, half=args.half_weights, every=args.save_epochs, keep=args.keep)
    stored = processes.from_first(read_state(folder.path) if args.resume and processes.is_first else None)
    seed = processes.from_first(seed_of(args, stored))
    started_with = None if stored is None else stored["settings"]["precision"]
    precision = choose_precision(args.precision, bool(args.autocast_enabled), device, started_with)
    seed_everything(seed)  # fresh weights too: a run that goes on makes the same random backbone again
    division = divide(
        training, args.select_on, val_share=args.val_share, held_out_labels=args.held_out_labels, seed=seed
    )
    with blaming("--model-path"):
        model, config = build_model(args, metadata)
    model = place_model(args, model, device, processes)
    reading = Reading(
        args.batch_size,
        args.workers,
        device,
        DTYPES[precision],
        processes,
        on_progress=lambda: check_stop(stop),
    )
    if processes.is_first:
        folder.check(goes_on=stored is not None, resume=args.resume, overwrite=args.overwrite)
        print(describe(metadata, training, evaluation, division, config, device, processes))
    cache = metadata.folder / "feature_cache"
    feed = build_feed(args, model, (training, evaluation, division), config, reading, cache=cache, seed=seed)
    plan = plan_of(args, len(training.paths))
    total_steps = plan.epochs * steps_of(feed.count, plan, processes)
    criterion = build_criterion(args, metadata, division)
    trained = build_trained(args, feed, criterion, reading, total_steps=total_steps)
    facts = (
        {**plain_settings(args), "precision": precision, "processes": processes.count},
        data_facts(training, metadata.split),
    )
    progress = Progress(seed) if stored is None else restore(stored, trained, *facts)
    if processes.is_first:  # only now, when no mistake is left to be found, does an earlier run go
        with blaming("--path_output"):
            folder.start(goes_on=stored is not None)
            write_settings(folder.path, parser, args)
    judge = Judge(
        feed, training, evaluation, division, metadata.split, args.best_metric, args.images, device, processes.is_first
    )
    events = folder.path / EVENTS if args.tensorboard and processes.is_first else None
    with open_watcher(events) as watcher:
        trainer = Trainer(
            model, trained, feed, judge, plan, progress, folder,
            functools.partial(checkpoint_info, args, metadata, division, config), facts, processes, stop, watcher,
        )  # fmt: skip
        watcher.settings(facts[0])
        trainer.run()
    embedded = trainer.final_embeddings()
    if processes.is_first:
        finish(args, folder, trainer.progress)
        report(args, folder, trainer.progress, metadata, evaluation, division, embedded)


def load_data(args: argparse.Namespace) -> tuple[Metadata, TrainingSet, EvaluationSet]:
    """The labels, and the images of both parts.

    Raises:
        UserError: something is missing or does not fit.
    """
    with blaming("--metadata"):
        metadata = load_metadata(metadata_folder(args.metadata, args.data))
    if args.wordvec_dim not in (None, metadata.split.wordvec_dim):
        raise UserError(
            f"--wordvec_dim {args.wordvec_dim}: the word vectors in {metadata.folder} have length "
            f"{metadata.split.wordvec_dim}; leave the flag out"
        )
    with blaming("--metadata"):
        return metadata, load_training_set(metadata, args.data), load_evaluation_set(metadata, args.data)


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


def seed_of(args: argparse.Namespace, stored: dict[str, object] | None) -> int:
    """What order and augmentation follow from: --seed, that of the run that goes on, or a fresh one."""
    if stored is not None:
        return int(stored["progress"]["seed"])  # type: ignore[index]  # a dict, as training_state writes it
    return args.seed if args.seed is not None else secrets.randbelow(2**31)


def plan_of(args: argparse.Namespace, num_images: int) -> Plan:
    """How long the run is."""
    max_bad = max(FEWEST_BAD, num_images // 10) if args.max_bad_images is None else args.max_bad_images
    return Plan(
        args.num_epochs, args.batch_size, args.accumulate, args.early_stopping, args.save_steps, max_bad, args.dist_bn
    )


def check_stop(stop: StopRequest) -> None:
    """Raise :class:`StoppedBySignalError` where the user asked to end, at a moment when nothing is left to save."""
    if stop.signal_number:
        raise StoppedBySignalError(stop.signal_number)


def describe(
    metadata: Metadata,
    training: TrainingSet,
    evaluation: EvaluationSet,
    division: Division,
    config: ModelConfig,
    device: torch.device,
    processes: Processes,
) -> str:
    """What is about to run."""
    split = metadata.split
    dropped = f" ({training.num_without_label} without a seen label left out)" if training.num_without_label else ""
    posing = f" and {len(division.posing)} labels pose as unseen" if division.posing else ""
    held = f"\nto choose an epoch {len(division.held_rows):,} training images are held back{posing}"
    together = f" in {processes.count} processes" if processes.count > 1 else ""
    return (
        f"{split.name}: {len(split.seen)} seen and {len(split.unseen)} unseen labels, word vectors of length "
        f"{split.wordvec_dim}\n"
        f"{len(training.paths):,} training images{dropped}, {len(evaluation.paths):,} evaluation images"
        f"{held if len(division.held_rows) else ''}\n"
        f"{config.model_name}, M = {config.num_rows}, {config.image_size} x {config.image_size} pixels, on {device}"
        f"{together}"
    )


def finish(args: argparse.Namespace, folder: RunFolder, progress: Progress) -> None:
    """Curves, the final table, and where the checkpoints are."""
    from src.visualize import save_curves  # matplotlib is slow to import

    save_curves(progress.entries, folder.path / "curves.png")
    print(f"\nlast epoch:\n{format_report(progress.entries[-1]['metrics'], images=args.images)}")
    on_what = "evaluation images themselves" if args.select_on == "test" else "training images that were held back"
    for choice, (value, epoch) in progress.best.items():
        print(
            f"best {choice}.{args.best_metric}: {value:.2f} in epoch {epoch} (chosen on the {on_what}): "
            f"{folder.path / f'model-best-{choice}.ckpt'}"
        )
    print(
        f"last: {folder.path / 'model-last.ckpt'}; log: {folder.path / 'log.jsonl'}; curves: "
        f"{folder.path / 'curves.png'}"
    )


def how_chosen(epoch: int, args: argparse.Namespace) -> str:
    """Which epoch the report is of, and what chose it: where a run stops early, that is a choice too."""
    if epoch < args.num_epochs:
        return (
            f"The last epoch, {epoch} of at most {args.num_epochs}: --early-stopping ended the run by "
            f"{args.best_metric}, --select-on {args.select_on}."
        )
    return f"The last epoch, {epoch} of {args.num_epochs}: nothing was chosen."


def report(
    args: argparse.Namespace,
    folder: RunFolder,
    progress: Progress,
    metadata: Metadata,
    evaluation: EvaluationSet,
    division: Division,
    embedded: Embedded,
) -> None:
    """``report.html``: the whole run at a glance."""
    from src.run_report import Evaluated, RunReport, write_report  # matplotlib is slow to import

    path = folder.path / "report.html"
    entry = progress.entries[-1]
    split = division.trained_split(metadata.split)
    evaluated = Evaluated(
        split=split,
        paths=[evaluation.paths[row] for row in embedded.rows.tolist()],
        embeddings=embedded.outputs,
        truth=evaluation.ground_truth(embedded.rows),
        protocol=Protocol(images=args.images),
        metrics=entry["metrics"],
    )
    content = RunReport(
        title=f"{split.name}: {folder.path.resolve().name}",
        chosen=how_chosen(entry["epoch"], args),
        settings=plain_settings(args),
        entries=progress.entries,
        evaluated=evaluated,
    )
    write_report(path, content)
    print(f"report: {path}")


if __name__ == "__main__":
    sys.exit(main())
