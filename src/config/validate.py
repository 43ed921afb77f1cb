"""Flags and settings of validate.py; the flags of ASL's validate.py keep their names."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from src.config.arguments import (
    ArgumentParser,
    add_device_flag,
    add_engine_flag,
    add_exact_flag,
    add_reading_flags,
    add_workers_flag,
    file_name,
    finite_float,
    fraction,
    needing,
    output_file,
    positive_int,
    seed_number,
)
from src.config.inputs import model_inputs
from src.config.settings import add_flags, flag, settings_of
from src.errors import UserError
from src.options import IMAGES, SEEN_BIASES, ExpectedModel, FitOptions, Protocol, Runtime, Truncated
from src.utils.files import check_writable


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """The images to measure on, and how they are run through the model; the fields are the flags of the same names."""

    data: str | None = flag(
        None,
        type=file_name,
        metavar="DIR",
        help="image folder (default: the one recorded in the metadata folder or the checkpoint)",
    )
    metadata: str | None = flag(
        None,
        type=file_name,
        metavar="DIR",
        help="metadata folder (default: --data if it is one, else the one of the checkpoint's training run)",
    )
    batch_size: int = flag(32, "-b", type=positive_int, metavar="N", help="images per batch")
    print_freq: int = flag(1, "-p", type=positive_int, metavar="N", help="update the progress bar every N batches")
    autocast_enabled: int = flag(0, type=int, choices=(0, 1), help="1 runs the model in mixed precision on a GPU")
    exact_pictures: bool
    workers: int
    max_pixels: int | None = None
    truncated: Truncated = "refuse"


@dataclass(frozen=True)
class ValidateSettings:
    """Settings of one validation.

    Attributes:
        model_path: the checkpoint, or a file of export.py.
        expected: the model that it must hold.
        runtime: how it runs; the device is the flag's name.
        images: the images to measure on.
        protocol: what the metrics count.
        json: file to write protocol and metrics to, or None.
        fit_thresholds: copy of the checkpoint to write a fitted calibration to, or None.
        fit: how the calibration is fitted.
        reads: (flag, file or folder that is read).
        overwrite: replace files that validate.py did not write.
    """

    model_path: Path
    expected: ExpectedModel
    runtime: Runtime
    images: ImageSettings
    protocol: Protocol
    json: Path | None
    fit_thresholds: Path | None
    fit: FitOptions
    reads: tuple[tuple[str, Path], ...] = ()
    overwrite: bool = False


def validate_parser(description: str | None) -> ArgumentParser:
    """Build the parser."""
    parser = ArgumentParser(prog="validate.py", description=description)
    parser.add_argument(
        "positional_data", type=file_name, metavar="DATA", nargs="?", help="image folder, same as --data"
    )
    add_flags(parser, ImageSettings)
    add_exact_flag(parser)
    add_reading_flags(parser)
    add_workers_flag(parser)
    _add_model_flags(parser)
    _add_measure_flags(parser)
    return parser


def _add_model_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model-path",
        type=Path,
        required=True,
        metavar="FILE",
        help="checkpoint of train.py or of the released code, or ONNX file of export.py",
    )
    add("--model-name", help="backbone that the checkpoint must hold (default: any)")
    add("--num_rows", type=positive_int, metavar="M", help="principal vectors that the checkpoint must hold")
    add("--wordvec_dim", type=positive_int, metavar="D", help="word-vector length that the checkpoint must hold")
    add(
        "--image-size",
        type=positive_int,
        metavar="N",
        help="side of the model's input in pixels (default: the checkpoint's)",
    )
    add_engine_flag(parser)
    add_device_flag(parser)


def _add_measure_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--top_k", type=positive_int, nargs="+", default=[3, 5], metavar="K", help="values of K in P/R/F1@K")
    add(
        "--images",
        choices=IMAGES,
        default="positive-only",
        help="images that count: those with a relevant positive label (as in the released code), or all",
    )
    add(
        "--thre",
        type=finite_float,
        metavar="SCORE",
        help="also report P/R/F1 of the labels with a raw score above this one",
    )
    add("--json", type=output_file, metavar="FILE", help="write protocol and metrics to this JSON file")
    add(
        "--overwrite",
        action="store_true",
        help="let --json and --fit-thresholds replace existing files that validate.py did not write",
    )
    add(
        "--fit-thresholds",
        type=output_file,
        metavar="FILE",
        help="fit per-label thresholds, probabilities and the bias of seen labels on a part of the images, measure "
        "them on the rest, and write them to a copy of the checkpoint, with a reliability plot beside it",
    )
    fit = "--fit-thresholds"
    share = add(
        "--fit-share",
        type=fraction,
        default=0.5,
        metavar="SHARE",
        help="share of the images that --fit-thresholds fits on",
    )
    needing(share, fit)
    bias = add(
        "--fit-bias",
        choices=SEEN_BIASES,
        default="labels",
        help="how --fit-thresholds sets the bias of seen labels: from the labels of the images, including unseen ones, "
        "or from the gap between seen and unseen scores, without any unseen label",
    )
    needing(bias, fit)
    seed_help = "seed of the random division of the images by --fit-thresholds"
    needing(add("--seed", type=seed_number, default=0, help=seed_help), fit)


def validate_settings(args: Namespace) -> ValidateSettings:
    """Check parsed flags and turn them into settings.

    Raises:
        UserError: flags contradict each other, or a file cannot be written.
    """
    if args.data is not None and args.positional_data is not None:
        raise UserError(f"the image folder is given twice: {args.positional_data} and --data {args.data}; give one")
    args.data = args.data or args.positional_data
    if args.overwrite and args.json is None and args.fit_thresholds is None:
        raise UserError("--overwrite needs an output: give --json or --fit-thresholds")
    if args.json is not None:
        check_writable(args.json, "--json")
    if args.fit_thresholds is not None:
        _check_fit(args)
    return ValidateSettings(
        model_path=args.model_path,
        expected=ExpectedModel(args.model_name, args.num_rows, args.wordvec_dim),
        runtime=Runtime(args.engine, args.device, args.image_size),
        images=settings_of(ImageSettings, args),
        protocol=Protocol(tuple(sorted(set(args.top_k))), args.images, args.thre),
        json=args.json,
        fit_thresholds=args.fit_thresholds,
        fit=FitOptions(args.fit_share, args.seed, args.fit_bias),
        reads=_reads(args),
        overwrite=args.overwrite,
    )


def _reads(args: Namespace) -> tuple[tuple[str, Path], ...]:
    folders = [(flag, Path(value)) for flag, value in (("--metadata", args.metadata), ("--data", args.data)) if value]
    return (*model_inputs("--model-path", args.model_path), *folders)


def _check_fit(args: Namespace) -> None:
    """Raise UserError if ``--fit-thresholds`` cannot work."""
    flag = f"--fit-thresholds {args.fit_thresholds}"
    check_writable(args.fit_thresholds, "--fit-thresholds")
    if args.model_path.suffix.lower() == ".onnx":
        raise UserError(
            f"{flag}: thresholds are written to a copy of a checkpoint, and {args.model_path} is none; give the "
            "checkpoint, and export the copy"
        )
    target = os.path.realpath(args.fit_thresholds)
    if target == os.path.realpath(args.model_path):
        raise UserError(f"{flag}: is the checkpoint itself; choose another name")
    if args.json is not None and target == os.path.realpath(args.json):
        raise UserError(f"--json and {flag}: the same file; give each its own")
    if not 0 < args.fit_share < 1:
        raise UserError(f"--fit-share {args.fit_share:g}: must leave images to fit on and to measure on; give e.g. 0.5")
