"""Separate the pixels of an image file from its side data, of which only the orientation is needed.

Decoders interpret text, colour profiles, resolutions and other tags before they decode, and refuse an image, or unpack
without a bound, for one that is odd. So they are shown a file without them; nothing is copied but the headers.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import BinaryIO, NamedTuple

from src.data.orientation import (
    Entry,
    exif_orientation,
    orientation_tag,
    read_directory,
    value_bytes,
    xmp_orientation,
)

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# A marker of a JPEG, but for restarts, and what may be its length; in data, FF is followed by 00
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])(..)", re.DOTALL)
_BLOCK = 1 << 18  # bytes of scans that are read at once
MOST_SCANS = 200  # of a JPEG: encoders write about ten
_TEXT_LIMIT = 4 << 20  # bytes of text in which an orientation is looked for
# Tags that a TIFF decoder needs: TIFF 6.0 without resolutions, texts, thumbnails, EXIF, GPS and private tags
_TIFF_PIXELS = (
    {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320}
    | {322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532}
    | set(range(512, 522))
)  # fmt: skip
_TIFF_XMP = 700
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)  # ISO/IEC 14496-12, 8.11.6

Part = bytes | tuple[int, int]


class Pixels(NamedTuple):
    """An image file without side data.

    Attributes:
        stream: the file.
        orientation: the orientation that the file states; None: none, or one that its decoder knows.
        coefficients: bytes of memory that a JPEG decoder needs for each pixel of the full size, whatever it decodes.
        scans: how often a JPEG decoder goes over all pixels; counted up to one more than :data:`MOST_SCANS`.
        has_end: whether a JPEG has an end marker; decoders fill what is missing before one.
    """

    stream: BinaryIO
    orientation: int | None = None
    coefficients: float = 0.0
    scans: int = 1
    has_end: bool = True


class _Spliced(io.RawIOBase):
    """Parts of a file, ``(start, stop)``, and bytes, as one file that can be read."""

    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file, self._parts = file, _joined(parts)
        self._starts = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + _length(part))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if self._place >= self._starts[-1]:
            return 0
        number = next(number for number, start in enumerate(self._starts) if start > self._place) - 1
        part, skipped = self._parts[number], self._place - self._starts[number]
        size = min(len(buffer), _length(part) - skipped)
        piece = (
            part[skipped : skipped + size] if isinstance(part, bytes) else _read_at(self._file, part[0] + skipped, size)
        )
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Join parts of the file that follow each other, and leave out empty ones."""
    joined: list[Part] = []
    for part in filter(_length, parts):
        last = joined[-1] if joined else b""
        if isinstance(last, tuple) and isinstance(part, tuple) and last[1] == part[0]:
            joined[-1] = (last[0], part[1])
        else:
            joined.append(part)
    return joined


