"""Flags and settings of export.py."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from src.choices import DATASET_KINDS, DatasetKind
from src.config.arguments import ArgumentParser, add_workers_flag, non_negative_int, positive_int
from src.errors import UserError
from src.utils.files import check_writable


@dataclass(frozen=True)
class ExportSettings:
    """Settings of one export.

    Attributes:
        model_path: the checkpoint.
        output: the ONNX file to write.
        image_size: side of the input in pixels; None takes the checkpoint's.
        dataset_path, dataset_type: metadata folder with labels for a checkpoint without, and its kind.
        scores: add the scores of the labels as a second output.
        calibration: images that set the number ranges of an 8-bit file; empty for float32.
        calibration_size: number of images to draw from them.
        seed: of this draw.
        workers: processes that read images.
    """

    model_path: Path
    output: Path
    image_size: int | None
    dataset_path: Path | None
    dataset_type: DatasetKind | None
    scores: bool
    calibration: tuple[str, ...]
    calibration_size: int
    seed: int
    workers: int


def export_parser(description: str | None) -> ArgumentParser:
    """Build the parser."""
    parser = ArgumentParser(prog="export.py", description=description)
    add = parser.add_argument
    add(
        "--model_path",
        type=Path,
        required=True,
        metavar="FILE",
        help="checkpoint of train.py or of the released code",
    )
    add("--output", type=Path, required=True, metavar="FILE.onnx", help="ONNX file to write")
    add("--image_size", type=positive_int, metavar="N", help="side of the input in pixels (default: the checkpoint's)")
    add(
        "--dataset_path",
        type=Path,
        metavar="DIR",
        help="metadata folder with labels and word vectors, for checkpoints of the released code, which have none",
    )
    add("--dataset_type", choices=DATASET_KINDS, help="kind of --dataset_path (default: detected)")
    add("--scores", action="store_true", help="add the scores of the labels as a second output")
    add("--int8", action="store_true", help="quantise to 8 bits: smaller and faster, a little less accurate")
    add(
        "--calibration",
        nargs="+",
        default=[],
        metavar="PATH",
        help="images that set the number ranges for --int8: a metadata folder (its training images are used), or "
        "images, folders and lists as for infer.py --pic_path",
    )
    add("--calibration_size", type=positive_int, default=200, metavar="N", help="number of images to draw from them")
    add("--seed", type=non_negative_int, default=0, help="random seed of the draw of calibration images")
    add("--num_threads", type=positive_int, metavar="N", help="CPU threads to compute with (default: all)")
    add_workers_flag(parser)
    return parser


def export_settings(args: argparse.Namespace) -> ExportSettings:
    """Check the flags and convert them.

    Raises:
        UserError: flags contradict each other, or the output cannot be written.
    """
    if args.output.suffix.lower() != ".onnx":
        raise UserError(f"--output {args.output}: must end with .onnx")
    if os.path.realpath(args.output) == os.path.realpath(args.model_path):
        raise UserError(f"--output {args.output}: is the same file as --model_path; choose another name")
    if args.model_path.suffix.lower() == ".onnx":
        raise UserError(f"--model_path {args.model_path}: is an exported file; give the checkpoint")
    if args.int8 and not args.calibration:
        raise UserError("--int8: needs images that set the number ranges; give --calibration, a folder of them")
    if args.calibration and not args.int8:
        raise UserError("--calibration is for --int8: give both or neither")
    if args.dataset_type is not None and args.dataset_path is None:
        raise UserError(f"--dataset_type {args.dataset_type} is for --dataset_path: give both or neither")
    check_writable(args.output, "--output")
    return ExportSettings(
        args.model_path,
        args.output,
        args.image_size,
        args.dataset_path,
        args.dataset_type,
        args.scores,
        tuple(args.calibration),
        args.calibration_size,
        args.seed,
        args.workers,
    )
