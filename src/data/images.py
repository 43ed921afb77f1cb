"""Reading pictures of any kind as upright 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# By which picture files are told from others in a folder.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class BadPictureError(Exception):
    """A picture that cannot be read; the message names the file and the reason."""


def read_picture(path: str | Path) -> Image.Image:
    """Read a picture as upright RGB, 8 bits a channel.

    Turned as EXIF says; of an animation the first frame; transparent parts laid on white; 16-bit and floating-point
    grey scaled to 8 bits; CMYK, palette, grey and 1-bit converted.

    Raises:
        BadPictureError: the file is missing, no picture, cut short, or so large that Pillow refuses it.
    """
    try:
        with Image.open(path) as picture:
            picture.seek(0)
            picture.load()
            return to_rgb(picture)
    except UnidentifiedImageError as error:
        raise BadPictureError(f"{path}: not a picture that can be read") from error
    except Exception as error:  # a damaged picture can raise nearly anything from Pillow's readers
        raise BadPictureError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says and convert any Pillow mode to RGB.

    No depth is lost on the way, and what transparency hides stays hidden.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _deep_grey_to_rgb(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        colours = picture.convert("RGBA")
        canvas = Image.new("RGBA", colours.size, "white")
        canvas.alpha_composite(colours)
        return canvas.convert("RGB")
    return picture.convert("RGB")


def _deep_grey_to_rgb(picture: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float grey -> RGB. Pillow's own conversion clips at 255, which turns such pictures white.

    Integers are taken as 16-bit (0..65535), or as 8-bit where no pixel exceeds 255; floats as 0..1, or as 8-bit where a
    pixel exceeds 1. A float that is no number is black.
    """
    grey = np.nan_to_num(np.asarray(picture).astype(np.float64))
    top = grey.max(initial=0.0)
    full = (
        (1.0 if top <= 1 else 255.0)
        if picture.mode == "F"
        else (65535.0 if top > 255 or picture.mode.startswith("I;16") else 255.0)
    )
    return Image.fromarray(np.clip(np.rint(grey * 255 / full), 0, 255).astype(np.uint8)).convert("RGB")
