"""Reading the label files of Open Images: millions of rows, a block at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.errors import UserError

HEADER = b"ImageID,Source,LabelName,Confidence"
BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Verdicts:
    """What a label file says, a verdict a row of it.

    Attributes:
        ids: [K] uint64, the pictures' ImageIDs, which are 16 hexadecimal digits.
        columns: [K] int32, the classes' columns; -1 for a class that has none.
        values: [K] int8: 1 present, 0 absent.
    """

    ids: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def num_conflicts(self) -> int:
        """How many classes of a picture are both present and absent."""
        keys = _keys(np.unique(self.ids), self)
        known = self.columns >= 0
        present, absent = (np.unique(keys[known & (self.values == value)]) for value in (1, 0))
        return int(np.isin(present, absent, assume_unique=True).sum())

    def joined(self, others: Verdicts) -> tuple[Verdicts, int]:
        """These, and those of ``others`` about classes of a picture that these do not know; and how many they are."""
        pictures = np.unique(np.concatenate([self.ids, others.ids]))
        known = _keys(pictures, self)[self.columns >= 0]
        new = (others.columns >= 0) & ~np.isin(_keys(pictures, others), known)
        ids, columns, values = (
            np.concatenate([mine, theirs[new]])
            for mine, theirs in ((self.ids, others.ids), (self.columns, others.columns), (self.values, others.values))
        )
        return Verdicts(ids, columns, values), int(new.sum())


def _keys(pictures: np.ndarray, verdicts: Verdicts) -> np.ndarray:
    """[K] int64, one number for each (picture, class); ``pictures`` are sorted and hold all the verdicts' ids."""
    return np.searchsorted(pictures, verdicts.ids) * (1 << 24) + verdicts.columns


def read_verdicts(path: Path, column_of: Mapping[str, int], *, least_confidence: float | None = None) -> Verdicts:
    """Read a label file in blocks; memory holds 13 bytes a row.

    Args:
        path: ``*-annotations-{human,machine}-imagelabels.csv``.
        column_of: MID -> column.
        least_confidence: of a machine's label, to be taken as present; rows below are left out. None: the verdicts are
            people's, with a confidence of 1 or 0.

    Raises:
        UserError: the file cannot be read, or a row is not of this form; its line is named.
    """
    columns = {mid.encode(): column for mid, column in column_of.items()}
    ids, places, values = array("Q"), array("i"), array("b")
    number = 1
    for line in _rows(path):
        number += 1
        fields = line.split(b",")
        try:
            image_id, _, mid, text = fields
            if len(image_id) != 16:
                raise ValueError
            image = int(image_id, 16)
            confidence = 1.0 if text == b"1" else float(text)
            if not 0 <= confidence <= 1 or (least_confidence is None and confidence not in (0, 1)):
                raise ValueError
        except ValueError as error:
            raise _malformed(path, number, line, machine=least_confidence is not None) from error
        if least_confidence is not None:
            if confidence < least_confidence:
                continue
            confidence = 1.0
        ids.append(image)
        places.append(columns.get(mid, -1))
        values.append(int(confidence))
    return Verdicts(
        np.frombuffer(ids, dtype=np.uint64), np.frombuffer(places, dtype=np.int32), np.frombuffer(values, dtype=np.int8)
    )


def _rows(path: Path) -> Iterator[bytes]:
    """The lines after the header, without their ends."""
    try:
        with (
            open(path, "rb") as stream,
            tqdm(
                total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, disable=None, leave=False
            ) as bar,
        ):
            header = stream.readline().removeprefix(b"\xef\xbb\xbf").strip()
            if header != HEADER:
                raise UserError(
                    f"{path}: begins with {header[:80]!r}, not with {HEADER.decode()!r}; get the file again"
                )
            while lines := stream.readlines(BLOCK_BYTES):
                bar.update(sum(map(len, lines)))
                yield from (line.rstrip(b"\r\n") for line in lines)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _malformed(path: Path, number: int, line: bytes, machine: bool) -> UserError:
    confidence = "a confidence from 0 to 1" if machine else "1 or 0"
    return UserError(
        f"{path}, line {number}: not '16 hexadecimal digits,source,MID,{confidence}': "
        f"{line[:120].decode(errors='replace')!r}; get the file again"
    )
