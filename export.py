#!/usr/bin/env python3
"""Export a checkpoint to one ONNX file, for infer.py, validate.py, Tagger and other runtimes."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.utils.script import run_script

if TYPE_CHECKING:
    from src.checkpoint import CheckpointInfo
    from src.config.export import ExportSettings
    from src.config.inputs import Inputs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_script("export.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    from src.config.export import export_parser, export_settings

    settings = export_settings(export_parser(__doc__).parse_args(argv))
    from src.utils.optional import import_extra

    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package, package, "export.py")
    if settings.num_threads is not None:
        import torch

        torch.set_num_threads(settings.num_threads)
    export(settings)
    return 0


def export(settings: ExportSettings) -> None:
    """Write the ONNX file and print its size and accuracy.

    Raises:
        UserError: a file cannot be read, or the graph differs from PyTorch.
    """
    from src.checkpoint import load_checkpoint
    from src.checkpoint.digest import unchanged
    from src.data.transforms import eval_transform
    from src.errors import prefix_errors
    from src.exported.facts import ExportFacts, is_export, to_metadata
    from src.exported.graph import check_parity, set_metadata, trace, with_outputs
    from src.exported.int8 import calibration_batches, to_int8
    from src.models.sdl_model import check_image_size
    from src.text import on_screen
    from src.utils.files import atomic_write
    from src.utils.outputs import Output, check_outputs, recording

    paths = calibration_paths(settings)
    outputs = {"--output": Output(settings.output, is_export)}
    read = [*inputs_of(settings), *(("the image", path) for path in paths)]
    check_outputs(outputs, read, overwrite=settings.overwrite)
    with prefix_errors("--model_path"), unchanged(settings.model_path) as digest:
        model, info = load_checkpoint(settings.model_path)
    info = with_labels(info, settings)
    assert info.split is not None
    image_size = settings.image_size or info.config.image_size
    check_image_size(model, image_size, "--image_size")
    module, outputs = with_outputs(model, info.split.word_vectors if settings.scores else None)
    graph = trace(module, outputs, image_size)
    facts = ExportFacts(digest, image_size, "float32", settings.scores)
    content = set_metadata(graph, to_metadata(info, facts))
    worst = check_parity(content, module, outputs, image_size)
    lines = [f"largest difference from PyTorch: {worst:.1g} of the output's largest number"]
    if paths:
        bad: list[str] = []
        transform = eval_transform(image_size, info.config.interpolation)
        small, error = to_int8(graph, calibration_batches(paths, transform, settings.workers, bad), content)
        content = set_metadata(small, to_metadata(info, replace(facts, precision="int8")))
        for message in bad:
            print(f"skipped: {on_screen(message)}", file=sys.stderr)
        used = len(paths) - len(bad)
        lines.append(f"8 bits, calibrated on {used} images: embeddings differ by {error:.1%}; check with validate.py")
    with recording([settings.output]), atomic_write(settings.output) as stream:
        stream.write(content)
    print("\n  ".join([f"{on_screen(settings.output)}: {len(content) / 1e6:.1f} MB", *lines]))


def inputs_of(settings: ExportSettings) -> Inputs:
    """Return the files and folders that flags name to be read; an export beside the checkpoint is not among them."""
    from src.config.inputs import list_inputs
    from src.utils.digest import side_file

    path = settings.model_path
    inputs = [("--model_path", path), ("--model_path", side_file(path))]
    if settings.dataset_path is not None:
        inputs.append(("--dataset_path", settings.dataset_path))
    folders = [("--calibration", Path(value)) for value in settings.calibration]
    return [*inputs, *folders, *list_inputs("--calibration", settings.calibration)]


def with_labels(info: CheckpointInfo, settings: ExportSettings) -> CheckpointInfo:
    """Fill in the labels of ``--dataset_path`` for a checkpoint without labels.

    Raises:
        UserError: the checkpoint has labels of its own, or there is no such folder.
    """
    from src.errors import UserError, prefix_errors
    from src.inference.vocabulary import labels_for

    folder = settings.dataset_path
    if info.split is None:
        with prefix_errors("--dataset_path"):
            return replace(info, split=labels_for(info, folder, settings.dataset_type))
    if folder is not None:
        raise UserError(
            f"--dataset_path {folder}: the checkpoint has labels and word vectors of its own; leave the flag out, and "
            "give it to infer.py"
        )
    return info


def calibration_paths(settings: ExportSettings) -> list[Path]:
    """Draw the images of ``--calibration``.

    Only training images are taken from a metadata folder, so that its evaluation images stay unused.

    Raises:
        UserError: there are none.
    """
    from src.data.metadata import detect_kind, load_metadata
    from src.data.parts import load_training_set
    from src.errors import UserError
    from src.inference.input_paths import expand

    paths: set[Path] = set()
    for value in settings.calibration:
        try:
            if Path(value).is_dir() and detect_kind(Path(value)) is not None:
                paths.update(load_training_set(load_metadata(value), None).paths)
            else:
                paths.update(expand([value], sys.stdin))
        except UserError as error:  # expand names the flag of infer.py
            raise UserError(f"--calibration: {str(error).removeprefix('--pic_path ')}") from error
    return random.Random(settings.seed).sample(sorted(paths), min(settings.calibration_size, len(paths)))


if __name__ == "__main__":
    sys.exit(main())
