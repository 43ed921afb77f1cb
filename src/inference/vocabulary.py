"""Labels that a model chooses from: the checkpoint's own, a metadata folder's, and the user's own words."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch

from src.checkpoint.info import CheckpointInfo, check_same_space
from src.data.metadata import load_metadata
from src.data.split import ZeroShotSplit
from src.errors import UserError, name_some
from src.options import LabelOptions
from src.text import on_screen, shortened
from src.word_vectors.arrays import ArrayVectors
from src.word_vectors.base import WordSource
from src.word_vectors.lookup import LabelVectors, label_vectors
from src.word_vectors.source import open_word_vectors
from src.word_vectors.space import check_space, space_of

# Default --dataset_path of the released infer.py, whose checkpoints hold no word vectors
OFFICIAL_DATASET_PATH = Path("data/NUS_WIDE")

_NO_TEXT = ("Cc", "Cs")  # Unicode categories: control characters, and what stands for bytes that are no text
_LONGEST_SHOWN = 80  # letters of a tag in a message


def choose_labels(info: CheckpointInfo, options: LabelOptions) -> ZeroShotSplit:
    """Return the labels that a checkpoint is used with.

    Raises:
        UserError: a file cannot be read or does not fit, or own words have no vector.
    """
    split = labels_for(info, options.dataset_path, options.dataset_type)
    if options.tags is None:
        return split
    source = None if options.word_vectors is None else open_word_vectors(options.word_vectors, flag="--word_vectors")
    return add_own_tags(split, info, options.tags, source=source, only=options.only_tags)


def labels_for(info: CheckpointInfo, dataset_path: str | Path | None, dataset_type: str | None = None) -> ZeroShotSplit:
    """Return the labels of the folder ``dataset_path`` or, without one, the checkpoint's own.

    Raises:
        UserError: the checkpoint holds no word vectors and there is no folder, or the folder's word vectors are not
            those that the model was trained with.
    """
    if info.split is not None and dataset_path is None:
        if dataset_type is not None:
            raise UserError(f"--dataset_type {dataset_type}: is the kind of --dataset_path; give both or neither")
        return info.split
    if dataset_path is None and not OFFICIAL_DATASET_PATH.is_dir():
        raise UserError(
            "--dataset_path is required: the checkpoint holds no word vectors, and there is no folder "
            f"{OFFICIAL_DATASET_PATH}"
        )
    folder = OFFICIAL_DATASET_PATH if dataset_path is None else dataset_path
    split = load_metadata(folder, dataset_type).split
    check_same_space(info, split, folder)
    return split


def add_own_tags(
    split: ZeroShotSplit, info: CheckpointInfo, tags: Sequence[str], *, source: WordSource | None, only: bool
) -> ZeroShotSplit:
    """Add the user's own words to the labels, or replace the labels by them.

    A word that is a label keeps the label's vector and side; any other is unseen.

    Args:
        split: the labels.
        info: the rest of the checkpoint.
        tags: own words in order; repeated ones count once.
        source: source of their vectors; None uses the words in the checkpoint.
        only: drop the labels that are not among ``tags``.

    Raises:
        UserError: there are no words, words have no vector (with suggestions), or ``source`` has other word vectors
            than the model was trained with.
    """
    tags = list(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    if not tags:
        raise UserError("--tags: no word given; separate words by commas")
    odd = [tag for tag in tags if any(unicodedata.category(letter) in _NO_TEXT for letter in tag)]
    if odd:
        raise UserError(f"--tags: control characters, which no word has: {name_some(_shown(odd))}; leave them out")
    column_of = {label: column for column, label in enumerate(split.labels)}
    new = [tag for tag in tags if tag not in column_of]
    if source is not None:
        check_space(info.space or space_of(split.labels, split.word_vectors), source)
    vectors = split.word_vectors
    if new:
        found = label_vectors(source or checkpoint_words(split, info), new)
        for note in found.notes:
            print(note, file=sys.stderr)
        if found.missing:
            raise UserError(_missing_message(found, source))
        vectors = torch.cat([vectors, found.vectors], dim=1)
    labels = (*split.labels, *new)
    unseen = (*split.unseen, *range(len(split.labels), len(labels)))
    if not only:
        return ZeroShotSplit(labels, split.seen, unseen, vectors, split.name)
    kept = [labels.index(tag) for tag in tags]
    seen = [place for place, column in enumerate(kept) if column in set(split.seen)]
    others = [place for place, column in enumerate(kept) if column in set(unseen)]
    return ZeroShotSplit(tuple(tags), tuple(seen), tuple(others), vectors[:, kept], split.name)


def checkpoint_words(split: ZeroShotSplit, info: CheckpointInfo) -> ArrayVectors:
    """Return the words that have vectors in the checkpoint: the labels and the further words."""
    words, arrays = list(split.labels), [split.word_vectors]
    if info.extra_vectors is not None and info.extra_vectors.shape[0] == split.wordvec_dim:
        words += info.extra_words
        arrays.append(info.extra_vectors)
    matrix = torch.cat(arrays, dim=1).t().numpy()
    return ArrayVectors(words, matrix, "the checkpoint's words", "--tags")


def _shown(tags: Sequence[str]) -> list[str]:
    return [shortened(on_screen(tag), _LONGEST_SHOWN) for tag in tags]


def _missing_message(found: LabelVectors, source: WordSource | None) -> str:
    """List all unknown words, each with suggestions of similar spelling."""
    where = "the checkpoint" if source is None else source.name
    lines = [f"--tags: no word vector for {name_some(_shown(found.missing), 40)} in {where}"]
    lines += [f"{tag}: did you mean {', '.join(near)}?" for tag, near in found.suggestions.items() if near]
    if source is None:
        lines.append("give other words, or --word_vectors FILE with the word vectors that the model was trained with")
    return "\n  ".join(lines)
