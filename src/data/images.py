"""Reading images of any format as upright 8-bit RGB, whatever else their files hold."""

from __future__ import annotations

import base64
import io
import logging
import os
import sys
import threading
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image

from src.data.image_formats import open_image
from src.data.orientation import exif_orientation, upright, xmp_orientation
from src.data.pixels import as_rgb
from src.data.side_data import MOST_SCANS, Pixels, without_side_data
from src.data.truncated import complete, has_content
from src.errors import first_line
from src.options import DEFAULT_READING, MAX_INT, Reading
from src.utils.regular import NotRegularError, open_regular

_BYTES = 8  # of memory for each pixel that Reading.max_pixels admits: the decoded image, and its RGB form
# Bytes that decoders which need more take for each pixel, with the RGB form (measured)
_DECODER_BYTES = {"WEBP": 17, "JPEG2000": 20, "AVIF": 14, "HEIF": 12}
_SCANS = 16  # of a JPEG of max_pixels: each goes over all pixels, which takes time; a smaller one may have more
_LARGE = 256 << 20  # bytes; images that take more are decoded one at a time

# What Pillow says about odd side data, sizes and palettes is of no use here, and is printed with lines of its source
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").addHandler(logging.NullHandler())
_one_large = threading.Lock()


def _new_lock() -> None:
    global _one_large
    _one_large = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


class BadImageError(Exception):
    """An image that cannot be read; the message names the file and the reason."""


BadPictureError = BadImageError  # an earlier name, which other programs import


def read_image(path: str | Path, *, at_least: int | None = None, reading: Reading = DEFAULT_READING) -> Image.Image:
    """Read an image as upright RGB, 8 bits a channel.

    The image is turned by its EXIF or XMP orientation; other side data is not looked at. An animation yields its first
    frame; transparent parts become white; 16-bit and floating-point grey is scaled to 8 bits; CMYK, palette, grey and
    1-bit images are converted. A JPEG that lacks nothing but its end marker is whole.

    Args:
        path: the file.
        at_least: a JPEG may be decoded at a half, a quarter or an eighth of its size if both sides keep at least this
            many pixels; the decoder skips the higher frequencies, which takes about half the time. None: full size.
        reading: limits. Decoding takes at most about ``8 * max_pixels`` bytes.

    Raises:
        BadImageError: the file is missing, no regular file, no image, cut short, or too large.
    """
    try:
        with open_regular(path) as file:
            size, budget = os.fstat(file.fileno()).st_size, _budget(reading)
            _check_cost(size, budget, f"File size ({size} bytes)")
            return _read(without_side_data(file, size), at_least, reading, budget)
    except NotRegularError as error:
        raise BadImageError(f"{path}: is {error.kind}, not an image file") from error
    except Exception as error:  # a damaged image can raise nearly anything from Pillow's readers
        raise BadImageError(f"{path}: {_reason(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation and convert any Pillow mode to RGB.

    Depth is scaled, not clipped, and transparent pixels stay hidden. An upright RGB image is returned itself: a copy
    would take a sixth of the time of decoding.
    """
    image.load()  # some formats store EXIF after the pixels
    return as_rgb(upright(image, _orientation(image)))


def data_url(image: Image.Image, size: tuple[int, int]) -> str:
    """Return an RGB image, scaled down to fit ``size``, as a JPEG data URL for a web page."""
    small = image.copy()
    small.thumbnail(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


_ACCEPT = "--truncated accept takes what can be decoded"


class _RefusedError(Exception):
    """The reason why an image is refused, without its name."""


def _read(pixels: Pixels, at_least: int | None, reading: Reading, budget: int) -> Image.Image:
    image = open_image(pixels.stream)
    width, height = image.size
    _draft(image, at_least)
    cost = image.width * image.height * _DECODER_BYTES.get(image.format or "", _BYTES)
    cost += int(width * height * pixels.coefficients)
    if pixels.scans > MOST_SCANS:
        raise _RefusedError(f"is a JPEG of more than {MOST_SCANS} scans, which no encoder writes")
    memory = f", which take {cost >> 20:,} MB" if cost > _BYTES * width * height else ""
    _check_cost(cost, budget, f"Image size ({width * height} pixels{memory})")
    if pixels.scans > 1:
        work = width * height * pixels.scans * _BYTES // _SCANS
        _check_cost(work, budget, f"Image size ({width * height} pixels in {pixels.scans} scans)")
    with _one_large if cost > _LARGE else nullcontext():
        decoded = _decoded(image, pixels, at_least, reading)
        turned = upright(decoded, _orientation(decoded) if pixels.orientation is None else pixels.orientation)
        if turned is not decoded:
            decoded.close()  # frees its memory
        return as_rgb(turned)


def _draft(image: Image.Image, at_least: int | None) -> None:
    if at_least is not None and image.format == "JPEG":
        image.draft(None, (at_least, at_least))


def _decoded(image: Image.Image, pixels: Pixels, at_least: int | None, reading: Reading) -> Image.Image:
    """Decode an image; of one that is cut short, what can be decoded, if that is everything or is asked for."""
    if image.format == "JPEG" and not pixels.has_end:
        return _without_end(pixels.stream, at_least, reading)
    try:
        image.load()
    except Exception as error:
        if reading.truncated == "refuse":
            raise _RefusedError(f"{_reason(error)}; {_ACCEPT}") from error
        if not has_content(image):
            raise
    return image


def _without_end(stream: BinaryIO, at_least: int | None, reading: Reading) -> Image.Image:
    def decode(content: bytes) -> Image.Image:
        image = open_image(io.BytesIO(content))
        _draft(image, at_least)
        image.load()
        return image

    stream.seek(0)
    image, is_whole = complete(stream.read(), decode)
    if not is_whole and (reading.truncated == "refuse" or not has_content(image)):
        raise _RefusedError(f"image file is truncated; {_ACCEPT}")
    return image


def _orientation(image: Image.Image) -> int | None:
    """Return the orientation that Pillow has found in the file."""
    exif = image.info.get("exif")
    found = exif_orientation(exif) if isinstance(exif, bytes) else None
    if found is None and not isinstance(exif, bytes):
        with suppress(Exception):  # any odd tag
            found = image.getexif().get(ExifTags.Base.Orientation)
    if found is None:
        found = xmp_orientation(image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b"")
    return found


def _budget(reading: Reading) -> int:
    """Return how many bytes decoding may take."""
    if Image.MAX_IMAGE_PIXELS is None:
        return sys.maxsize
    if reading.max_pixels is None:
        return _BYTES * 2 * Image.MAX_IMAGE_PIXELS  # Pillow refuses from twice as many
    # Some readers look at the size once more; a smaller limit is kept by the cost
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, reading.max_pixels // 2 + 1)
    return _BYTES * reading.max_pixels


def _check_cost(cost: int, budget: int, what: str) -> None:
    if cost > budget:
        needed = -(-cost // _BYTES)
        advice = f"; --max_pixels {needed} admits it" if needed <= MAX_INT else ""
        raise _RefusedError(f"{what} exceeds limit of {budget // _BYTES} pixels, as a decompression bomb does{advice}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)
