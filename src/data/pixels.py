"""Conversion of decoded images of any Pillow mode to 8-bit RGB, a strip at a time where Pillow does not do it itself.

A strip bounds the memory: the image and its RGB form are the only whole copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STRIP = 1 << 20  # pixels


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB; an RGB image is returned itself.

    Depth is scaled, not clipped, and transparent pixels become white.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        full = _full_scale(image)
        return _by_strips(image, lambda strip: _shades(strip, full))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _by_strips(image, _on_white)
    return image.convert("RGB")


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of an RGB image: [H, W, 3] uint8. ``np.asarray`` would need twice the memory meanwhile."""
    if image.width * image.height <= _STRIP:
        return np.asarray(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        pixels[top : top + strip.height] = np.asarray(strip)
    return pixels


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the upper edge and pixels of each strip."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    whole = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        whole.paste(convert(strip), (0, top))
    return whole


def _on_white(image: Image.Image) -> Image.Image:
    colours = image.convert("RGBA")
    canvas = Image.new("RGBA", colours.size, "white")
    canvas.alpha_composite(colours)
    return canvas.convert("RGB")


def _full_scale(image: Image.Image) -> float:
    """Return the value of white in 16-bit, 32-bit or float grey.

    Integers are taken as 16-bit (0..65535), or as 8-bit where no pixel exceeds 255; floats as 0..1, or as 8-bit where a
    pixel exceeds 1.
    """
    if image.mode.startswith("I;16"):
        return 65535.0
    top = max((float(_grey(strip).max(initial=0.0)) for _, strip in _strips(image)), default=0.0)
    if image.mode == "F":
        return 1.0 if top <= 1 else 255.0
    return 65535.0 if top > 255 else 255.0


def _grey(image: Image.Image) -> NDArray[np.float64]:
    """Return deep grey as floats; NaN is black."""
    return np.nan_to_num(np.asarray(image).astype(np.float64))


def _shades(image: Image.Image, full: float) -> Image.Image:
    """Convert deep grey to RGB. Pillow's own conversion clips at 255, so such images turn white."""
    with np.errstate(over="ignore"):  # infinities are white
        shades = np.clip(np.rint(_grey(image) * 255 / full), 0, 255)
    return Image.fromarray(shades.astype(np.uint8)).convert("RGB")
