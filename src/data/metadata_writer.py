"""Writing metadata folders, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from src.data.coco import write_coco_labels
from src.data.labels import LabelledImages
from src.data.metadata import FORMAT, ExtraWords
from src.data.official import write_official
from src.data.split import ZeroShotSplit
from src.errors import UserError
from src.utils.files import make_readable, read_json, write_json


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Raise :class:`UserError` where :func:`write_metadata` would refuse, before time is spent."""
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
    """Whether prepare_data.py made the folder: a ``split.json`` of another program does not make it ours to delete."""
    try:
        content = read_json(folder / "split.json")
    except UserError:
        return False
    return isinstance(content, dict) and str(content.get("format")).startswith(FORMAT.partition("/")[0])


def write_metadata(
    folder: str | Path,
    split: ZeroShotSplit,
    parts: dict[str, LabelledImages],
    *,
    image_root: str | Path | None,
    word_vector_source: str,
    extra_words: ExtraWords | None = None,
    overwrite: bool = False,
    move_in: Sequence[Path] = (),
    text_files: Mapping[str, Sequence[str]] = MappingProxyType({}),
    official: bool = False,
) -> None:
    """Write a metadata folder of this project's form, whole or not at all.

    It is made under a temporary name beside ``folder`` and renamed; an earlier folder is removed after that.

    Args:
        folder: the folder to make.
        split: labels, seen, unseen, word vectors.
        parts: ``train`` and ``val`` labels.
        image_root: the image folder to record; a relative path is relative to ``folder``.
        word_vector_source: where the vectors are from, for people.
        extra_words: more words.
        overwrite: replace a folder of this form.
        move_in: finished folders that become part of it (images that were drawn for it).
        text_files: name -> lines of files for people: what was found, repaired and dropped.
        official: also write the released code's files, into the sub-folder ``official``.

    Raises:
        UserError: the folder exists and may not be replaced, or cannot be written, or the released code's files cannot
            say what the split says.
    """
    check_output_folder(Path(folder), overwrite)
    folder = Path(folder).resolve()  # what a link leads to is replaced, not the link
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": split.name,
        "labels": list(split.labels),
        "seen": split.names(split.seen),
        "unseen": split.names(split.unseen),
        "word_vectors": "word_vectors.npy",
        "word_vector_source": word_vector_source,
        "images": None if image_root is None else os.fspath(image_root),
        **{part: f"{part}.json" for part in parts},
    }
    if extra_words is not None:
        content["extra_words"] = {"words": "extra_words.json", "vectors": "extra_words.npy"}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written: {error.strerror or error}") from error
    try:
        make_readable(temporary, folder=True)
        _write_vectors(temporary, split, extra_words)
        for part, images in parts.items():
            write_coco_labels(temporary / f"{part}.json", images, split.labels)
        write_json(temporary / "split.json", content)
        for name, lines in text_files.items():
            (temporary / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if official:
            write_official(temporary / "official", split, parts)
        for finished in move_in:
            shutil.move(finished, temporary / finished.name)
        _put_in_place(temporary, folder)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_vectors(folder: Path, split: ZeroShotSplit, extra_words: ExtraWords | None) -> None:
    np.save(folder / "word_vectors.npy", split.word_vectors.numpy(), allow_pickle=False)
    if extra_words is not None:
        write_json(folder / "extra_words.json", list(extra_words.words))
        np.save(folder / "extra_words.npy", extra_words.vectors.numpy(), allow_pickle=False)


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``, whose earlier content stays until the new one is there."""
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
