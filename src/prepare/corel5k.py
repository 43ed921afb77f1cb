"""Corel5k: 4,500 + 499 photographs with 1 to 5 tags each out of 374 words.

"Object Recognition as Machine Translation" (ECCV 2002). The form in circulation:

    words                               a word a line; tag t is line t, from 1
    training_label, test_label          picture id and its tags a line: ``1000 1 2 3 4``
    images/<id // 1000 * 1000>/<id>.jpeg
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from src.data.coco import LabelledPictures
from src.data.metadata import ExtraWords, check_output_folder, write_metadata
from src.data.nus_wide import CONCEPTS_81
from src.data.split import ZeroShotSplit, columns_of, make_split
from src.data.word_vectors import frequent_words, label_vectors, read_vocabulary
from src.errors import UserError, name_some


@dataclass(frozen=True)
class Report:
    """What :func:`prepare_corel5k` found, for printing."""

    split: ZeroShotSplit
    train: LabelledPictures
    val: LabelledPictures
    dropped: list[str]  # words without a vector
    repeated_lines: int  # lines about a picture that an earlier line was about
    extra_words: ExtraWords | None


def prepare_corel5k(
    source: Path,
    output: Path,
    word_vectors: Path,
    *,
    unseen: Sequence[str] | None = None,
    drop_missing: bool = False,
    extra_words: int = 0,
    overwrite: bool = False,
) -> Report:
    """Make a metadata folder from Corel5k.

    Args:
        source: the folder that holds ``words``, ``training_label``, ``test_label`` and ``images``.
        output: the metadata folder to make.
        word_vectors: see :func:`src.data.word_vectors.read_vocabulary`.
        unseen: the labels to hold out; None takes those that are among the 81 concepts of NUS-WIDE.
        drop_missing: leave out words without a vector, which is otherwise an error.
        extra_words: store this many of the vocabulary's most frequent words too.
        overwrite: replace an earlier folder.

    Raises:
        UserError: something is missing, malformed or in the way. Nothing is written then.
    """
    check_output_folder(output, overwrite)
    words = _read_lines(source / "words")
    if "" in words:
        raise UserError(f"{source / 'words'}, line {words.index('') + 1}: no word, but tags count the lines")
    vocabulary = read_vocabulary(word_vectors)
    labels, vectors, missing = label_vectors(vocabulary, words)
    if missing and not drop_missing:
        raise UserError(
            f"--word-vectors {word_vectors}: no vector for {len(missing)} of the {len(words)} words "
            f"({name_some(missing)}); "
            "give other vectors, or --missing drop to leave these words out"
        )
    held_out = [label for label in labels if label in CONCEPTS_81] if unseen is None else list(unseen)
    unseen_columns = columns_of(held_out, labels, "--unseen (words that have a vector)")
    seen = [column for column, label in enumerate(labels) if label not in held_out]
    split = make_split(
        labels,
        seen,
        unseen_columns,
        vectors,
        name=f"corel5k_{len(seen)}_{len(held_out)}",
        source=str(source),
    )
    (train, repeated_train), (val, repeated_val) = (
        _read_part(source, name, words, labels) for name in ("training_label", "test_label")
    )
    extra = frequent_words(vocabulary, extra_words, labels)
    write_metadata(
        output,
        split,
        {"train": train, "val": val},
        image_root=os.path.abspath(source / "images"),
        word_vector_source=vocabulary.source,
        extra_words=extra,
        overwrite=overwrite,
    )
    return Report(split, train, val, missing, repeated_train + repeated_val, extra)


def _read_lines(path: Path) -> list[str]:
    """The lines without white space around them, and without blank ones at the end."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--source {path.parent}: cannot read {path.name}: {error}; is this the Corel5k folder?"
        ) from error


def _read_part(source: Path, name: str, words: Sequence[str], labels: Sequence[str]) -> tuple[LabelledPictures, int]:
    """One label file -> (labels in the columns of ``labels``, number of repeated lines).

    Tags whose word was dropped are left out, their pictures are kept. A picture that is listed again (the test list in
    circulation has one) keeps one row with the tags of all its lines.
    """
    column_of = {label: column for column, label in enumerate(labels)}
    tags_of: dict[int, set[str]] = {}
    lines = _read_lines(source / name)
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            picture, *tags = (int(part) for part in line.split())
            if min(tags, default=1) < 1:
                raise ValueError("tags count from 1")
            tags_of.setdefault(picture, set()).update(words[tag - 1] for tag in tags)
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{source / name}, line {number}: not 'id tag tag ...' with tags 1..{len(words)}: {line!r}"
            ) from error
    targets = torch.zeros(len(tags_of), len(labels), dtype=torch.int8)
    for row, tagged in enumerate(tags_of.values()):
        targets[row, [column_of[word] for word in tagged if word in column_of]] = 1
    pictures = LabelledPictures(
        tuple(tags_of), tuple(f"{number // 1000 * 1000}/{number}.jpeg" for number in tags_of), targets
    )
    absent = [file_name for file_name in pictures.file_names if not (source / "images" / file_name).is_file()]
    if absent:
        raise UserError(
            f"--source {source}: {len(absent)} of the {len(pictures)} pictures of {name} are not below images/ "
            f"({name_some(absent, 3)})"
        )
    return pictures, sum(map(bool, lines)) - len(pictures)
