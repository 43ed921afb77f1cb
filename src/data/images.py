"""Reading images of any kind as upright 8-bit RGB."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# By which image files are told from others in a folder.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class BadImageError(Exception):
    """An image that cannot be read; the message names the file and the reason."""


def read_image(path: str | Path, *, at_least: int | None = None) -> Image.Image:
    """Read an image as upright RGB, 8 bits a channel.

    Turned as EXIF says; of an animation the first frame; transparent parts laid on white; 16-bit and floating-point
    grey scaled to 8 bits; CMYK, palette, grey and 1-bit converted.

    Args:
        path: the file.
        at_least: a JPEG may come at a half, a quarter or an eighth of its size, if both its sides keep as many pixels.
            The decoder leaves out the higher frequencies then, which takes about half the time. None: whole.

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
    """Turn an image as its EXIF says and convert any Pillow mode to RGB.

    No depth is lost on the way, and what transparency hides stays hidden. An upright RGB image is given back itself:
    a copy would take a sixth of the time of decoding.
    """
    image.load()  # some formats have their EXIF behind the pixels
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


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float grey -> RGB. Pillow's own conversion clips at 255, which turns such images white.

    Integers are taken as 16-bit (0..65535), or as 8-bit where no pixel exceeds 255; floats as 0..1, or as 8-bit where a
    pixel exceeds 1. A float that is no number is black.
    """
    grey = np.nan_to_num(np.asarray(image).astype(np.float64))
    top = grey.max(initial=0.0)
    full = (
        (1.0 if top <= 1 else 255.0)
        if image.mode == "F"
        else (65535.0 if top > 255 or image.mode.startswith("I;16") else 255.0)
    )
    return Image.fromarray(np.clip(np.rint(grey * 255 / full), 0, 255).astype(np.uint8)).convert("RGB")


class _ArrowArray(ctypes.Structure):
    """The structure of the Arrow C data interface, as far as it is looked at here; its layout never changes."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Lent:
    """Memory of an image in NumPy's array interface; it stays as long as an array looks at it."""

    def __init__(self, address: int, shape: tuple[int, ...], owner: object) -> None:
        # Not marked read-only: PyTorch warns about such arrays, and nothing here writes
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": "|u1", "version": 3}
        self._owner = owner


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels of an RGB image, uint8 [H, W, 4] or [H, W, 3]: red, green, blue and perhaps a byte of no meaning.

    The array is the image's own memory, to be read only, where Pillow lends it (since it has the Arrow protocol, up
    to 16 MB); elsewhere it is a copy, which takes a fifth of the time of decoding.
    """
    lent = _lent(image)
    return np.array(image) if lent is None else np.asarray(lent)


def _lent(image: Image.Image) -> _Lent | None:
    """The memory of an image of four bytes a pixel, or None where it is not to be had in one piece."""
    lend: Any = getattr(image, "__arrow_c_array__", None)
    if lend is None or 0 in image.size:
        return None
    try:
        _, capsule = lend()
    except (ValueError, MemoryError):  # it lies in several pieces
        return None
    width, height = image.size
    pixels = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    if (pixels.length, pixels.offset, pixels.n_children) != (width * height, 0, 1):
        return None
    channels = pixels.children[0].contents
    if (channels.length, channels.offset, channels.n_buffers) != (4 * width * height, 0, 2):
        return None
    return _Lent(channels.buffers[1], (height, width, 4), capsule)
