"""Transforms from an image to the model's input: squashed (not cropped) to a square, in [0, 1], not normalised.

Training adds a cutout and RandAugment (released code, train.py). Normalisation, where a backbone needs it, is part of
the model.

The released code decodes an image at full size and resizes it with Pillow. ``exact=True`` does the same, bit for bit.
By default the same filters are computed in faster ways:

* PyTorch's vectorised resize of bytes instead of Pillow's, in evaluation only where the image shrinks on both sides:
  an enlarged image, as in Corel5k, is bit-identical to Pillow's. On 100 COCO photographs the square differs by one
  step of 255 at most with the bilinear filter, by six with the bicubic one (PSNR over 55 dB for each).
* A JPEG of more than eight times the square's side is decoded at a half or less of its size, never below
  :data:`SPARE` times the side (PSNR over 36 dB for each COCO photograph and any side from 32, usually 50 to 55 dB).
"""

from __future__ import annotations

import math
import random
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from src.data.images import read_image
from src.data.pixels import as_array
from src.options import DEFAULT_READING, Augmentation, Reading

Transform = Callable[[Image.Image], Tensor]
Step = Callable[[Image.Image], Image.Image]

TRANSFORM_VERSION = 2  # raise it when the output for the same image changes: cached features are then stale
SPARE = 4  # a JPEG keeps at least this many times the square's side; with 2, PSNR of some photographs is below 35 dB
# np.asarray() shows the pixels of a Pillow image, read-only; PyTorch warns of such arrays, which are never written here
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class ImageTransform:
    """Squash an RGB image or an image file to [3, S, S]; thread-safe.

    Args:
        image_size: side S of the square in pixels.
        interpolation: ``bilinear`` or ``bicubic``, averaged over the source area where the image shrinks.
        exact: decode at full size and resize with Pillow.
        reading: limits of reading files.
    """

    def __init__(
        self,
        image_size: int,
        interpolation: str = "bilinear",
        *,
        exact: bool = False,
        reading: Reading = DEFAULT_READING,
    ) -> None:
        if interpolation not in _FILTERS:
            raise ValueError(f"interpolation must be one of {', '.join(_FILTERS)}, got {interpolation!r}")
        self.image_size, self.interpolation, self.exact = image_size, interpolation, exact
        self.reading = reading

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform an RGB image: [3, S, S] float32 in [0, 1]."""
        return as_floats(self.to_bytes(image))

    def read(self, path: str | Path) -> Tensor:
        """Read and transform a file: [3, S, S] float32 in [0, 1]; raise as :func:`src.data.images.read_image`."""
        return as_floats(self.read_bytes(path))

    def read_bytes(self, path: str | Path) -> Tensor:
        """Do as :meth:`read`, but return uint8, a quarter of the memory; :func:`as_floats` converts whole batches."""
        at_least = None if self.exact else SPARE * self.image_size
        return self.to_bytes(read_image(path, at_least=at_least, reading=self.reading))

    def reads_less_of(self, image: Image.Image) -> bool:
        """Return whether :meth:`read` decodes a JPEG of this size at a reduced size, unlike calling."""
        return not self.exact and min(image.size) >= 2 * SPARE * self.image_size

    def read_with_image(self, path: str | Path, at_least: int) -> tuple[Tensor, Image.Image]:
        """Do as :meth:`read_bytes`, and return the image too.

        The tensor is the same: an image's tags must not depend on whether it is shown.

        Args:
            path: the file.
            at_least: pixels of both sides that the image keeps if a JPEG is decoded at a smaller size.
        """
        smallest = max(at_least, 2 * SPARE * self.image_size)  # reads_less_of(image) does not depend on it
        image = read_image(path, at_least=None if self.exact else smallest, reading=self.reading)
        return self.read_bytes(path) if self.reads_less_of(image) else self.to_bytes(image), image

    def to_bytes(self, image: Image.Image) -> Tensor:
        """Transform an RGB image: [3, S, S] uint8."""
        if self._vectorised(image):
            return self._resize(image)
        return _to_channels(image.resize((self.image_size, self.image_size), _FILTERS[self.interpolation]))

    def _vectorised(self, image: Image.Image) -> bool:
        """Return whether the resize may differ from Pillow's in the last bits."""
        return not self.exact and min(image.size) > self.image_size

    def _resize(self, image: Image.Image) -> Tensor:
        """Resize with PyTorch, which uses Pillow's filter with weights of 16 bits instead of 22: [3, S, S] uint8."""
        pixels = torch.from_numpy(as_array(image)).permute(2, 0, 1)[None]  # [1, 3, H, W], channels last
        side = (self.image_size, self.image_size)
        return torch.nn.functional.interpolate(pixels, size=side, mode=self.interpolation, antialias=True)[0]


class TrainTransform(ImageTransform):
    """An :class:`ImageTransform` with augmentation steps between resizing and conversion.

    With such steps, images are enlarged the fast way too: augmentation changes more than the last bits.
    """

    def __init__(
        self,
        image_size: int,
        interpolation: str,
        steps: Sequence[Step],
        *,
        exact: bool = False,
        reading: Reading = DEFAULT_READING,
    ) -> None:
        super().__init__(image_size, interpolation, exact=exact, reading=reading)
        self.steps = list(steps)

    def to_bytes(self, image: Image.Image) -> Tensor:
        """Transform and augment an RGB image: [3, S, S] uint8."""
        square = super().to_bytes(image)
        if not self.steps:
            return square
        augmented = Image.merge("RGB", [Image.fromarray(channel) for channel in square.numpy()])
        for step in self.steps:
            augmented = step(augmented)
        return _to_channels(augmented)

    def _vectorised(self, image: Image.Image) -> bool:
        return super()._vectorised(image) or bool(self.steps and not self.exact)


