"""Save and load checkpoints of this project; load those of the released code.

A checkpoint of this project is self-contained: weights, model configuration, preprocessing, labels with their word
vectors, seen and unseen, further words, metrics, settings and versions. It holds tensors and builtin containers only,
so that any PyTorch loads it with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.calibration.thresholds import Calibration
from src.checkpoint.digest import save_with_digest
from src.checkpoint.form import storable
from src.checkpoint.info import FORMAT, CheckpointInfo, info_of_dict, info_to_dict
from src.checkpoint.released import build_model, load_released
from src.errors import UserError, name_some
from src.models import SDLModel
from src.models.inplace_abn import plain_state_dict
from src.models.state_files import read_state_file
from src.options import ExpectedModel
from src.text import shortened
from src.utils.digest import file_digest


def save_checkpoint(path: str | Path, model: SDLModel, info: CheckpointInfo, *, half: bool = False) -> None:
    """Write a checkpoint atomically, and its side file (:mod:`src.checkpoint.digest`).

    Args:
        path: the file.
        model: the model; InPlaceABN scales are stored as those of plain batch normalisation.
        info: the rest; ``info.split`` is required; ``kind``, ``versions`` and ``space`` are filled in.
        half: store weight matrices and the labels' word vectors in half precision, and vectors of further words in 8
            bits. Scales, biases and batch statistics stay float32: a running variance can exceed the range of half
            precision.

    Raises:
        UserError: the file cannot be written.
    """

    def shrink(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu().contiguous()
        return tensor.half() if half and tensor.is_floating_point() and tensor.ndim >= 2 else tensor

    content = info_to_dict(info, dtype=torch.float16, further=torch.int8) if half else info_to_dict(info)
    content["state_dict"] = {key: shrink(tensor) for key, tensor in plain_state_dict(model).items()}
    save_with_digest(path, content)


def save_with_calibration(
    source: str | Path, target: str | Path, calibration: Calibration, digest: str | None = None
) -> None:
    """Copy a checkpoint of this project, replacing its calibration; all else stays as it is, bit for bit.

    Args:
        source: the checkpoint.
        target: the file to write.
        calibration: the calibration.
        digest: SHA-256 of the checkpoint that it was fitted to; None does not compare.

    Raises:
        UserError: ``source`` is no checkpoint of this project, or is another one by now, or ``target`` cannot be
            written.
    """
    content = read_own(source, "hold a calibration")
    if digest is not None and file_digest(source) != digest:
        raise UserError(
            f"{source} was replaced while the calibration was fitted to it; nothing is written: run this again when "
            "no other run writes to it"
        )
    save_with_digest(target, {**content, "calibration": calibration.to_dict()})


def read_own(path: str | Path, purpose: str) -> dict[str, Any]:
    """Read the content of a checkpoint of this project, to be changed and saved again; its weights are not checked.

    Raises:
        UserError: it is another file (the message says that only such checkpoints can ``purpose``), or incomplete.
    """
    content = read_state_file(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of this project; only those can {purpose}")
    info_of_dict(content, str(path))
    return storable(content)


def load_checkpoint(
    path: str | Path,
    *,
    model_name: str | None = None,
    num_rows: int | None = None,
    wordvec_dim: int | None = None,
    use_ema: bool = False,
) -> tuple[SDLModel, CheckpointInfo]:
    """Load a checkpoint of this project or of the released code.

    Files of the released code are release files ``{'model', 'num_classes', 'idx_to_class'}`` and bare state dicts of
    its train.py. Their InPlaceABN scales are converted; the backbone follows from the width of its first layer, and M
    from the size of the head (D is 300 unless given). Weights load strictly.

    Args:
        path: the file.
        model_name, num_rows, wordvec_dim: the model that the file must hold; None accepts any.
        use_ema: take the moving average in a file of another training tool, which holds it beside the weights.

    Returns:
        (the model in eval mode on the CPU, the rest of the file).

    Raises:
        UserError: the file cannot be read, is of another kind, does not fit, or contradicts an expectation.
    """
    content = read_state_file(path)
    if content.get("format") == FORMAT:
        if use_ema:
            raise UserError(f"--use-ema: {path} holds one set of weights; leave the flag out")
        model, info = _load_own(content, path)
    elif "format" in content and "state_dict" in content:
        raise UserError(
            f"{path} has the format {shortened(repr(content['format']), 80)}; this version reads {FORMAT!r}"
        )
    else:
        model, info = load_released(content, path, num_rows, wordvec_dim, use_ema=use_ema)
    info.config.check(ExpectedModel(model_name, num_rows, wordvec_dim), path)
    return model.eval(), info


def _load_own(content: Mapping[str, Any], path: str | Path) -> tuple[SDLModel, CheckpointInfo]:
    info = info_of_dict(content, str(path))
    state = content.get("state_dict")
    if not isinstance(state, Mapping):
        raise UserError(f"{path} is an incomplete checkpoint of this project: it has no state_dict")
    others = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise UserError(
            f"{path} is an incomplete checkpoint of this project: its state_dict holds other objects than plain "
            f"tensors: {name_some([shortened(key, 80) for key in others])}"
        )
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    return build_model(info.config, state, path), info
