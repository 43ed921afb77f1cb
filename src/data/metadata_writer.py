"""Writing metadata folders, completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src.data.coco import write_coco_labels
from src.data.labels import LabelledImages
from src.data.metadata import FORMAT, ExtraWords
from src.data.metadata_folder import MetadataFolder, open_output
from src.data.official import write_official
from src.data.split import ZeroShotSplit
from src.errors import UserError, prefix_errors
from src.utils.files import atomic_write, write_json


@dataclass(frozen=True)
class MetadataContent:
    """Content of a metadata folder.

    Attributes:
        split: labels, seen, unseen, word vectors.
        parts: ``train`` and ``val`` labels.
        image_root: the image folder to record; a relative path is relative to the metadata folder.
        word_vector_source: origin of the vectors, for people.
        extra_words: words beyond the labels.
        files: path in the folder -> content of further files (reports, drawn images).
    """

    split: ZeroShotSplit
    parts: Mapping[str, LabelledImages]
    image_root: str | Path | None = None
    word_vector_source: str = ""
    extra_words: ExtraWords | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def write_metadata(
    folder: str | Path, content: MetadataContent, *, overwrite: bool = False, official: bool = False
) -> None:
    """Write a metadata folder of this project's form, completely or not at all.

    Args:
        folder: the folder to make.
        content: its content.
        overwrite: replace the data set that prepare_data.py wrote there; all other files stay.
        official: also write the files of the released code, into the sub-folder ``official``.

    Raises:
        UserError: the folder holds something that may not be replaced, or cannot be written, or the released code's
            files cannot express the split.
    """
    with open_output(Path(folder), overwrite) as output:
        write_into(output, content, official=official)


def write_into(output: MetadataFolder, content: MetadataContent, *, official: bool = False) -> None:
    """Write into an open folder; see :func:`write_metadata`."""
    root = None if content.image_root is None else os.path.join(output.path, content.image_root)
    draws = root is not None and any(Path(root) in (output.path / name).parents for name in content.files)

    def write(folder: Path) -> None:
        _write_files(folder, content)
        if official:
            write_official(folder / "official", content.split, content.parts)

    def describe(prefix: str) -> dict[str, Any]:
        return _description(content, prefix, prefix if draws else "")

    # Images that an earlier run drew are kept where the new labels are about them.
    keep = [] if root is None or draws else [Path(os.path.realpath(root))]
    with prefix_errors(f"--output {output.path}"):
        try:
            output.replace(write, describe, keep)
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror or error}") from error


def _description(content: MetadataContent, prefix: str, image_prefix: str) -> dict[str, Any]:
    """Return the content of ``split.json``; the prefixes are put before names of files, and of the image folder."""
    split = content.split
    description: dict[str, Any] = {
        "format": FORMAT,
        "name": split.name,
        "labels": list(split.labels),
        "seen": split.names(split.seen),
        "unseen": split.names(split.unseen),
        "word_vectors": f"{prefix}word_vectors.npy",
        "word_vector_source": content.word_vector_source,
        "images": None if content.image_root is None else image_prefix + os.fspath(content.image_root),
        **{part: f"{prefix}{part}.json" for part in content.parts},
    }
    if content.extra_words is not None:
        description["extra_words"] = {"words": f"{prefix}extra_words.json", "vectors": f"{prefix}extra_words.npy"}
    return description


def _write_files(folder: Path, content: MetadataContent) -> None:
    """Write all files but ``split.json``."""
    split, extra = content.split, content.extra_words
    _save(folder / "word_vectors.npy", split.word_vectors.numpy())
    if extra is not None:
        write_json(folder / "extra_words.json", list(extra.words))
        _save(folder / "extra_words.npy", extra.vectors.numpy())
    for part, images in content.parts.items():
        write_coco_labels(folder / f"{part}.json", images, split.labels)
    for name, data in content.files.items():
        with atomic_write(folder / name) as stream:
            stream.write(data)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as stream:
        np.save(stream, array, allow_pickle=False)
