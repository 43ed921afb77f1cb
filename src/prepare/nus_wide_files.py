"""The files of the NUS-WIDE distribution: lists of images, matrices of flags, and photo ids in image names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.errors import UserError
from src.prepare.files import read_blocks
from src.utils.files import read_lines

Integers = NDArray[np.int64]

_BLOCK = 1 << 23  # bytes read at a time
_BLANKS = b" \t\r\v\f"  # with the line feed, all that bytes.split() takes for white space
_LISTED = re.compile(r"(?:.*[/_])?([0-9]{1,18})\.jpe?g", re.IGNORECASE)
_SIZE = re.compile(r"_[a-z]$")  # Flickr's letter for the size: _m, _b, ...
_SECRET = re.compile(r"[0-9a-f]{6,10}")  # what follows the photo id in Flickr's own names


def read_image_list(path: Path) -> tuple[list[str], list[int]]:
    r"""Read a list of images, ``actor\0001_2124494179.jpg`` per line: (names with ``/``, photo ids), each [N].

    Raises:
        UserError: the file cannot be read, lists nothing, or a line is of another form.
    """
    names, ids = [], []
    for number, line in enumerate(read_lines(path, "--source"), start=1):
        name = line.replace("\\", "/")
        match = _LISTED.fullmatch(name)
        if match is None:
            raise UserError(
                f"--source {path}, line {number}: {line!r} is not of the form concept\\0001_2124494179.jpg; copy the "
                "file again"
            )
        names.append(name)
        ids.append(int(match[1]))
    if not names:
        raise UserError(f"--source {path}: lists no image; copy the file again")
    return names, ids


def read_flags(path: Path, width: int) -> tuple[Integers, Integers, int]:
    """Read a matrix of zeros and ones written as text, ``width`` of them per line, separated by white space.

    It is read in blocks: the 323 MB of a file take a few seconds, and memory for its ones only. Blank lines at the end
    are ignored.

    Returns:
        Rows [K] and columns [K] of the ones, ascending, and the number of lines.

    Raises:
        UserError: the file cannot be read, or a line holds anything else; the message names the line.
    """
    rows, columns, num_lines = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)], 0
    blank = b""  # lines that count only if others follow
    for lines in read_blocks(path, _BLOCK):
        block = blank + lines
        text = block.rstrip()
        blank = block[len(text) :].partition(b"\n")[2] if text else block
        if not text:
            continue
        flags = _parse(text + b"\n", width)
        if flags is None:
            raise UserError(f"--source {path}, {_first_fault(text, width, num_lines)}; copy the file again")
        block_rows, block_columns = np.nonzero(flags)
        rows.append(block_rows + num_lines)
        columns.append(block_columns)
        num_lines += len(flags)
    return np.concatenate(rows), np.concatenate(columns), num_lines


def _parse(block: bytes, width: int) -> NDArray[np.bool_] | None:
    """Return the flags [lines, width] of complete lines, or None if anything is wrong with them."""
    raw = np.frombuffer(block, dtype=np.uint8)
    is_flag = (raw & 0xFE) == ord("0")  # 0 and 1 differ in the last bit
    if (is_flag[1:] & is_flag[:-1]).any():
        return None  # two digits without white space between them
    dense = np.frombuffer(block.translate(None, _BLANKS), dtype=np.uint8)
    if len(dense) % (width + 1):
        return None
    lines = dense.reshape(-1, width + 1)
    flags, ends = lines[:, :width], lines[:, width]
    if ((flags & 0xFE) != ord("0")).any() or (ends != ord("\n")).any():
        return None
    return flags == ord("1")


def _first_fault(block: bytes, width: int, lines_before: int) -> str:
    """Describe the first fault of a block that :func:`_parse` refuses, and its place."""
    for number, line in enumerate(block.split(b"\n"), start=lines_before + 1):
        flags = line.split()
        wrong = [flag for flag in flags if flag not in (b"0", b"1")]
        if wrong:
            shown = repr(wrong[0][:20]).removeprefix("b")
            return f"line {number:,}: flag {flags.index(wrong[0]) + 1:,} is {shown}, neither 0 nor 1"
        if len(flags) != width:
            break
    return f"line {number:,}: {len(flags):,} flags, not {width:,}"


def photo_id(file_name: str, listed: Collection[int | str]) -> int | None:
    """Return the Flickr photo id in the name of an image file, or None if none of its numbers is ``listed``.

    Names in use are ``<nnnn>_<id>``, ``<id>``, ``<id>_<secret>_m`` and ``<anything>_<id>_<secret>_m``, where a secret
    is up to ten hexadecimal digits, all of which may be decimal: ``1234_2124494179`` could be read either way. So the
    last number is tried first and then the one before it, but the other way round where Flickr's letter for the size
    follows, which says that the last one is a secret.
    """
    stem = os.path.splitext(file_name)[0].lower()
    has_size = _SIZE.search(stem) is not None
    *before, last = (stem[:-2] if has_size else stem).split("_")
    candidates = [last]
    if before and _SECRET.fullmatch(last):
        candidates.insert(0 if has_size else 1, before[-1])
    numbers = (int(field) for field in candidates if field.isascii() and field.isdecimal())
    return next((number for number in numbers if number in listed), None)


def find_photos(places: Iterable[str], names: Mapping[int | str, str]) -> tuple[dict[int | str, str], list[int]]:
    """Find the image files of photos (id -> name in the list) among ``places``, which are sorted.

    Return photo id -> file, for the photos that are there, and the ids that have several files: of these the one named
    as in the list is taken, or else the first by name.
    """
    place_of: dict[int | str, str] = {}
    files_of: Counter[int] = Counter()
    for place in places:
        number = photo_id(place.rpartition("/")[2], names)
        if number is not None:
            files_of[number] += 1
            if number not in place_of or f"/{place}".endswith(f"/{names[number]}"):
                place_of[number] = place
    return place_of, [number for number, count in files_of.items() if count > 1]
