"""Orientation of an image, from EXIF or XMP; the rest of these is not interpreted.

EXIF is a small TIFF file: TIFF 6.0, section 2, and BigTIFF. Pillow's reader interprets all tags, and refuses an image
for any odd one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from PIL import Image

ORIENTATION = 274
# Formats of the types of tags that hold numbers: BYTE, SHORT, LONG, RATIONAL, ..., DOUBLE, LONG8, SLONG8
_NUMBERS = {1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 16: "Q", 17: "q"}
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Entry(NamedTuple):
    """An entry of a TIFF directory.

    Attributes:
        tag, kind: as stored.
        raw: the whole entry.
        place: position of the value's bytes in the file; None where they are in the entry itself.
        size: number of the value's bytes; 0 if ``kind`` is unknown.
    """

    tag: int
    kind: int
    raw: bytes
    place: int | None
    size: int


class Directory(NamedTuple):
    """First directory of a TIFF file: byte order (``<`` or ``>``), whether it is a BigTIFF, and its entries."""

    order: str
    big: bool
    entries: list[Entry]


def read_directory(read: Callable[[int, int], bytes]) -> Directory | None:
    """Read the first directory of a TIFF file; entries beyond the end of the file are left out. None: it has none.

    Args:
        read: returns the bytes at a position, up to a number of bytes.
    """
    order = {b"II": "<", b"MM": ">"}.get(read(0, 2))
    with suppress(struct.error):
        if order is None:
            return None
        big = struct.unpack(order + "H", read(2, 2)) == (43,)
        place, count_format, entry_size = (8, "Q", 20) if big else (4, "H", 12)
        (place,) = struct.unpack(order + ("Q" if big else "I"), read(place, 8 if big else 4))
        (count,) = struct.unpack(order + count_format, read(place, struct.calcsize(count_format)))
        table = read(place + struct.calcsize(count_format), min(count, 65536) * entry_size)
        entries = [table[start : start + entry_size] for start in range(0, len(table) - entry_size + 1, entry_size)]
        return Directory(order, big, [_entry(raw, order, big) for raw in entries])
    return None


def _entry(raw: bytes, order: str, big: bool) -> Entry:
    tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), raw)
    size = _TYPE_SIZES.get(kind, 0) * count
    place = struct.unpack_from(order + ("Q" if big else "I"), raw, 12 if big else 8)[0]
    return Entry(tag, kind, raw, place if size > (8 if big else 4) else None, size)


def value_bytes(entry: Entry, big: bool, read: Callable[[int, int], bytes], limit: int) -> bytes:
    """Return the first ``limit`` bytes of an entry's value."""
    size = min(entry.size, limit)
    return entry.raw[12 if big else 8 :][:size] if entry.place is None else read(entry.place, size)


def orientation_tag(directory: Directory, read: Callable[[int, int], bytes]) -> int | None:
    """Return the orientation in a directory, whatever its type; None: there is none."""
    found = None
    for entry in directory.entries:
        if entry.tag == ORIENTATION:
            found = 1
            with suppress(struct.error, KeyError, ZeroDivisionError, OverflowError, ValueError):
                numbers = struct.unpack_from(
                    directory.order + _NUMBERS[entry.kind], value_bytes(entry, directory.big, read, 8)
                )
                found = int(numbers[0] if len(numbers) == 1 else numbers[0] / numbers[1])
    return found


def exif_orientation(exif: bytes) -> int | None:
    r"""Return the orientation in an EXIF block; None: there is none.

    Args:
        exif: the block, with or without ``Exif\0\0`` before it.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]

    def read(place: int, size: int) -> bytes:
        return exif[place : place + size]

    directory = read_directory(read)
    return None if directory is None else orientation_tag(directory, read)


def xmp_orientation(xmp: bytes | str) -> int | None:
    """Return the orientation in an XMP packet; None: there is none."""
    text = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    match = re.search(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([0-9])", text)
    return None if match is None else int(match[1])


def upright(image: Image.Image, orientation: int | None) -> Image.Image:
    """Turn or mirror an image; unknown orientations leave it as it is, and an upright one is not copied."""
    method = _TRANSPOSITIONS.get(orientation or 1)
    return image if method is None else image.transpose(method)