def _length(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part[1] - part[0]


def without_side_data(file: BinaryIO, size: int) -> Pixels:
    """Return what a decoder needs of an image file of ``size`` bytes.

    Formats with other side data, or a structure that is not understood, are returned as they are.
    """
    start = _read_at(file, 0, 12)
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg(file, size)
    if start.startswith(_PNG):
        return _png(file, size)
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff(file, size)
    if start[4:8] == b"ftyp":  # AVIF and HEIF, whose decoders read the whole file and turn the image by another box
        return Pixels(io.BytesIO(_EXIF_ITEM.sub(rb"\1free", _read_at(file, 0, size))))
    return Pixels(file)


def _spliced(file: BinaryIO, parts: Sequence[Part]) -> BinaryIO:
    return io.BufferedReader(_Spliced(file, parts), 65536)  # type: ignore[type-var]


def _jpeg(file: BinaryIO, size: int) -> Pixels:
    """Leave out comments and application segments but JFIF and Adobe's, which tell how colours are stored."""
    parts: list[Part] = [b"\xff\xd8"]
    exif, xmp, place = b"", b"", 2
    sampling, is_progressive = [1], False
    for marker, start, stop in _jpeg_segments(file, size):
        file.seek(start + 4)
        body = file.read(stop - start - 4)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif += body[6:] if exif else body  # a long block is divided among segments
        elif marker == 0xE1 and body.startswith(_XMP):
            xmp = body[len(_XMP) :]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            is_progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            sampling = [(byte >> 4) * (byte & 15) for byte in body[7::3]]
        is_side_data = marker == 0xFE or 0xE0 <= marker <= 0xEF
        if not is_side_data or (body.startswith(b"JFIF\0") and len(body) >= 14) or _is_adobe(marker, body):
            parts.append((start, stop))
        place = stop
    parts.append((place, size))
    file.seek(place)
    scan = file.read(5)  # FF DA, length, number of components
    has_one_scan = not is_progressive and scan[:2] == b"\xff\xda" and scan[4:] == bytes([len(sampling)])
    orientation = exif_orientation(exif)
    return Pixels(
        _spliced(file, parts),
        xmp_orientation(xmp) if orientation is None else orientation,
        0.0 if has_one_scan else 2.0 * sum(sampling) / max(1, *sampling),
        1 if has_one_scan else _count_scans(file, place, size),
        _has_end_marker(file, place, size),
    )


def _count_scans(file: BinaryIO, place: int, size: int) -> int:
    """Count the scans from ``place`` to the end marker as a decoder does, up to one more than :data:`MOST_SCANS`."""
    count = 0
    while place < size and count <= MOST_SCANS:
        block, at = _read_at(file, place, _BLOCK), 0
        while count <= MOST_SCANS and (match := _MARKER.search(block, at)):
            if match[1] == b"\xd9":
                return count
            count += match[1] == b"\xda"
            at = match.start(2) + (0 if match[1] == b"\xd8" else int.from_bytes(match[2], "big"))
        place += max(at, len(block) - 3, 1)  # the last bytes may be the first of a marker
    return count


def _has_end_marker(file: BinaryIO, place: int, size: int) -> bool:
    """Return whether a JPEG has an end marker behind its first scan: within a scan, FF is followed by 00."""
    file.seek(max(place, size - 2))
    if file.read(2) == b"\xff\xd9":
        return True
    file.seek(place)
    last = b""
    while block := file.read(1 << 20):
        if b"\xff\xd9" in last + block:
            return True
        last = block[-1:]
    return False


def _is_adobe(marker: int, body: bytes) -> bool:
    return marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12


def _jpeg_segments(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment before the first scan, as far as they follow the standard."""
    place = 2
    while True:
        file.seek(place)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] < 0xC0 or head[1] == 0xFF or 0xD0 <= head[1] <= 0xDA:
            return
        stop = place + 2 + int.from_bytes(head[2:], "big")
        if stop < place + 4 or stop > size:
            return
        yield head[1], place, stop
        place = stop


def _png(file: BinaryIO, size: int) -> Pixels:
    """Keep the chunks that pixels depend on; an APNG becomes its first image."""
    parts: list[Part] = [_PNG]
    exif: int | None = None
    texts: dict[bytes, bytes] = {}
    place, left = len(_PNG), _TEXT_LIMIT
    while place + 8 <= size:
        file.seek(place)
        length, name = struct.unpack(">I4s", file.read(8))
        stop = min(place + 12 + length, size)
        if name in _PNG_PIXELS or not name[:1].islower():
            parts.append((place, stop))
        elif name == b"eXIf":
            exif = exif_orientation(file.read(min(length, _TEXT_LIMIT)))
        elif name in _PNG_TEXTS and left > 0:
            keyword, text = _png_text(name, file.read(min(length, left)), left)
            texts[keyword] = text
            left -= len(text)
        place = stop
        if name == b"IEND":
            break
    if exif is None:
        with suppress(ValueError):
            raw = b"".join(texts.get(b"Raw profile type exif", b"").split(b"\n")[3:])
            exif = exif_orientation(bytes.fromhex(raw.decode("latin-1")))
    orientation = xmp_orientation(texts.get(b"XML:com.adobe.xmp", b"")) if exif is None else exif
    return Pixels(_spliced(file, parts), orientation)


def _png_text(name: bytes, chunk: bytes, limit: int) -> tuple[bytes, bytes]:
    """Return the keyword and text of a text chunk (PNG 11.3.3), which may be compressed; damaged ones are empty."""
    keyword, _, rest = chunk.partition(b"\0")
    is_compressed = name == b"zTXt" or (name == b"iTXt" and rest[:1] == b"\1")
    if name == b"zTXt":
        rest = rest[1:]
    elif name == b"iTXt":
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if is_compressed:
        packed, rest = rest, b""
        with suppress(zlib.error):
            rest = zlib.decompressobj().decompress(packed, limit)
    return keyword, rest


def _tiff(file: BinaryIO, size: int) -> Pixels:
    """Put a directory with the tags that pixels depend on in the place of the first one."""
    read = partial(_read_at, file)
    directory = read_directory(read)
    if directory is None:
        return Pixels(file)
    order, big, entries = directory
    kept: dict[int, Entry] = {}
    for entry in entries:
        if entry.tag in _TIFF_PIXELS and entry.size <= size:
            kept.setdefault(entry.tag, entry)
    at = size + size % 2
    numbers = struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at)
    header = read(0, 2) + numbers
    table = b"".join(entry.raw for entry in sorted(kept.values()))
    counted = struct.pack(order + ("Q" if big else "H"), len(kept)) + table + bytes(8 if big else 4)
    orientation = orientation_tag(directory, read)
    if orientation is None:
        packets = [value_bytes(entry, big, read, _TEXT_LIMIT) for entry in entries if entry.tag == _TIFF_XMP]
        orientation = xmp_orientation(packets[0]) if packets else None
    return Pixels(_spliced(file, [header, (len(header), size), bytes(at - size), counted]), orientation)
