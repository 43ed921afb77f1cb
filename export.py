#!/usr/bin/env python3
"""A checkpoint in; one ONNX file out that infer.py, validate.py, Tagger and other runtimes use without it."""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from src.checkpoint import CheckpointInfo, load_checkpoint
from src.checkpoint.digest import file_digest
from src.config.arguments import ArgumentParser, add_workers_flag, non_negative_int, positive_int, run_script
from src.data.dataset import ImageDataset, image_loader
from src.data.metadata import detect_kind, load_metadata
from src.data.parts import load_training_set
from src.data.transforms import eval_transform
from src.errors import UserError, blaming
from src.exported.facts import EMBEDDING, INPUT, ExportFacts, to_metadata
from src.exported.graph import check_parity, set_metadata, trace, with_outputs
from src.exported.int8 import quantise
from src.exported.packages import need
from src.exported.session import run_session
from src.inference.input_paths import expand
from src.inference.vocabulary import labels_for
from src.models.sdl_model import check_image_size
from src.utils.files import atomic_write, check_writable

CALIBRATION_BATCH = 8


def parser() -> ArgumentParser:
    """The flags."""
    flags = ArgumentParser(prog="export.py", description=__doc__)
    add = flags.add_argument
    add(
        "--model_path",
        type=Path,
        required=True,
        metavar="FILE",
        help="a checkpoint of train.py or of the released code",
    )
    add("--output", type=Path, required=True, metavar="FILE.onnx", help="the file to write")
    add(
        "--image_size", type=positive_int, metavar="N", help="side of the input in pixels; the checkpoint's if left out"
    )
    add(
        "--dataset_path",
        metavar="DIR",
        help="metadata folder with labels and word vectors, for the released code's checkpoints, which have none",
    )
    add("--dataset_type", help="the kind of --dataset_path; recognised if left out")
    add("--scores", action="store_true", help="give the graph a second output: the scores of the labels")
    add(
        "--int8",
        action="store_true",
        help="compute in 8 bits: a smaller file that is faster and a little less accurate",
    )
    add(
        "--calibration",
        nargs="+",
        metavar="PATH",
        help="images that --int8 takes the ranges of numbers from: a metadata folder (its training images), or "
        "images, folders and lists as for infer.py",
    )
    add("--calibration_size", type=positive_int, default=200, metavar="N", help="how many of them, drawn at random")
    add("--seed", type=non_negative_int, default=0, help="of that draw")
    add("--num_threads", type=positive_int, metavar="N", help="threads to compute with (all, if left out)")
    add_workers_flag(flags)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0."""
    return run_script("export.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    check_flags(args)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    paths = calibration_paths(args) if args.int8 else []
    with blaming("--model_path"):
        model, info = load_checkpoint(args.model_path)
        digest = file_digest(args.model_path)
    info = with_labels(args, info)
    assert info.split is not None
    image_size = args.image_size or info.config.image_size
    check_image_size(model, image_size, "--image_size")
    module, outputs = with_outputs(model, info.split.word_vectors if args.scores else None)
    graph = trace(module, outputs, image_size)
    facts = ExportFacts(digest, image_size, "float32", args.scores)
    content = set_metadata(graph, to_metadata(info, facts))
    worst = check_parity(content, module, outputs, image_size)
    lines = [f"differs from PyTorch by {worst:.1g} of the output's size"]
    if args.int8:
        content, error, used = to_int8(args, graph, paths, info, facts, content)
        lines.append(f"8 bits: ranges of {used} images; embeddings are {error:.1%} off: measure it with validate.py")
    with atomic_write(args.output) as stream:
        stream.write(content)
    print("\n  ".join([f"{args.output}: {len(content) / 1e6:.1f} MB", *lines]))
    return 0


def check_flags(args: argparse.Namespace) -> None:
    """What can be said before anything is loaded.

    Raises:
        UserError: flags contradict each other, the output cannot be written, or a package is missing.
    """
    if args.output.suffix.lower() != ".onnx":
        raise UserError(f"--output {args.output}: must end with .onnx, by which the scripts know such files")
    if os.path.realpath(args.output) == os.path.realpath(args.model_path):
        raise UserError(f"--output {args.output}: is --model_path itself; choose another name")
    if args.model_path.suffix.lower() == ".onnx":
        raise UserError(f"--model_path {args.model_path}: is exported already; give the checkpoint")
    if args.int8 and args.calibration is None:
        raise UserError("--int8: needs images to take the ranges of numbers from; give --calibration, a folder of them")
    if args.calibration is not None and not args.int8:
        raise UserError("--calibration is for --int8: give both or neither")
    check_writable(args.output, "--output")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "export.py")


def with_labels(args: argparse.Namespace, info: CheckpointInfo) -> CheckpointInfo:
    """The facts of the checkpoint with the labels of ``--dataset_path`` where it has none.

    Raises:
        UserError: it has its own, or there is no such folder.
    """
    if info.split is not None:
        if args.dataset_path is not None:
            raise UserError(
                f"--dataset_path {args.dataset_path}: the checkpoint has labels and word vectors of its own; leave the "
                "flag out, and give it to infer.py"
            )
        return info
    with blaming("--dataset_path"):
        return replace(info, split=labels_for(info, args.dataset_path, args.dataset_type))


def calibration_paths(args: argparse.Namespace) -> list[Path]:
    """At most ``--calibration_size`` of the images that ``--calibration`` means, drawn with ``--seed``.

    Of a metadata folder only training images: whoever measures on the others measures what was not looked at.

    Raises:
        UserError: there are none.
    """
    paths: set[Path] = set()
    for value in args.calibration:
        is_metadata = os.path.isdir(value) and detect_kind(Path(value)) is not None
        try:
            paths.update(
                load_training_set(load_metadata(value), None).paths if is_metadata else expand([value], sys.stdin)
            )
        except UserError as error:  # the rules for images are infer.py's, and so are the messages
            raise UserError(f"--calibration: {str(error).removeprefix('--pic_path ')}") from error
    return random.Random(args.seed).sample(sorted(paths), min(args.calibration_size, len(paths)))


def to_int8(
    args: argparse.Namespace, graph: Any, paths: Sequence[Path], info: CheckpointInfo, facts: ExportFacts, plain: bytes
) -> tuple[bytes, float, int]:
    """The file in 8 bits, how far its embeddings are off (relative norm), and of how many images the ranges are.

    Raises:
        UserError: none of the images can be read.
    """
    reader = CalibrationImages(paths, facts.image_size, info.config.interpolation, args.workers)
    batches = iter(reader)
    first = next(batches, None)
    if first is None:
        raise UserError(f"--calibration: none of the {len(paths)} images can be read")
    small = quantise(graph, itertools.chain([first], batches))
    for message in reader.bad:
        print(f"skipped: {message}", file=sys.stderr)
    content = set_metadata(small, to_metadata(info, replace(facts, precision="int8")))
    found, expected = (
        run_session(model, "export.py").run([EMBEDDING], {INPUT: first})[0] for model in (content, plain)
    )
    return content, float(np.linalg.norm(found - expected) / np.linalg.norm(expected)), len(paths) - len(reader.bad)


class CalibrationImages:
    """Batches of images [b, 3, S, S] float32 in [0, 1], behind a progress bar; it can be gone through once.

    Attributes:
        bad: messages about the images that could not be read.
    """

    def __init__(self, paths: Sequence[Path], image_size: int, interpolation: str, workers: int) -> None:
        self.bad: list[str] = []
        self._paths = paths
        self._loader = image_loader(
            ImageDataset(paths, eval_transform(image_size, interpolation)),
            batch_size=CALIBRATION_BATCH,
            workers=workers,
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        with tqdm(total=len(self._paths), desc="calibration", unit="img", disable=None, leave=False) as bar:
            for batch in self._loader:
                self.bad.extend(batch.bad)
                if len(batch.images):
                    yield batch.images.numpy()
                bar.update(len(batch.rows) + len(batch.bad))


if __name__ == "__main__":
    sys.exit(main())
