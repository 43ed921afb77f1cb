"""Label files of Open Images: millions of rows, read in blocks."""

from __future__ import annotations

from array import array
from binascii import unhexlify
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.prepare.files import read_blocks

HEADER = b"ImageID,Source,LabelName,Confidence"
BLOCK_BYTES = 1 << 22
ID_DIGITS = 16


@dataclass(frozen=True)
class Verdicts:
    """Labels of a label file, one verdict (class, present or absent) per row.

    Attributes:
        images: [N] uint64, ImageIDs in ascending order; an ImageID is a number of 16 hexadecimal digits.
        rows: [K] int32, the image of each verdict as an index into ``images``.
        columns: [K] int32, columns of the classes; -1 for a class that has none.
        values: [K] int8: 1 present, 0 absent.
    """

    images: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def num_conflicts(self) -> int:
        """Count the classes of an image that are both present and absent."""
        known = self.columns >= 0
        keys = _keys(self.rows[known], self.columns[known]) * 2 + self.values[known]
        keys.sort()
        return int(((keys[1:] >> 1 == keys[:-1] >> 1) & (keys[1:] != keys[:-1])).sum())

    def joined(self, others: Verdicts) -> tuple[Verdicts, int]:
        """Add verdicts about classes of an image that have none yet; return the number of added labels too."""
        images = np.union1d(self.images, others.images)
        rows, other_rows = (
            np.searchsorted(images, verdicts.images).astype(np.int32)[verdicts.rows] for verdicts in (self, others)
        )
        keys = _keys(other_rows, others.columns)
        new = (others.columns >= 0) & ~np.isin(keys, _keys(rows, self.columns))
        joined = Verdicts(
            images,
            np.concatenate([rows, other_rows[new]]),
            np.concatenate([self.columns, others.columns[new]]),
            np.concatenate([self.values, others.values[new]]),
        )
        return joined._only(slice(None)), len(np.unique(keys[new]))

    def without_foreign(self) -> Verdicts:
        """Return only the verdicts about classes that have a column, and the images that have any."""
        return self._only(self.columns >= 0)

    def _only(self, kept: np.ndarray | slice) -> Verdicts:
        """Keep some verdicts, and the images that have any of these."""
        rows = self.rows[kept]
        listed = np.bincount(rows, minlength=len(self.images)) > 0
        new_row = listed.cumsum(dtype=np.int32) - 1
        return Verdicts(self.images[listed], new_row[rows], self.columns[kept], self.values[kept])


def _keys(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return one number for each (image, class): [K] int64."""
    return rows.astype(np.int64) * (1 << 24) + columns


def read_verdicts(path: Path, column_of: Mapping[str, int], *, least_confidence: float | None = None) -> Verdicts:
    """Read a label file in blocks; memory holds 13 bytes per row, and some 50 while the images are numbered.

    Args:
        path: ``*-annotations-{human,machine}-imagelabels.csv``.
        column_of: MID -> column.
        least_confidence: least confidence of a machine-generated label to be taken as present; rows below are left
            out. None: the verdicts are verified by annotators, with a confidence of 1 or 0.

    Raises:
        UserError: the file cannot be read, or a row is not of this form; its line is named.
    """
    columns = {mid.encode(): column for mid, column in column_of.items()}
    ids, places, values = bytearray(), array("i"), array("b")
    machine = least_confidence is not None
    least = 0.0 if least_confidence is None else least_confidence
    lines = _lines(path)
    for number, line in enumerate(lines, start=2):
        try:
            image_id, _, mid, text = line.split(b",")
            image = unhexlify(image_id if len(image_id) == ID_DIGITS else _bare_id(image_id))
            confidence = _confidence(text, machine)
            column = columns.get(mid)
            if column is None:
                if not mid.startswith(b"/") or mid != mid.strip():
                    raise ValueError
                column = columns[mid] = -1
        except ValueError as error:
            if not line.strip() and not any(map(bytes.strip, lines)):
                break  # blank lines at the end
            form = f"16 hexadecimal digits,source,MID,{'a confidence from 0 to 1' if machine else '1 or 0'}"
            shown = line.rstrip(b"\r\n")[:120].decode(errors="replace")
            raise UserError(f"{path}, line {number}: not '{form}': {shown!r}; get the file again") from error
        if confidence >= least:
            ids += image
            places.append(column)
            values.append(1 if machine else int(confidence))
    images, rows = np.unique(np.frombuffer(ids, dtype=f">u{ID_DIGITS // 2}").astype(np.uint64), return_inverse=True)
    return Verdicts(
        images, rows.astype(np.int32), np.frombuffer(places, dtype=np.int32), np.frombuffer(values, dtype=np.int8)
    )


def _bare_id(image: bytes) -> bytes:
    """Return the ImageID of ``train_0/000004f4400f6ec5.jpg``, as lists of images have it."""
    image_id, _, suffix = image.strip().replace(b"\\", b"/").rpartition(b"/")[2].partition(b".")
    if len(image_id) != ID_DIGITS or suffix.lower() not in (b"", b"jpg", b"jpeg"):
        raise ValueError
    return image_id


@lru_cache(maxsize=4096)  # files hold few different ones
def _confidence(text: bytes, machine: bool) -> float:
    """Parse a confidence; raise ``ValueError`` if it is none."""
    value = float(text)
    if not 0 <= value <= 1 or (not machine and value not in (0, 1)):
        raise ValueError
    return value


def _lines(path: Path) -> Iterator[bytes]:
    """Return the lines after the header."""
    blocks = (block.replace(b'"', b"") for block in read_blocks(path, BLOCK_BYTES))  # some writers quote every field
    lines = chain.from_iterable(map(BytesIO, blocks))
    header = next(lines, b"").strip()
    if header.lower() != HEADER.lower():
        shown = header[:80].decode(errors="replace")
        raise UserError(f"{path}: begins with {shown!r}, not with {HEADER.decode()!r}; get the file again")
    return lines
