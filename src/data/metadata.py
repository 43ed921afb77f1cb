"""Metadata folders: everything about a data set but its pictures.

This project's form, which holds no pickle:

    split.json          labels, seen and unseen, and the names of the files below
    word_vectors.npy    [D, C] float32
    train.json val.json COCO-format image-level labels
    extra_words.json extra_words.npy   optional: more words and their vectors [D, V], for tagging with words that are no
        labels

and the two forms of the released code (src/data/official.py), whose label files are
``zs_split/{train_17_48,val_17_48,val_unseen}.json``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.coco import LabelledPictures, write_coco_labels
from src.data.official import COCO_FILES, NUS_WIDE_FILES, has_files, read_coco_split, read_nus_wide_split
from src.data.split import ZeroShotSplit, columns_of, make_split
from src.errors import UserError
from src.files import read_json, write_json

FORMAT = "zero-shot-split/1"
KINDS = ("SDL", "COCO", "NUS_WIDE")


@dataclass(frozen=True)
class ExtraWords:
    """Words beyond the labels, most frequent first, with vectors [D, V] of the same space as the labels'."""

    words: tuple[str, ...]
    vectors: Tensor


@dataclass(frozen=True)
class Metadata:
    """What a metadata folder says.

    Attributes:
        folder: where it lies.
        kind: ``SDL`` (this project's), or ``COCO`` / ``NUS_WIDE`` (the released code's).
        split: labels, seen, unseen, word vectors.
        train, val: COCO-format files, or None where the folder has none.
        val_unseen: the released code's separate list of zero-shot test images, or None.
        image_root: the picture folder that was recorded when the folder was made, or None.
        extra_words: or None.
    """

    folder: Path
    kind: str
    split: ZeroShotSplit
    train: Path | None = None
    val: Path | None = None
    val_unseen: Path | None = None
    image_root: Path | None = None
    extra_words: ExtraWords | None = None


def detect_kind(folder: Path) -> str | None:
    """Which of :data:`KINDS` the folder is, by its files; None if it is none of them."""
    if (folder / "split.json").is_file():
        return "SDL"
    if has_files(folder, COCO_FILES):
        return "COCO"
    if has_files(folder, NUS_WIDE_FILES):
        return "NUS_WIDE"
    return None


def load_metadata(folder: str | Path, kind: str | None = None) -> Metadata:
    """Read a metadata folder.

    Args:
        folder: the folder.
        kind: which of :data:`KINDS` it must be; None recognises it.

    Raises:
        UserError: the folder is none of the kinds, or not the asked one, or a file in it is missing or wrong.
    """
    folder = Path(folder)
    found = detect_kind(folder)
    if found is None:
        raise UserError(
            f"{folder} is no metadata folder: it has no split.json (made by prepare_data.py), and not all of "
            f"{', '.join(COCO_FILES)} "
            f"or of {', '.join(NUS_WIDE_FILES)} (the released code's)"
        )
    if kind is not None and kind != found:
        raise UserError(f"{folder} is a metadata folder of kind {found}, not {kind}")
    if found == "SDL":
        return _load_own(folder)
    split = read_coco_split(folder) if found == "COCO" else read_nus_wide_split(folder)
    train, val, val_unseen = (
        _existing(folder / "zs_split" / f"{name}.json") for name in ("train_17_48", "val_17_48", "val_unseen")
    )
    return Metadata(folder, found, split, train, val, val_unseen)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _load_own(folder: Path) -> Metadata:
    path = folder / "split.json"
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not of the format {FORMAT!r}; make it anew with prepare_data.py")
    try:
        labels = [str(label) for label in content["labels"]]
        seen, unseen = (columns_of(content[side], labels, f"{path}, {side}") for side in ("seen", "unseen"))
        split = make_split(
            labels,
            seen,
            unseen,
            _load_vectors(folder / content["word_vectors"]),
            name=content["name"],
            source=str(path),
        )
        files = {part: _named_file(folder, content.get(part)) for part in ("train", "val")}
        root = content.get("images")
        return Metadata(
            folder,
            "SDL",
            split,
            **files,
            image_root=(folder / root) if root else None,
            extra_words=_load_extra(folder, content.get("extra_words"), split),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is incomplete: {error}") from error


def _named_file(folder: Path, name: str | None) -> Path | None:
    if name is None:
        return None
    if not (folder / name).is_file():
        raise UserError(f"{folder / 'split.json'} names {name}, which is not there")
    return folder / name


def _load_vectors(path: Path) -> Tensor:
    try:
        array = np.ascontiguousarray(np.load(path, allow_pickle=False), dtype=np.float32)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"cannot read the word vectors {path}: {error}") from error
    return torch.from_numpy(array)


def _load_extra(folder: Path, names: dict[str, str] | None, split: ZeroShotSplit) -> ExtraWords | None:
    if names is None:
        return None
    words = tuple(str(word) for word in read_json(folder / names["words"]))
    vectors = _load_vectors(folder / names["vectors"])
    if vectors.shape != (split.wordvec_dim, len(words)):
        raise UserError(
            f"{folder / names['vectors']} has shape {tuple(vectors.shape)}, not [{split.wordvec_dim}, {len(words)}]"
        )
    return ExtraWords(words, vectors)


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
    parts: dict[str, LabelledPictures],
    *,
    image_root: str | Path | None,
    word_vector_source: str,
    extra_words: ExtraWords | None = None,
    overwrite: bool = False,
    move_in: Sequence[Path] = (),
) -> None:
    """Write a metadata folder of this project's form, whole or not at all.

    It is made under a temporary name beside ``folder`` and renamed; an earlier folder is removed after that.

    Args:
        folder: the folder to make.
        split: labels, seen, unseen, word vectors.
        parts: ``train`` and ``val`` labels.
        image_root: the picture folder to record; a relative path is relative to ``folder``.
        word_vector_source: where the vectors are from, for people.
        extra_words: more words.
        overwrite: replace a folder of this form.
        move_in: finished folders that become part of it (pictures that were drawn for it).

    Raises:
        UserError: the folder exists and may not be replaced, or cannot be written.
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
        os.chmod(temporary, 0o755)
        _write_vectors(temporary, split, extra_words)
        for part, pictures in parts.items():
            write_coco_labels(temporary / f"{part}.json", pictures, split.labels)
        write_json(temporary / "split.json", content)
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
