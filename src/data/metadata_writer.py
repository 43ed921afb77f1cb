"""Writing metadata folders, completely or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src.data.coco import write_coco_labels
from src.data.labels import LabelledImages
from src.data.metadata import FORMAT, ExtraWords
from src.data.official import write_official
from src.data.split import ZeroShotSplit
from src.errors import UserError
from src.utils.files import make_readable, write_json
from src.utils.json_files import read_json


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Raise :class:`UserError` where :func:`write_metadata` would refuse, before time is spent on reading."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; choose a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise UserError(f"--output {folder} is not empty; choose another folder or give --overwrite")
        if not _is_own(folder):
            raise UserError(
                f"--output {folder}: --overwrite replaces only folders that prepare_data.py made; choose another folder"
            )


def _is_own(folder: Path) -> bool:
    """Return whether prepare_data.py made the folder; a ``split.json`` of another program is not ours to delete."""
    try:
        return str(read_json(folder / "split.json")["format"]).startswith(FORMAT.partition("/")[0])
    except (UserError, LookupError, TypeError):
        return False


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

    It is made under a temporary name beside ``folder`` and renamed; an earlier folder is removed after that.

    Args:
        folder: the folder to make.
        content: its content.
        overwrite: replace a folder of this form.
        official: also write the files of the released code, into the sub-folder ``official``.

    Raises:
        UserError: the folder exists and may not be replaced, or cannot be written, or the released code's files cannot
            express the split.
    """
    check_output_folder(Path(folder), overwrite)
    folder = Path(folder).resolve()  # replaces the folder behind a link, not the link
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            make_readable(temporary, folder=True)
            _write_files(temporary, content)
            if official:
                write_official(temporary / "official", content.split, content.parts)
            _put_in_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written: {error.strerror or error}") from error


def _write_files(folder: Path, content: MetadataContent) -> None:
    split, extra = content.split, content.extra_words
    description: dict[str, Any] = {
        "format": FORMAT,
        "name": split.name,
        "labels": list(split.labels),
        "seen": split.names(split.seen),
        "unseen": split.names(split.unseen),
        "word_vectors": "word_vectors.npy",
        "word_vector_source": content.word_vector_source,
        "images": None if content.image_root is None else os.fspath(content.image_root),
        **{part: f"{part}.json" for part in content.parts},
    }
    np.save(folder / "word_vectors.npy", split.word_vectors.numpy(), allow_pickle=False)
    if extra is not None:
        description["extra_words"] = {"words": "extra_words.json", "vectors": "extra_words.npy"}
        write_json(folder / "extra_words.json", list(extra.words))
        np.save(folder / "extra_words.npy", extra.vectors.numpy(), allow_pickle=False)
    for part, images in content.parts.items():
        write_coco_labels(folder / f"{part}.json", images, split.labels)
    write_json(folder / "split.json", description)
    for name, data in content.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; earlier content stays until the new folder is in place."""
    if not folder.exists():
        os.replace(new, folder)
        return
    old = new.with_suffix(".old")
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except BaseException:
        os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
