"""Open a model for inference, with PyTorch or with ONNX Runtime; both are an :data:`Embedder`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from src.checkpoint.info import CheckpointInfo
from src.errors import UserError
from src.exported.session import ExportedModel
from src.options import ANY_MODEL, DEFAULT_RUNTIME, ExpectedModel, Runtime
from src.text import on_screen
from src.utils.digest import file_digest

# Images [B, 3, S, S] in [0, 1] -> embeddings [B, D*M], on the device of the images
Embedder = Callable[[Tensor], Tensor]


class Opened(NamedTuple):
    """A model that is ready to compute.

    Attributes:
        embedder: the model, in eval mode, on the device of the runtime.
        info: the rest of its file.
        engine: ``torch``, ``onnx float32`` or ``onnx int8``.
    """

    embedder: Embedder
    info: CheckpointInfo
    engine: str


def open_model(path: str | Path, runtime: Runtime = DEFAULT_RUNTIME, expected: ExpectedModel = ANY_MODEL) -> Opened:
    """Open a checkpoint, or a file that export.py made of one.

    Raises:
        UserError: the file cannot be read or does not fit, there is no exported file for the engine ``onnx``, or an
            exported file is for images of another size.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        if runtime.engine == "torch":
            raise UserError(f"--engine torch: {path} has no PyTorch weights; give the checkpoint that it was made of")
        return _opened(ExportedModel(path, runtime.parallel_calls), path, runtime, expected)
    exported = _exported_beside(path, runtime)
    if exported is not None:
        return _opened(exported, path, runtime, expected)
    from src.checkpoint.own import load_checkpoint  # timm takes a second to import

    model, info = load_checkpoint(
        path, model_name=expected.model_name, num_rows=expected.num_rows, wordvec_dim=expected.wordvec_dim
    )
    return Opened(model.to(runtime.device), info, "torch")


def _opened(model: ExportedModel, path: Path, runtime: Runtime, expected: ExpectedModel) -> Opened:
    model.info.config.check(expected, path)
    if runtime.image_size not in (None, model.facts.image_size):
        raise UserError(
            f"{path} was exported for images of {model.facts.image_size} pixels, not {runtime.image_size}; leave the "
            "size out, or export the checkpoint with this one"
        )
    return Opened(model, model.info, f"onnx {model.facts.precision}")


def _exported_beside(checkpoint: Path, runtime: Runtime) -> ExportedModel | None:
    """Open the exported file beside a checkpoint. If it cannot be used, ``auto`` gets None and ``onnx`` an error."""
    path = checkpoint.with_suffix(".onnx")
    is_auto = runtime.engine == "auto"
    on_cpu = torch.device(runtime.device).type == "cpu"
    if runtime.engine == "torch" or not os.path.isfile(checkpoint):  # loading a missing checkpoint reports it
        return None
    if is_auto and not (on_cpu and os.path.isfile(path) and importlib.util.find_spec("onnxruntime")):
        return None
    try:
        if not os.path.isfile(path):
            raise UserError(f"no exported model {path}")
        model = ExportedModel(path, runtime.parallel_calls)
        if model.facts.checkpoint_sha256 != file_digest(checkpoint):
            raise UserError(f"{path} was made of another version of {checkpoint}")
        if model.facts.precision != "float32":
            raise UserError(f"{path} has {model.facts.precision} weights and is used only if --model_path names it")
        if runtime.image_size not in (None, model.facts.image_size):
            raise UserError(f"{path} is for images of {model.facts.image_size} pixels, not {runtime.image_size}")
    except UserError as error:
        if not is_auto:
            remedy = f"python export.py --model_path {checkpoint} --output {path}"
            raise UserError(f"--engine onnx: {error}; make one with {remedy}") from error
        print(f"using PyTorch: {on_screen(error)}", file=sys.stderr)
        return None
    if is_auto:
        print(f"using ONNX Runtime with {on_screen(path)}; --engine torch uses the checkpoint itself", file=sys.stderr)
    return model
