"""Flags and settings of export.py."""

# ruff: noqa: RUF009 -- flag() declares a dataclass field, as dataclasses.field() does
from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.config.arguments import (
    ArgumentParser,
    add_workers_flag,
    file_name,
    needing,
    output_file,
    positive_int,
    seed_number,
    thread_count,
)
from src.config.settings import add_flags, flag, settings_of
from src.errors import UserError
from src.options import DATASET_KINDS, DatasetKind
from src.utils.files import check_writable


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings of one export; the fields are the flags of the same names."""

    model_path: Path = flag(type=Path, metavar="FILE", help="checkpoint of train.py or of the released code")
    output: Path = flag(type=output_file, metavar="FILE.onnx", help="ONNX file to write")
    overwrite: bool = flag(
        False, action="store_true", help="let --output replace an existing file that export.py did not write"
    )
    image_size: int | None = flag(
        None, type=positive_int, metavar="N", help="side of the input in pixels (default: the checkpoint's)"
    )
    dataset_path: Path | None = flag(
        None,
        type=Path,
        metavar="DIR",
        help="metadata folder with labels and word vectors, for checkpoints of the released code, which have none",
    )
    dataset_type: DatasetKind | None = flag(
        None, choices=DATASET_KINDS, help="kind of --dataset_path (default: detected)"
    )
    scores: bool = flag(False, action="store_true", help="add the scores of the labels as a second output")
    int8: bool = flag(False, action="store_true", help="quantise to 8 bits: smaller and faster, a little less accurate")
    calibration: Sequence[str] = flag(
        (),
        nargs="+",
        type=file_name,
        metavar="PATH",
        help="images that set the number ranges for --int8: a metadata folder (its training images are used), or "
        "images, folders and lists as for infer.py --pic_path",
    )
    calibration_size: int = flag(
        200, needs=["--int8"], type=positive_int, metavar="N", help="number of images to draw from them"
    )
    seed: int = flag(0, needs=["--int8"], type=seed_number, help="random seed of the draw of calibration images")
    num_threads: int | None = flag(
        None, type=thread_count, metavar="N", help="CPU threads to compute with (default: all)"
    )
    workers: int

    def __post_init__(self) -> None:
        """Check the settings against each other.

        Raises:
            UserError: they contradict each other, or the output cannot be written.
        """
        if self.output.suffix.lower() != ".onnx":
            raise UserError(f"--output {self.output}: must end with .onnx")
        if os.path.realpath(self.output) == os.path.realpath(self.model_path):
            raise UserError(f"--output {self.output}: is the same file as --model_path; choose another name")
        if self.model_path.suffix.lower() == ".onnx":
            raise UserError(f"--model_path {self.model_path}: is an exported file; give the checkpoint")
        if self.int8 and not self.calibration:
            raise UserError("--int8: needs images that set the number ranges; give --calibration, a folder of them")
        if self.calibration and not self.int8:
            raise UserError("--calibration is for --int8: give both or neither")
        if self.dataset_type is not None and self.dataset_path is None:
            raise UserError(f"--dataset_type {self.dataset_type} is for --dataset_path: give both or neither")
        check_writable(self.output, "--output")


def export_parser(description: str | None) -> ArgumentParser:
    """Build the parser."""
    parser = ArgumentParser(prog="export.py", description=description)
    add_flags(parser, ExportSettings, separator="_")
    needing(add_workers_flag(parser), "--int8")
    return parser


def export_settings(args: argparse.Namespace) -> ExportSettings:
    """Return the settings that the flags stand for.

    Raises:
        UserError: flags contradict each other, or the output cannot be written.
    """
    return settings_of(ExportSettings, args)
