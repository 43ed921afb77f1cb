"""Images that are cut short: whether anything is missing, and what can be decoded of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from PIL import Image, ImageChops

_END = b"\xff\xd9"
# Bits after the last of a JPEG: only an image that lacks some of them depends on what these are
_PADDINGS = (bytes(64), b"\x55" * 64, b"\xaa" * 64)


def complete(content: bytes, decode: Callable[[bytes], Image.Image]) -> tuple[Image.Image, bool]:
    """Decode a JPEG that has no end marker, and tell whether it is whole otherwise.

    A decoder fills what is missing, and does not tell that it did. So the content is decoded with different bits after
    its end: they change the image if it lacks any.

    Args:
        content: the file.
        decode: decodes a whole file.

    Returns:
        The image, grey where it could not be decoded, and whether it is whole.
    """
    body = _body(content)
    image = decode(body + _END)
    is_whole = _has_all_scans(body) and all(
        ImageChops.difference(image, decode(body + padding + _END)).getbbox() is None for padding in _PADDINGS
    )
    return image, is_whole


def _body(content: bytes) -> bytes:
    """Return a JPEG without what an interrupted copy has left at its end."""
    body = content.rstrip(b"\0")
    if not body.endswith(b"\xff"):
        return body
    # A data byte, followed by a zero byte, or the begin of the end marker
    return body + b"\0" if len(body) < len(content) else body[:-1]


def _has_all_scans(content: bytes) -> bool:
    """Return whether the scans of a JPEG bring all coefficients of all components in full precision (ITU T.81, G)."""
    components: set[int] = set()
    coefficients: set[tuple[int, int]] = set()
    place = 2
    while place + 4 <= len(content):
        if content[place] != 0xFF or content[place + 1] in (0x00, 0xFF) or 0xD0 <= content[place + 1] <= 0xD9:
            place = content.find(b"\xff", place + 1)  # within a scan
            if place < 0:
                break
            continue
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        body = content[place + 4 : place + 2 + length]
        with suppress(IndexError):
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                components = {body[6 + 3 * number] for number in range(body[5])}
            elif marker == 0xDA:
                count = body[0]
                first, last, precision = body[1 + 2 * count : 4 + 2 * count]
                if precision & 15 == 0:
                    named = [body[1 + 2 * number] for number in range(count)]
                    coefficients |= {(name, index) for name in named for index in range(first, min(last, 63) + 1)}
        place += 2 + length
    return bool(components) and len(coefficients) >= 64 * len(components)


def has_content(image: Image.Image) -> bool:
    """Return whether a decoder that failed has written more than one colour; what it has written can then be used."""
    with suppress(Exception):  # there are no pixels, or not of a kind that can be used
        image.tile = []  # type: ignore[attr-defined]  # else they would be decoded again
        image.load()
        extrema = image.getextrema()
        bands = [extrema] if isinstance(extrema[0], int | float) else extrema
        return any(low != high for low, high in bands)
    return False
