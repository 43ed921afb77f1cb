"""Which engine computes the embeddings: PyTorch, or ONNX Runtime on an exported file.

The rest of the project sees an :class:`Embedder`, whatever is behind it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from src.checkpoint.digest import file_digest
from src.checkpoint.info import CheckpointInfo, check_expected
from src.choices import Engine
from src.errors import UserError
from src.exported.session import ExportedModel


class Embedder(Protocol):
    """Maps images [B, 3, S, S] in [0, 1] to embeddings [B, D*M], on the device of the images."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """See the class."""
        ...


class Opened(NamedTuple):
    """A model that is ready to compute.

    Attributes:
        embedder: on the device that was asked for, in eval mode.
        info: what its file says.
        engine: ``torch``, ``onnx float32`` or ``onnx int8``.
    """

    embedder: Embedder
    info: CheckpointInfo
    engine: str


def open_model(
    path: str | Path,
    *,
    engine: Engine = "auto",
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    model_name: str | None = None,
    num_rows: int | None = None,
    wordvec_dim: int | None = None,
    calls_at_once: int = 1,
) -> Opened:
    """Open a checkpoint, or a file that export.py made of one.

    Args:
        path: the file.
        engine: what computes; ``auto`` says on standard error what it takes instead of PyTorch, and why not.
        device: where to compute. ONNX Runtime computes on the CPU wherever the images are.
        image_size: side of the model's input in pixels; None takes what the file says.
        model_name, num_rows, wordvec_dim: what the file must hold; None takes what it says.
        calls_at_once: see :class:`src.exported.session.ExportedModel`; PyTorch shares its threads out by itself.

    Raises:
        UserError: the file cannot be read or does not fit, there is no exported file for ``engine="onnx"``, or an
            exported file is for images of another size.
    """
    path = Path(path)
    expected = {"model_name": model_name, "num_rows": num_rows, "wordvec_dim": wordvec_dim}
    if path.suffix.lower() == ".onnx":
        if engine == "torch":
            raise UserError(f"--engine torch: {path} has no PyTorch weights; give the checkpoint that it was made of")
        return _of_exported(ExportedModel(path, calls_at_once), path, image_size, expected)
    exported = None
    if engine == "onnx" or (engine == "auto" and torch.device(device).type == "cpu"):
        exported = _beside(path, image_size, engine, calls_at_once)
    if exported is not None:
        return _of_exported(exported, path, image_size, expected)
    from src.checkpoint.own import load_checkpoint  # timm takes a second to import

    model, info = load_checkpoint(path, model_name=model_name, num_rows=num_rows, wordvec_dim=wordvec_dim)
    return Opened(model.to(device), info, "torch")


def _of_exported(
    model: ExportedModel, path: Path, image_size: int | None, expected: dict[str, str | int | None]
) -> Opened:
    check_expected(model.info, path, **expected)  # type: ignore[arg-type]
    if image_size is not None and image_size != model.facts.image_size:
        raise UserError(
            f"{path} was exported for images of {model.facts.image_size} pixels, not {image_size}; leave the size "
            "out, or export the checkpoint with this one"
        )
    return Opened(model, model.info, f"onnx {model.facts.precision}")


def _beside(checkpoint: Path, image_size: int | None, engine: Engine, calls_at_once: int) -> ExportedModel | None:
    """The exported file beside a checkpoint. For ``auto``, None where it cannot be used; for ``onnx``, an error."""
    path = checkpoint.with_suffix(".onnx")
    try:
        if not checkpoint.is_file():
            return None  # said by who loads the checkpoint
        if not path.is_file():
            if engine == "auto":
                return None
            raise UserError(f"no exported model {path}")
        if engine == "auto" and importlib.util.find_spec("onnxruntime") is None:
            return None
        model = ExportedModel(path, calls_at_once)
        _check_fits(model, checkpoint, path, image_size)
    except UserError as error:
        if engine == "onnx":
            remedy = f"python export.py --model_path {checkpoint} --output {path}"
            raise UserError(f"--engine onnx: {error}; make one with {remedy}") from error
        print(f"PyTorch computes: {error}", file=sys.stderr)
        return None
    if engine == "auto":
        print(f"ONNX Runtime computes, with {path}; --engine torch leaves it out", file=sys.stderr)
    return model


def _check_fits(model: ExportedModel, checkpoint: Path, path: Path, image_size: int | None) -> None:
    """Raise :class:`UserError` where an exported file does not compute what the checkpoint does."""
    if model.facts.checkpoint_sha256 != file_digest(checkpoint):
        raise UserError(f"{path} was not made of {checkpoint} as it is now")
    if model.facts.precision != "float32":
        raise UserError(f"{path} is of {model.facts.precision} and only used where --model_path names it")
    if image_size is not None and image_size != model.facts.image_size:
        raise UserError(f"{path} is for images of {model.facts.image_size} pixels, not {image_size}")
