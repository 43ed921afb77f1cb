"""The labels that a model is used with: a checkpoint's own, a metadata folder's, and words that the user adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from src.checkpoint import CheckpointInfo
from src.data.metadata import load_metadata
from src.data.split import ZeroShotSplit
from src.errors import UserError, name_some
from src.word_vectors.arrays import ArrayVectors
from src.word_vectors.lookup import label_vectors
from src.word_vectors.source import WordSource
from src.word_vectors.space import check_space, space_of

# The released infer.py's default --dataset_path: its checkpoints hold no word vectors.
OFFICIAL_DATASET_PATH = Path("data/NUS_WIDE")


def labels_for(info: CheckpointInfo, dataset_path: str | Path | None, dataset_type: str | None = None) -> ZeroShotSplit:
    """The labels that a checkpoint is used with: those of ``dataset_path`` if it is given, else the checkpoint's own.

    Raises:
        UserError: the checkpoint holds no word vectors and there is no folder, or the folder's vectors are of another
            space than the model's.
    """
    if info.split is not None and dataset_path is None:
        if dataset_type is not None:
            raise UserError(f"--dataset_type {dataset_type} says of which kind --dataset_path is; give both or neither")
        return info.split
    if dataset_path is None and not OFFICIAL_DATASET_PATH.is_dir():
        raise UserError(
            "--dataset_path is needed: the checkpoint holds no word vectors, and there is no folder "
            f"{OFFICIAL_DATASET_PATH}"
        )
    folder = OFFICIAL_DATASET_PATH if dataset_path is None else dataset_path
    split = load_metadata(folder, dataset_type).split
    check_same_space(info, split, folder)
    return split


def check_same_space(info: CheckpointInfo, split: ZeroShotSplit, source: str | Path) -> None:
    """Refuse word vectors that the model was not trained against: scores would be meaningless and look like scores.

    The length must be the model's; labels that the checkpoint knows too must have the same vectors there (each a cosine
    above 0.99; half-precision storage stays far above).

    Raises:
        UserError: they are of another space.
    """
    if split.wordvec_dim != info.config.wordvec_dim:
        raise UserError(
            f"{source}: word vectors of length {split.wordvec_dim}, but the model was trained with length "
            f"{info.config.wordvec_dim}"
        )
    if info.split is None:
        return
    column_of = {label: column for column, label in enumerate(info.split.labels)}
    shared = [(column, column_of[label]) for column, label in enumerate(split.labels) if label in column_of]
    if not shared:
        return
    ours, theirs = zip(*shared, strict=True)
    cosine = torch.cosine_similarity(split.word_vectors[:, list(ours)], info.split.word_vectors[:, list(theirs)], dim=0)
    others = [split.labels[column] for (column, _), match in zip(shared, cosine.tolist(), strict=True) if match < 0.99]
    if others:
        raise UserError(
            f"{source}: {len(others)} of {len(shared)} labels have other word vectors than the model was trained with "
            f"({name_some(others)}); use a folder made with the same word vectors"
        )


def add_own_tags(
    split: ZeroShotSplit, info: CheckpointInfo, tags: Sequence[str], *, source: WordSource | None, only: bool
) -> ZeroShotSplit:
    """The labels of ``split`` and the user's ``tags``, or the latter only.

    A tag that is a label keeps that label's vector and side; any other is unseen.

    Args:
        split: what the model is used with otherwise.
        info: of the model's checkpoint.
        tags: the user's words, in their order; repeated ones count once.
        source: where their vectors come from; None: the words that the checkpoint carries.
        only: leave out the labels that are not among ``tags``.

    Raises:
        UserError: there are no tags, tags have no vector (with suggestions), or ``source`` is of another space.
    """
    tags = list(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    if not tags:
        raise UserError("--tags: names no tag; give words, with commas between them")
    column_of = {label: column for column, label in enumerate(split.labels)}
    new = [tag for tag in tags if tag not in column_of]
    if source is not None:
        check_space(info.space or space_of(split.labels, split.word_vectors), source)
    vectors = split.word_vectors
    if new:
        found = label_vectors(source or carried_words(split, info), new)
        if found.missing:
            raise UserError(_missing_message(found.missing, found.suggestions, source))
        vectors = torch.cat([vectors, found.vectors], dim=1)
    labels = (*split.labels, *new)
    unseen = (*split.unseen, *range(len(split.labels), len(labels)))
    if not only:
        return ZeroShotSplit(labels, split.seen, unseen, vectors, split.name)
    kept = [labels.index(tag) for tag in tags]
    seen = [place for place, column in enumerate(kept) if column in set(split.seen)]
    others = [place for place, column in enumerate(kept) if column in set(unseen)]
    return ZeroShotSplit(tuple(tags), tuple(seen), tuple(others), vectors[:, kept], split.name)


def carried_words(split: ZeroShotSplit, info: CheckpointInfo) -> ArrayVectors:
    """The words that need no file: the labels', and the further words that the checkpoint carries."""
    words, arrays = list(split.labels), [split.word_vectors]
    if info.extra_vectors is not None and info.extra_vectors.shape[0] == split.wordvec_dim:
        words += info.extra_words
        arrays.append(info.extra_vectors)
    matrix = torch.cat(arrays, dim=1).t().numpy()
    return ArrayVectors(words, matrix, name="the checkpoint's words", flag="--tags", where="--tags")


def _missing_message(
    missing: Sequence[str], suggestions: Mapping[str, Sequence[str]], source: WordSource | None
) -> str:
    """All unknown tags, each with words of similar spelling."""
    where = "the words that the checkpoint carries" if source is None else source.name
    lines = [f"--tags: no word vector for {name_some(list(missing), 40)} in {where}"]
    lines += [f"{tag}: similar are {', '.join(suggestions[tag])}" for tag in missing if suggestions.get(tag)]
    if source is None:
        lines.append("give --word_vectors FILE, the file that the model's word vectors are from, or other words")
    return "\n  ".join(lines)
