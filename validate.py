#!/usr/bin/env python3
"""A checkpoint and a zero-shot split in; zero-shot and generalised P/R/F1@K and mAP out, as a table and as JSON."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from src.calibration.fit import FittedCalibration, fit_and_measure, format_fit
from src.checkpoint import CheckpointInfo, package_versions, save_with_calibration
from src.checkpoint.info import ExpectedModel
from src.config.arguments import run_script
from src.config.validate import validate_parser
from src.data.dataset import ImageDataset, naming_dead_workers
from src.data.metadata import Metadata, detect_kind, load_metadata
from src.data.parts import EvaluationSet, load_evaluation_set
from src.data.transforms import eval_transform
from src.embedding import Embedded, Reading, embed_images
from src.errors import UserError, blaming
from src.evaluation import evaluate
from src.exported.engines import Runtime, open_model
from src.inference.vocabulary import check_same_space
from src.metrics import Protocol, format_report
from src.models.sdl_model import check_image_size
from src.utils.distributed import Processes, device_of, joined
from src.utils.files import check_writable, write_json
from src.utils.progress import warn_about_bad_images


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if some images could not be read."""
    return run_script("validate.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = validate_parser(__doc__).parse_args(argv)
    if args.data is not None and args.positional_data is not None:
        raise UserError(f"the image folder is given twice: {args.positional_data} and --data {args.data}; give one")
    args.data = args.data or args.positional_data
    if args.json is not None:
        check_writable(args.json, "--json")
    if args.fit_thresholds is not None:
        check_fit(args)
    with joined(args.device) as processes, naming_dead_workers():
        return validate(args, processes)


def validate(args: argparse.Namespace, processes: Processes) -> int:
    """Embed the images, together with other processes; the first one measures. Returns the exit status."""
    device = device_of(args.device, processes)
    with blaming("--model-path"):
        model, info, engine = open_model(
            args.model_path,
            Runtime(args.engine, device, args.image_size),
            ExpectedModel(args.model_name, args.num_rows, args.wordvec_dim),
        )
    with blaming("--metadata"):
        metadata = find_metadata(args.metadata, args.data, info)
    check_labels(args, info, metadata)
    evaluation = load_evaluation_set(metadata, args.data or images_of_training(metadata, info))
    if args.image_size is not None and isinstance(model, torch.nn.Module):
        check_image_size(model, args.image_size, "--image-size")
    size = args.image_size or info.config.image_size
    transform = eval_transform(size, info.config.interpolation, exact=args.exact_pictures)
    images = ImageDataset(evaluation.paths, transform)
    precision = torch.float16 if args.autocast_enabled and device.type == "cuda" else None
    reading = Reading(args.batch_size, args.workers, device, precision, processes)
    embedded = embed_images(model, images, reading, "images", every=args.print_freq)
    if not processes.is_first:
        return 0
    warn_about_bad_images(embedded.bad, set())
    if len(embedded.rows) == 0:
        raise UserError(f"--data: none of the {len(evaluation.paths)} images can be read")
    report = measure(args, metadata, evaluation, embedded, device)
    fitted = None if args.fit_thresholds is None else fit(args, info, metadata, evaluation, embedded)
    if args.json is not None:
        write_json(args.json, as_json(args, metadata, report, embedded, fitted, engine))
    return 1 if embedded.bad else 0


def check_labels(args: argparse.Namespace, info: CheckpointInfo, metadata: Metadata) -> None:
    """Raise :class:`UserError` where the checkpoint's labels or the flags do not suit those of the images."""
    num_labels = len(metadata.split.seen) + len(metadata.split.unseen)
    too_large = [k for k in args.top_k if k > num_labels]
    if too_large:
        raise UserError(f"--top_k {too_large[0]}: must be from 1 to the number of labels, {num_labels}")
    with blaming("--metadata"):
        check_same_space(info, metadata.split, metadata.folder)
    if args.fit_thresholds is not None:
        check_same_labels(info, metadata)


def measure(
    args: argparse.Namespace,
    metadata: Metadata,
    evaluation: EvaluationSet,
    embedded: Embedded,
    device: torch.device,
) -> dict[str, float]:
    """The metrics, which are printed too."""
    split = metadata.split
    protocol = Protocol(tuple(sorted(set(args.top_k))), args.images, args.thre)
    report = evaluate(embedded.outputs, split, evaluation.ground_truth(embedded.rows), protocol, device=device)
    print(
        f"{args.model_path} on {split.name} ({metadata.folder}): {len(split.seen)} seen and {len(split.unseen)} "
        "unseen labels"
    )
    print(format_report(report, images=args.images))
    if embedded.bad:
        print(f"{len(embedded.bad)} of {len(evaluation.paths)} images could not be read and were left out")
    return report


def check_fit(args: argparse.Namespace) -> None:
    """Raise :class:`UserError` where ``--fit-thresholds`` cannot work, before time is spent."""
    check_writable(args.fit_thresholds, "--fit-thresholds")
    if args.model_path.suffix.lower() == ".onnx":
        raise UserError(
            f"--fit-thresholds {args.fit_thresholds}: is a copy of a checkpoint, with thresholds, and "
            f"{args.model_path} is none; give the checkpoint, and export the copy"
        )
    target = os.path.realpath(args.fit_thresholds)
    if target == os.path.realpath(args.model_path):
        raise UserError(f"--fit-thresholds {args.fit_thresholds}: is the checkpoint itself; choose another name")
    if args.json is not None and target == os.path.realpath(args.json):
        raise UserError(f"--json and --fit-thresholds {args.fit_thresholds}: the same file; give each its own")
    if args.seed >= 2**64:
        raise UserError(f"--seed {args.seed}: must be from 0 to 2**64 - 1")
    if not 0 < args.fit_share < 1:
        raise UserError(f"--fit-share {args.fit_share:g}: must leave images to fit on and to measure on; give 0.5, say")


def check_same_labels(info: CheckpointInfo, metadata: Metadata) -> None:
    """Raise :class:`UserError` where a calibration for these labels is none for the checkpoint's."""
    split = metadata.split
    if info.split is None or (info.split.labels, info.split.seen) != (split.labels, split.seen):
        raise UserError(
            f"--fit-thresholds: the labels of {metadata.folder} are not those of the checkpoint; validate with the "
            "folder that it was trained with"
        )


def fit(
    args: argparse.Namespace, info: CheckpointInfo, metadata: Metadata, evaluation: EvaluationSet, embedded: Embedded
) -> FittedCalibration:
    """Fit a calibration, print what it is worth, and write the checkpoint that has it.

    Raises:
        UserError: nothing can be fitted, or a file cannot be written.
    """
    from src.visualize import save_reliability  # matplotlib is slow to import

    split = metadata.split
    targets = evaluation.targets.dense(embedded.rows)
    fitted = fit_and_measure(embedded.outputs, targets, split, share=args.fit_share, seed=args.seed, bias=args.fit_bias)
    plot = args.fit_thresholds.with_name(f"{args.fit_thresholds.stem}-reliability.png")
    save_with_calibration(args.model_path, args.fit_thresholds, fitted.calibration)
    save_reliability(fitted.curve, plot)
    print(f"\n{format_fit(fitted)}\n  written to {args.fit_thresholds}; plot: {plot}")
    return fitted


def find_metadata(folder: str | None, data: str | None, info: CheckpointInfo) -> Metadata:
    """``--metadata``; else ``--data`` where that is a metadata folder; else the folder that the checkpoint records.

    Raises:
        UserError: there is none.
    """
    if folder is not None:
        return load_metadata(folder)
    if data is not None and detect_kind(Path(data)) is not None:
        return load_metadata(data)
    recorded = info.settings.get("metadata") or info.settings.get("data")
    if recorded is not None and detect_kind(Path(recorded)) is not None:
        return load_metadata(recorded)
    raise UserError(
        "--metadata is needed: a folder with the labels of the images to validate on"
        + (f" ({recorded}, where the checkpoint was trained, is not there)" if recorded else "")
    )


def images_of_training(metadata: Metadata, info: CheckpointInfo) -> str | None:
    """The ``--data`` of the training run, where ``metadata`` is that run's folder and the images are still there."""
    recorded = info.settings.get("data")
    same = info.settings.get("metadata") == str(metadata.folder)
    return recorded if same and recorded is not None and Path(recorded).is_dir() else None


def as_json(
    args: argparse.Namespace,
    metadata: Metadata,
    report: dict[str, float],
    embedded: Embedded,
    fitted: FittedCalibration | None,
    engine: str,
) -> dict[str, object]:
    """What ``--json`` writes: metrics in percent under keys such as ``zero_shot.F1@3``, and the protocol."""
    return {
        **({} if fitted is None else {"calibration": fitted.metrics}),
        "checkpoint": str(args.model_path),
        "engine": engine,
        "split": metadata.split.name,
        "protocol": {"images": args.images, "mAP": "official", "mAP_skip": "skip"},
        "metrics": report,
        "bad_images": list(embedded.bad),
        "versions": package_versions(),
    }


if __name__ == "__main__":
    sys.exit(main())
