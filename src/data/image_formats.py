"""Formats of images that are read, their suffixes, and what other files are."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from functools import cache
from typing import Any

from PIL import Image

# Pillow's names of the formats that may be decoded, likely ones first. Left out are those that start another program
# (EPS: Ghostscript), open any other format inside (IPTC), have no decoder of Pillow's own (WMF, BUFR, GRIB, HDF5,
# MPEG), unpack without a bound (FITS), or are of games and instruments.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF", "JPEG2000", "PPM", "DIB", "ICO", "ICNS", "PSD"),
    *("QOI", "PCX", "SGI", "SUN", "XBM", "XPM", "PCD", "TGA"),
)
# Suffixes of these formats that Pillow registers under another name, only where a decoder is installed, or not at all
_MORE_SUFFIXES = frozenset(
    {".mpo", ".jps", ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif", ".webp"}
    | {".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".qoi", ".pnm"}
)

# What the first bytes of other files say: message, and what would help
_OTHERS = (
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "an HEIC image, which needs another package; run: pip install pillow-heif"),
    (rb".{4}ftypavi[fs]", "an AVIF image, which this Pillow does not read; run: pip install -U Pillow"),
    (rb"RIFF.{4}WEBP", "a WebP image that is damaged, or which this Pillow does not read"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image, which is not read; convert it to PNG or JPEG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript, which is not read; convert it to PNG or JPEG"),
    (rb"%PDF", "a PDF document, which is not read; convert its pages to PNG or JPEG"),
    (rb"\s*(<\?xml.*)?<svg", "an SVG drawing, which is not read; convert it to PNG"),
    (rb"\s*(<!--.*)?<(!doctype html|html|head|body)", "a web page, not an image; was the download answered by one?"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not an image; run: git lfs pull"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ", "an archive, not an image; unpack it"),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", "a video, or a container that is not read"),
    (rb"\0+$", "empty of data: it begins with zero bytes only; copy it again"),
)


class UnreadableFormatError(Exception):
    """A file in none of :data:`FORMATS`, or in one whose decoder is missing; the message says what it is."""


@cache
def _register() -> None:
    """Load all decoders."""
    Image.init()
    with suppress(Exception):  # missing, or built for another system: all other images are read without it
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


def _suffixes() -> frozenset[str]:
    Image.init()
    return _MORE_SUFFIXES | {suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS}


SUFFIXES = _suffixes()  # of image files, in lower case


def open_image(stream: Any) -> Image.Image:
    """Identify and open an image without decoding it, whatever its size.

    Does as ``Image.open(stream, formats=FORMATS)``; that refuses a size that a JPEG decoded at an eighth does not have.

    Args:
        stream: a binary file.

    Raises:
        UnreadableFormatError: it is in none of the formats, or damaged so that no decoder takes it.
    """
    _register()
    stream.seek(0)
    start = stream.read(512)
    damaged = ""
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[name]
        try:
            # An answer of text tells that this Pillow lacks the decoder
            if accepts is None or ((answer := accepts(start[:16])) and not isinstance(answer, str)):
                stream.seek(0)
                return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error) as error:
            if accepts is not None and len(start) >= 16:  # another format may take it
                damaged = damaged or f"a damaged {name} image: {error}"
    raise UnreadableFormatError(_kind(start, damaged))


def _kind(start: bytes, damaged: str) -> str:
    """Say what a file is, by its first bytes."""
    if not start:
        return "not an image: the file is empty"
    for pattern, kind in _OTHERS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return f"not an image that can be read: {kind}"
    return damaged or "not an image that can be read"
