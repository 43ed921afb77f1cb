"""Metadata folders: everything about a data set except its images.

This project's form, which holds no pickle:

    split.json          labels, seen and unseen, and the names of the files below
    word_vectors.npy    [D, C] float32
    train.json val.json COCO-format image-level labels
    extra_words.json extra_words.npy   optional: further words and their vectors [D, V], for tagging with words that
        are not labels
    report.txt          report of prepare_data.py: what it found, repaired and dropped
    official/           optional: the same in the released code's form

and the two forms of the released code (src/data/official.py), whose label files are
``zs_split/{train_17_48,val_17_48,val_unseen}.json``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from src.data.official import (
    COCO_FILES,
    NUS_WIDE_FILES,
    SPLIT_FILES,
    read_coco_split,
    read_nus_wide_split,
)
from src.data.split import ZeroShotSplit, columns_of, make_split
from src.errors import UserError
from src.utils.arrays import read_array
from src.utils.json_files import read_json_as

FORMAT = "zero-shot-split/1"


@dataclass(frozen=True)
class ExtraWords:
    """Words beyond the labels, most frequent first, with vectors [D, V] of the same space as the labels'."""

    words: tuple[str, ...]
    vectors: Tensor


@dataclass(frozen=True)
class Metadata:
    """Content of a metadata folder.

    Attributes:
        folder: its path.
        kind: ``SDL`` (this project's), or ``COCO`` / ``NUS_WIDE`` (the released code's).
        split: labels, seen, unseen, word vectors.
        train, val: COCO-format label files, or None.
        val_unseen: the released code's separate list of zero-shot test images, or None.
        image_root: the image folder that prepare_data.py recorded, or None.
        extra_words: words beyond the labels, or None.
        word_vector_source: origin of the vectors, for people; empty where it is not recorded.
    """

    folder: Path
    kind: str
    split: ZeroShotSplit
    train: Path | None = None
    val: Path | None = None
    val_unseen: Path | None = None
    image_root: Path | None = None
    extra_words: ExtraWords | None = None
    word_vector_source: str = ""


def detect_kind(folder: Path) -> str | None:
    """Return the kind of a metadata folder (:data:`src.options.DATASET_KINDS`) by its files, or None."""
    kinds = {"SDL": ("split.json",), "COCO": COCO_FILES, "NUS_WIDE": NUS_WIDE_FILES}
    found = (kind for kind, names in kinds.items() if all((folder / name).is_file() for name in names))
    return next(found, None)


def load_metadata(folder: str | Path, kind: str | None = None) -> Metadata:
    """Read a metadata folder.

    Args:
        folder: the folder.
        kind: the kind it must be (:data:`src.options.DATASET_KINDS`); None detects it.

    Raises:
        UserError: the folder is of no kind, or not of the wanted one, or a file in it is missing or wrong.
    """
    folder = Path(folder)
    found = detect_kind(folder)
    if found is None:
        raise UserError(
            f"{folder} is no metadata folder: it has no split.json (made by prepare_data.py), and not all of "
            f"{', '.join(COCO_FILES)} or of {', '.join(NUS_WIDE_FILES)} (the released code's)"
        )
    if kind is not None and kind != found:
        raise UserError(f"{folder} is a metadata folder of kind {found}, not {kind}")
    if found == "SDL":
        return _load_own(folder)
    split = read_coco_split(folder) if found == "COCO" else read_nus_wide_split(folder)
    paths = (folder / "zs_split" / name for name in SPLIT_FILES)
    train, val, val_unseen = (path if path.is_file() else None for path in paths)
    return Metadata(folder, found, split, train, val, val_unseen)


class _ExtraFiles(Struct):
    words: str
    vectors: str


class _SplitFile(Struct):
    """Content of ``split.json``; files are named relative to its folder."""

    format: str
    name: str
    labels: list[str]
    seen: list[str]
    unseen: list[str]
    word_vectors: str
    train: str | None = None
    val: str | None = None
    images: str | None = None
    extra_words: _ExtraFiles | None = None
    word_vector_source: str = ""


def _load_own(folder: Path) -> Metadata:
    """Read a folder of this project's form, again if prepare_data.py replaced it in the meantime."""
    while True:
        before = _state(folder)
        try:
            metadata = _load_once(folder)
        except UserError:
            if _state(folder) == before:
                raise
            continue
        if _state(folder) == before:
            return metadata


def _state(folder: Path) -> bytes | None:
    """Return the content of ``split.json``, which is replaced last."""
    try:
        return (folder / "split.json").read_bytes()
    except OSError:
        return None


def _load_once(folder: Path) -> Metadata:
    path = folder / "split.json"
    content = read_json_as(path, _SplitFile, "split file of prepare_data.py")
    if content.format != FORMAT:
        raise UserError(f"{path} is not of the format {FORMAT!r}; make it again with prepare_data.py")
    seen, unseen = (
        columns_of(names, content.labels, f"{path}, {side}")
        for side, names in (("seen", content.seen), ("unseen", content.unseen))
    )
    vectors = _load_vectors(folder / content.word_vectors)
    split = make_split(content.labels, seen, unseen, vectors, name=content.name, source=str(path))
    return Metadata(
        folder,
        "SDL",
        split,
        train=_named_file(folder, content.train),
        val=_named_file(folder, content.val),
        image_root=folder / content.images if content.images else None,
        extra_words=_load_extra(folder, content.extra_words, split),
        word_vector_source=content.word_vector_source,
    )


def _named_file(folder: Path, name: str | None) -> Path | None:
    if name is None:
        return None
    if not os.path.isfile(folder / name):
        raise UserError(f"{folder / 'split.json'} names {name}, which is not there")
    return folder / name


def _load_vectors(path: Path) -> Tensor:
    return torch.from_numpy(np.array(read_array(path), dtype=np.float32, order="C"))


def _load_extra(folder: Path, files: _ExtraFiles | None, split: ZeroShotSplit) -> ExtraWords | None:
    if files is None:
        return None
    words = tuple(read_json_as(folder / files.words, list[str], "list of words"))
    vectors = _load_vectors(folder / files.vectors)
    if vectors.shape != (split.wordvec_dim, len(words)):
        raise UserError(
            f"{folder / files.vectors} has shape {tuple(vectors.shape)}, not [{split.wordvec_dim}, {len(words)}]"
        )
    return ExtraWords(words, vectors)
