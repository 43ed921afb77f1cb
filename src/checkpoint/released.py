"""Load files of the released code: release files, and bare state dicts of its train.py."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.checkpoint.info import CheckpointInfo, ModelConfig
from src.errors import UserError, first_line
from src.models import SDLModel, create_model
from src.models.converters import RELEASED_KEYS, convert_released_tresnet, is_released_tresnet
from src.models.layouts import FoundWeights, find_weights
from src.models.state_files import load_strictly

# Preprocessing of the released code; its files do not record it.
OFFICIAL_IMAGE_SIZE = 224
OFFICIAL_WORDVEC_DIM = 300
# Width of the first convolution -> model of the released code.
_TRESNET_OF_WIDTH = {64: "tresnet_m", 76: "tresnet_l", 83: "tresnet_xl"}


def load_released(
    content: Mapping[str, Any],
    path: str | Path,
    num_rows: int | None,
    wordvec_dim: int | None,
    *,
    use_ema: bool = False,
) -> tuple[SDLModel, CheckpointInfo]:
    """Build the model of such a file; see :func:`src.checkpoint.load_checkpoint`.

    Args:
        content: the loaded file.
        path: the file, for error messages.
        num_rows, wordvec_dim: M and D, which the file does not record; D is 300 unless given, M follows.
        use_ema: take the moving average of the weights; which were taken is printed where there is a choice.

    Raises:
        UserError: the file holds no model of the released code, or no head of this size.
    """
    found = released_weights(content, path, use_ema=use_ema)
    state = found.state
    if not is_released_tresnet(state):
        raise UserError(
            f"{path} is neither a checkpoint of this project nor a TResNet of the released code (its first key "
            f"is {next(iter(state))})"
        )
    if "embedding.weight" not in state:
        raise UserError(
            f"{path} is a backbone without the principal-embedding head, which cannot tag; train a head first: "
            f"python train.py --model-path {path} --pretrain-backbone 1"
        )
    converted = convert_released_tresnet(state)
    width = len(converted["body.conv1.bn.weight"])
    if width not in _TRESNET_OF_WIDTH:
        raise UserError(f"{path}: no TResNet of the released code has a first layer of width {width}")
    outputs = len(state["embedding.weight"])
    dim = wordvec_dim or (outputs // num_rows if num_rows else OFFICIAL_WORDVEC_DIM)
    if outputs % dim:
        raise UserError(
            f"{path}: its head has {outputs} outputs, no multiple of the word-vector length {dim}; give "
            "--wordvec_dim or --num_rows"
        )
    is_release = "idx_to_class" in content
    config = ModelConfig(
        _TRESNET_OF_WIDTH[width],
        outputs // dim,
        dim,
        OFFICIAL_IMAGE_SIZE,
        # The released infer.py resizes with Pillow's default filter, train.py validates with torchvision's.
        interpolation="bicubic" if is_release else "bilinear",
    )
    info = CheckpointInfo("release" if is_release else "bare", config, labels=_labels_of(content, path))
    named = {name if name.startswith("embedding.") else f"backbone.{name}": value for name, value in converted.items()}
    model = build_model(config, named, path)
    if found.note is not None:
        print(f"{path}: {found.note}", file=sys.stderr)
    return model, info


def released_weights(content: Mapping[str, Any], path: str | Path, *, use_ema: bool = False) -> FoundWeights:
    """Return the tensors of a file, without a wrapper's prefix if they are those of a TResNet of the released code.

    Raises:
        UserError: the file holds no state dict, or no moving average for ``use_ema``.
    """
    return find_weights(content, path, RELEASED_KEYS, use_ema=use_ema)


def build_model(config: ModelConfig, state: Mapping[str, Tensor], path: str | Path) -> SDLModel:
    """Build a model with these weights. They are compared with a model without memory first.

    Raises:
        UserError: they do not fit the configuration, or are not finite.
    """
    name = config.model_name
    build = partial(
        create_model,
        name,
        config.num_rows,
        config.wordvec_dim,
        num_class_words=config.num_class_words,
        image_size=config.image_size,
    )
    try:
        with torch.device("meta"):
            empty = build()
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: {name} cannot be built for images of {config.image_size} pixels ({first_line(error)})"
        ) from error
    load_strictly(empty, state, path)
    model = build()
    load_strictly(model, state, path)
    return model


def _labels_of(content: Mapping[str, Any], path: str | Path) -> tuple[str, ...]:
    """Return the label names of a release file by ascending index."""
    names = content.get("idx_to_class")
    if names is None:
        return ()
    try:
        by_index = {int(index): str(name) for index, name in names.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: idx_to_class is no dict from indices to names: {error}") from error
    if sorted(by_index) != list(range(len(by_index))):
        raise UserError(f"{path}: the indices of idx_to_class are not 0..{len(by_index) - 1}")
    return tuple(by_index[index] for index in range(len(by_index)))
