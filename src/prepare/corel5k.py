"""Corel5k: 4,500 + 499 photographs with 1 to 5 tags each out of 374 words.

"Object Recognition as Machine Translation" (ECCV 2002). The form in circulation:

    words                               a word a line; tag t is line t, from 1
    training_label, test_label          image id and its tags a line: ``1000 1 2 3 4``
    images/<id // 1000 * 1000>/<id>.jpeg
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from src.data.labels import LabelledImages, LabelMatrix
from src.data.split import columns_of
from src.errors import UserError, name_some
from src.prepare.collected import Collected
from src.prepare.flags import add_output_flags, add_split_flags, add_vector_flags, read_names, run_source
from src.prepare.nus_wide import CONCEPTS_81
from src.utils.files import read_lines

HELP = "Corel5k: 4,999 photographs, 374 tags"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``prepare_data.py corel5k``."""
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with words, training_label, test_label and images/",
    )
    parser.add_argument(
        "--unseen",
        type=Path,
        metavar="FILE",
        help="labels to hold out, one a line; those among NUS-WIDE's 81 concepts if left out",
    )
    add_output_flags(parser)
    add_vector_flags(parser)
    add_split_flags(parser)


def run(args: argparse.Namespace) -> list[str]:
    """``prepare_data.py corel5k``: the report."""
    return run_source(args, collect)


def collect(args: argparse.Namespace) -> Collected:
    """Read Corel5k.

    Raises:
        UserError: something is missing or malformed.
    """
    source: Path = args.source
    words = _read_lines(source, "words")
    if "" in words:
        raise UserError(f"{source / 'words'}, line {words.index('') + 1}: no word, but tags count the lines")
    unseen = (
        [word for word in words if word in CONCEPTS_81] if args.unseen is None else read_names(args.unseen, "--unseen")
    )
    columns_of(unseen, words, "--unseen")
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


def _read_part(source: Path, name: str, words: Sequence[str]) -> tuple[LabelledImages, int]:
    """One label file -> (labels in the columns of ``words``, number of repeated lines).

    An image that is listed again (the test list in circulation has one) keeps one row with the tags of all its lines.
    """
    row_of: dict[int, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    lines = _read_lines(source, name)
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            image, *tags = (int(part) for part in line.split())
        except ValueError:
            tags = [0]
        if not all(1 <= tag <= len(words) for tag in tags):
            raise UserError(f"{source / name}, line {number}: not 'id tag tag ...' with tags 1..{len(words)}: {line!r}")
        row = row_of.setdefault(image, len(row_of))
        rows += [row] * len(tags)
        columns += [tag - 1 for tag in tags]
    targets = LabelMatrix.from_positives(
        torch.tensor(rows, dtype=torch.int64),
        torch.tensor(columns, dtype=torch.int64),
        num_rows=len(row_of),
        num_labels=len(words),
    )
    images = LabelledImages(
        tuple(row_of), tuple(f"{number // 1000 * 1000}/{number}.jpeg" for number in row_of), targets
    )
    absent = [file_name for file_name in images.file_names if not (source / "images" / file_name).is_file()]
    if absent:
        raise UserError(
            f"--source {source}: {len(absent)} of the {len(images)} images of {name} are not below images/ "
            f"({name_some(absent, 3)})"
        )
    return images, sum(map(bool, lines)) - len(images)
