"""Reading images of any format as upright 8-bit RGB."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Suffixes of image files.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class BadImageError(Exception):
    """An image that cannot be read; the message names the file and the reason."""


BadPictureError = BadImageError  # an earlier name, which other programs import


def read_image(path: str | Path, *, at_least: int | None = None) -> Image.Image:
    """Read an image as upright RGB, 8 bits a channel.

    The image is rotated by its EXIF orientation; an animation yields its first frame; transparent parts become white;
    16-bit and floating-point grey is scaled to 8 bits; CMYK, palette, grey and 1-bit images are converted.

    Args:
        path: the file.
        at_least: a JPEG may be decoded at a half, a quarter or an eighth of its size if both sides keep at least this
            many pixels; the decoder skips the higher frequencies, which takes about half the time. None: full size.

    Raises:
        BadImageError: the file is missing, no image, cut short, or so large that Pillow refuses it.
    """
    try:
        with Image.open(path) as image:
            image.seek(0)
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # does nothing in other formats
            image.load()
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise BadImageError(f"{path}: not an image that can be read") from error
    except Exception as error:  # a damaged image can raise nearly anything from Pillow's readers
        raise BadImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Rotate an image by its EXIF orientation and convert any Pillow mode to RGB.

    Depth is scaled, not clipped, and transparent pixels stay hidden. An upright RGB image is returned itself: a copy
    would take a sixth of the time of decoding.
    """
    image.load()  # some formats store EXIF after the pixels
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colours = image.convert("RGBA")
        canvas = Image.new("RGBA", colours.size, "white")
        canvas.alpha_composite(colours)
        return canvas.convert("RGB")
    return image.convert("RGB")


def data_url(image: Image.Image, size: tuple[int, int]) -> str:
    """Return an RGB image, scaled down to fit ``size``, as a JPEG data URL for a web page."""
    small = image.copy()
    small.thumbnail(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Convert 16-bit, 32-bit or float grey to RGB. Pillow's own conversion clips at 255, so such images turn white.

    Integers are taken as 16-bit (0..65535), or as 8-bit where no pixel exceeds 255; floats as 0..1, or as 8-bit where a
    pixel exceeds 1. NaN is black.
    """
    grey = np.nan_to_num(np.asarray(image).astype(np.float64))
    top = grey.max(initial=0.0)
    full = (
        (1.0 if top <= 1 else 255.0)
        if image.mode == "F"
        else (65535.0 if top > 255 or image.mode.startswith("I;16") else 255.0)
    )
    return Image.fromarray(np.clip(np.rint(grey * 255 / full), 0, 255).astype(np.uint8)).convert("RGB")