def _to_channels(image: Image.Image) -> Tensor:
    """Return an RGB image as [3, H, W] uint8; NumPy copies in this thread, where PyTorch would start threads."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def as_floats(images: Tensor) -> Tensor:
    """Convert uint8 to float32 in [0, 1], as torchvision's ToTensor does; floats are returned unchanged."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def read_transformed(path: str | Path, transform: Transform) -> Tensor:
    """Read an image file through any transform: [3, S, S], uint8 from an :class:`ImageTransform`.

    Raises:
        BadImageError: the image cannot be read.
    """
    if isinstance(transform, ImageTransform):
        return transform.read_bytes(path)
    return transform(read_image(path))


def eval_transform(
    image_size: int, interpolation: str = "bilinear", *, exact: bool = False, reading: Reading = DEFAULT_READING
) -> ImageTransform:
    """Return the transform of evaluation: RGB image -> [3, image_size, image_size] float32 in [0, 1].

    Args:
        image_size: side of the square in pixels.
        interpolation: ``bilinear`` (torchvision's default, used in training) or ``bicubic`` (Pillow's default, used by
            the released infer.py).
        exact: bit-identical to the released code; the module docstring tells the difference otherwise.
        reading: limits of reading files.

    Raises:
        ValueError: another filter.
    """
    return ImageTransform(image_size, interpolation, exact=exact, reading=reading)


def train_transform(
    image_size: int,
    interpolation: str = "bilinear",
    *,
    cutout: float = 0.5,
    augmentation: Augmentation = "randaugment",
    exact: bool = False,
    reading: Reading = DEFAULT_READING,
) -> TrainTransform:
    """Return the transform of training: cutout and RandAugment after resizing, in the released code's order.

    Args:
        image_size: side of the square in pixels.
        interpolation: as in :func:`eval_transform`.
        cutout: side of the cutout as a fraction of the image's side; 0 disables it.
        augmentation: ``randaugment`` (the package of that name, the released code's), ``torchvision`` (its
            RandAugment), or ``none``.
        exact: bit-identical to the released code before augmentation.
        reading: limits of reading files.
    """
    steps: list[Step] = [Cutout(cutout)] if cutout > 0 else []
    if augmentation == "randaugment":
        steps.append(packaged_randaugment())
    elif augmentation == "torchvision":
        from torchvision.transforms import RandAugment  # torchvision takes a second to import

        steps.append(RandAugment())
    return TrainTransform(image_size, interpolation, steps, exact=exact, reading=reading)


class Cutout:
    """Paint a square of one random colour at a random place.

    The centre is uniform over the image, so the square may hang over the edge.

    "Improved Regularization of Convolutional Neural Networks with Cutout" (arXiv 1708.04552), with the random colour of
    the released code.
    """

    def __init__(self, side: float) -> None:
        self.side = side  # as a fraction of the image's side

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return a painted copy; the image itself is not changed."""
        width, height = image.size
        half_width, half_height = (round(self.side * length) // 2 for length in (width, height))
        x, y = (int(torch.randint(length, ()).item()) for length in (width, height))
        colour = tuple(torch.randint(256, (3,)).tolist())
        painted = image.copy()
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
    """NumPy with the alias ``int``, which version 1.24 removed."""

    int = int

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _PackagedRandAugment:
    """``RandAugment()`` of the ``randaugment`` package, picklable; each operation is built once, not for every image.

    Draws and images are bit-identical to the package's. Version 1.0.2, its last, calls ``np.int``, which NumPy has
    removed; the alias is restored inside the package's own module only, and again in a spawned worker process.
    """

    def __init__(self) -> None:
        from randaugment import RandAugment
        from randaugment import randaugment as module

        if not isinstance(module.np, _NumpyWithInt):
            module.np = _NumpyWithInt("numpy")
        pairs = RandAugment.get_rand_policies()  # of all operations with all, the first ones in the outer loop
        singles = [second for _, second in pairs[: math.isqrt(len(pairs))]]
        policies = [module.SubPolicy(*single, *single) for single in singles]
        # Magnitudes as Python's numbers: Pillow's tables of 256 entries are slow to make of NumPy's
        self._operations = [(one.p1, one.operation1, np.asarray(one.magnitude1).item()) for one in policies]

    def __call__(self, image: Image.Image) -> Image.Image:
        many = len(self._operations)
        for number in divmod(random.randint(0, many * many - 1), many):
            probability, operation, magnitude = self._operations[number]
            if random.random() < probability:
                image = operation(image, magnitude)
        return image

    def __reduce__(self) -> tuple[type[_PackagedRandAugment], tuple[()]]:
        return type(self), ()


def packaged_randaugment() -> Step:
    """Return ``RandAugment()`` of the ``randaugment`` package."""
    return _PackagedRandAugment()
