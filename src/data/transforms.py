"""From a picture to the model's input: squashed (not cropped) to a square, in [0, 1], not normalised.

Training adds a cutout and RandAugment (released code, train.py). Normalisation, where a backbone needs it, is the
model's affair.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

Transform = Callable[[Image.Image], Tensor]
Augmentation = Literal["randaugment", "torchvision", "none"]

AUGMENTATIONS: tuple[Augmentation, ...] = ("randaugment", "torchvision", "none")


def eval_transform(image_size: int, interpolation: str = "bilinear") -> Transform:
    """RGB picture -> [3, image_size, image_size] float32 in [0, 1].

    Args:
        image_size: side of the square in pixels.
        interpolation: Pillow's filter: ``bilinear`` (torchvision's default, used in training) or ``bicubic`` (Pillow's
            default, used by the released infer.py). Both average over the source area when they shrink.
    """
    return transforms.Compose([_squash(image_size, interpolation), transforms.ToTensor()])


def train_transform(image_size: int, *, cutout: float = 0.5, augmentation: Augmentation = "randaugment") -> Transform:
    """The eval transform with cutout and RandAugment between resizing and conversion, in the released code's order.

    Args:
        image_size: side of the square in pixels.
        cutout: side of the cutout as a part of the picture's side; 0 leaves it out.
        augmentation: ``randaugment`` (the package of that name, the released code's), ``torchvision`` (its
            RandAugment), or ``none``.
    """
    steps: list[Any] = [_squash(image_size, "bilinear")]
    if cutout > 0:
        steps.append(Cutout(cutout))
    if augmentation == "randaugment":
        steps.append(packaged_randaugment())
    elif augmentation == "torchvision":
        steps.append(transforms.RandAugment())
    return transforms.Compose([*steps, transforms.ToTensor()])


def _squash(image_size: int, interpolation: str) -> Any:
    return transforms.Resize((image_size, image_size), interpolation=InterpolationMode(interpolation))


class Cutout:
    """Paint a square of one random colour over a random place.

    The centre is uniform over the picture, so the square may hang over the edge.

    "Improved Regularization of Convolutional Neural Networks with Cutout" (arXiv 1708.04552), with the random colour of
    the released code.
    """

    def __init__(self, side: float) -> None:
        self.side = side  # as a part of the picture's side

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return a painted copy; the picture itself stays as it is."""
        width, height = picture.size
        half_width, half_height = (round(self.side * length) // 2 for length in (width, height))
        x, y = (int(torch.randint(length, ()).item()) for length in (width, height))
        colour = tuple(torch.randint(256, (3,)).tolist())
        painted = picture.copy()
        box = (
            max(x - half_width, 0),
            max(y - half_height, 0),
            min(x + half_width, width) - 1,
            min(y + half_height, height) - 1,
        )
        if box[0] <= box[2] and box[1] <= box[3]:
            ImageDraw.Draw(painted).rectangle(box, fill=colour)
        return painted


class _NumpyWithInt(types.ModuleType):
    """NumPy with the alias ``int`` that it dropped in version 1.24."""

    int = int

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _PackagedRandAugment:
    """``RandAugment()`` of the ``randaugment`` package with its NumPy mended, also where it is sent to a process.

    A loader's worker that is spawned, not forked, imports the package anew, so the alias is given back on unpickling.
    """

    def __init__(self) -> None:
        from randaugment import RandAugment
        from randaugment import randaugment as module

        if not isinstance(module.np, _NumpyWithInt):
            module.np = _NumpyWithInt("numpy")
        self.augment = RandAugment()

    def __call__(self, picture: Image.Image) -> Image.Image:
        return self.augment(picture)

    def __reduce__(self) -> tuple[type[_PackagedRandAugment], tuple[()]]:
        return type(self), ()


def packaged_randaugment() -> Callable[[Image.Image], Image.Image]:
    """``RandAugment()`` of the ``randaugment`` package.

    Version 1.0.2, its last, calls ``np.int``, which NumPy has dropped: every picture would fail. The alias is given
    back inside the package's own module only; NumPy itself stays as it is.
    """
    return _PackagedRandAugment()
