"""InPlaceABN, an optional layer that fuses batch normalisation and activation to save training memory.

"In-Place Activated BatchNorm for Memory-Optimized Training of DNNs" (CVPR 2018). Results equal plain batch
normalisation as long as the scales are positive. Checkpoints of this project always hold plain scales, so that a model
trained with InPlaceABN loads into plain layers, and vice versa unless a scale has become negative.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from src.errors import UserError
from src.models.converters import INPLACE_ABN_EPS

INSTALL_LINE = (
    "pip install setuptools setuptools_scm wheel ninja && pip install --no-build-isolation --no-cache-dir inplace-abn"
)


def use_inplace_abn(backbone: nn.Module, model_name: str) -> None:
    """Replace every batch norm + activation of a TResNet by InPlaceABN, in place, keeping weights and statistics.

    Raises:
        UserError: the package is missing, the backbone is no TResNet, or one of its scales is negative.
    """
    try:
        from inplace_abn import InPlaceABN
    except Exception as error:  # missing, or built for another PyTorch
        raise UserError(
            f"--inplace-abn needs the inplace-abn package, which pip builds beside an installed torch: {INSTALL_LINE}"
        ) from error
    if not model_name.startswith("tresnet"):
        raise UserError(f"--inplace-abn: {model_name} is no TResNet; leave the flag out")
    for parent in list(backbone.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BatchNormAct2d):
                setattr(parent, name, _to_abn(layer, InPlaceABN).train(layer.training))


def _to_abn(layer: BatchNormAct2d, abn_class: Any) -> nn.Module:
    """Convert a timm layer to an equal InPlaceABN, whose scale is |w| + 1e-5, so that w = scale - 1e-5."""
    act = layer.act  # leaky ReLU, or none
    activation, slope = ("leaky_relu", act.negative_slope) if isinstance(act, nn.LeakyReLU) else ("identity", 0.0)
    abn = abn_class(
        layer.num_features, eps=layer.eps, momentum=layer.momentum, activation=activation, activation_param=slope
    )
    state = layer.state_dict()
    lowest = float(state["weight"].min())
    if lowest < -INPLACE_ABN_EPS:  # after plain training
        raise UserError(
            f"--inplace-abn: the model to start from has a negative batch-norm scale ({lowest:.3g}), which InPlaceABN "
            "cannot represent; leave the flag out"
        )
    # Released checkpoints have no scale below 1e-5. timm initialises some scales with 0, which become 1e-5 (w = 0).
    state["weight"] = (state["weight"] - INPLACE_ABN_EPS).clamp(min=0.0)
    abn.load_state_dict(state, strict=False)  # early versions count no batches
    return abn


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return ``model.state_dict()`` with the scales of plain batch normalisation.

    InPlaceABN's scales become |w| + 1e-5, and the step counter that early versions lack becomes 0 (it is only read
    when ``momentum`` is None).
    """
    state = dict(model.state_dict())
    for name, layer in model.named_modules():
        if type(layer).__name__ == "InPlaceABN":
            state[f"{name}.weight"] = state[f"{name}.weight"].abs() + INPLACE_ABN_EPS
            state.setdefault(f"{name}.num_batches_tracked", torch.zeros((), dtype=torch.long))
    return state
