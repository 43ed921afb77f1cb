"""Corel5k (see ``Corel5kSettings`` for the layout)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from src.config.data_sets import Corel5kSettings
from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError, name_some
from src.prepare.collected import Collected
from src.prepare.files import read_unseen
from src.prepare.nus_wide import CONCEPTS_81
from src.utils.files import read_lines


def collect(settings: Corel5kSettings) -> Collected:
    """Read Corel5k.

    Raises:
        UserError: something is missing or malformed.
    """
    source = settings.source
    words = _read_lines(source, "words")
    if "" in words:
        raise UserError(f"{source / 'words'}, line {words.index('') + 1}: no word, but tags are line numbers")
    if settings.unseen is None:
        unseen = [word for word in words if word in CONCEPTS_81]
    else:
        unseen = read_unseen(settings.unseen, words)
    parts, notes = {}, []
    for part, name in (("train", "training_label"), ("val", "test_label")):
        parts[part], repeated = _read_part(source, name, words)
        if repeated:
            notes.append(f"{part}: merged {repeated} repeated lines of {name}")
    return Collected("corel5k", words, parts, image_root=os.path.abspath(source / "images"), unseen=unseen, notes=notes)


def _read_lines(source: Path, name: str) -> list[str]:
    if not (source / name).is_file():
        raise UserError(f"--source {source}: there is no {name} in it; is this the Corel5k folder?")
    return read_lines(source / name, "--source")


def _numbers(line: str) -> list[int]:
    """Return the numbers of a line, -1 for what is no number or has more than 18 digits."""
    return [int(part) if part.isascii() and part.isdigit() and len(part) <= 18 else -1 for part in line.split()]


def _read_part(source: Path, name: str, words: Sequence[str]) -> tuple[LabelledImages, int]:
    """Read a label file: the images with labels in the columns of ``words``, and the number of repeated lines.

    An image that is listed again (the test list in circulation has one) keeps one row with the tags of all its lines.
    """
    row_of: dict[int, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    lines = _read_lines(source, name)
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        image, *tags = _numbers(line)
        if image < 0 or not all(1 <= tag <= len(words) for tag in tags):
            raise UserError(
                f"{source / name}, line {number}: not 'id tag tag ...' with tags 1..{len(words)}: {line[:80]!r}"
            )
        row = row_of.setdefault(image, len(row_of))
        rows += [row] * len(tags)
        columns += [tag - 1 for tag in tags]
    targets = LabelMatrix.from_positives(
        torch.tensor(rows, dtype=torch.int64),
        torch.tensor(columns, dtype=torch.int64),
        num_rows=len(row_of),
        num_labels=len(words),
    )
    names = tuple(f"{number // 1000 * 1000}/{number}.jpeg" for number in row_of)
    absent = [file_name for file_name in names if not (source / "images" / file_name).is_file()]
    if absent:
        raise UserError(
            f"--source {source}: {len(absent)} of the {len(names)} images of {name} are not below images/ "
            f"({name_some(absent, 3)})"
        )
    return LabelledImages(tuple(row_of), names, targets), sum(map(bool, lines)) - len(names)
