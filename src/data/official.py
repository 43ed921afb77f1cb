"""The metadata folders of the released code: pickles of label names, seen and unseen classes, and word vectors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.data.array_pickle import read_array_pickle as read_array_pickle
from src.data.coco import COCO_CLASSES, write_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.split import ZeroShotSplit, columns_of, make_split
from src.errors import UserError, name_some
from src.utils.files import atomic_write

COCO_FILES = ("cls_ids.pickle", "wordvec_array.pickle")
NUS_WIDE_FILES = ("classes.pickle", "unseen_classes.pickle", "wordvec_array.pickle")
SPLIT_FILES = ("train_17_48.json", "val_17_48.json", "val_unseen.json")  # below zs_split/, whatever the split


def read_word_vectors_pickle(path: str | Path) -> Tensor:
    """Read ``wordvec_array.pickle``: [D, C] float32.

    NUS-WIDE's file holds the array [D, C], COCO's a dict with the array [1, D, C] in half precision.

    Raises:
        UserError: the file is missing, damaged or holds no such array.
    """
    content = read_array_pickle(path)
    if isinstance(content, dict):
        content = content.get("wordvec_array")
    if not isinstance(content, np.ndarray) or content.dtype.kind != "f":
        raise UserError(f"{path} holds no array of word vectors")
    if content.ndim == 3 and content.shape[0] == 1:
        content = content[0]
    return torch.from_numpy(content.astype(np.float32))


def read_coco_split(folder: Path) -> ZeroShotSplit:
    """Read ``cls_ids.pickle`` ({'train': {columns}, 'test': {columns}} of the 80 classes) and the word vectors.

    Raises:
        UserError: a file is missing, damaged or not of this form.
    """
    path = folder / "cls_ids.pickle"
    content = read_array_pickle(path)
    try:
        seen, unseen = (sorted(int(column) for column in content[side]) for side in ("train", "test"))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} must hold a dict with the label columns 'train' (seen) and 'test' (unseen)") from error
    vectors = read_word_vectors_pickle(folder / "wordvec_array.pickle")
    return make_split(COCO_CLASSES, seen, unseen, vectors, name=f"coco_{len(seen)}_{len(unseen)}", source=str(folder))


def read_nus_wide_split(folder: Path) -> ZeroShotSplit:
    """Read ``classes.pickle`` ({column: name}), ``unseen_classes.pickle`` ([name, ...]) and the word vectors.

    Columns are the keys of the dict, in any order.

    Raises:
        UserError: a file is missing, damaged or not of this form, or an unseen name is no label.
    """
    path = folder / "classes.pickle"
    content = read_array_pickle(path)
    if not isinstance(content, dict) or set(content) != set(range(len(content))):
        raise UserError(f"{path} must hold a dict from the columns 0..C-1 to label names")
    labels = [_name(content[column], path) for column in range(len(content))]
    unseen_path = folder / "unseen_classes.pickle"
    names = read_array_pickle(unseen_path)
    if not isinstance(names, (list, tuple, set, frozenset, np.ndarray)) or getattr(names, "ndim", 1) != 1:
        raise UserError(f"{unseen_path} must hold a list of label names")
    unseen = columns_of([_name(name, unseen_path) for name in names], labels, str(unseen_path))
    seen = sorted(set(range(len(labels))) - set(unseen))
    vectors = read_word_vectors_pickle(folder / "wordvec_array.pickle")
    return make_split(labels, seen, unseen, vectors, name=f"nus_wide_{len(seen)}_{len(unseen)}", source=str(folder))


def _name(value: object, path: Path) -> str:
    """Return a label's name; anything else is refused without a look at it, which can be longer than memory."""
    if not isinstance(value, (bytes, str)):
        raise UserError(f"{path} holds an object of type {type(value).__name__} where the name of a label belongs")
    try:
        # What Python 2 wrote as UTF-8 is read as Latin-1
        return (value if isinstance(value, bytes) else value.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def write_official(folder: Path, split: ZeroShotSplit, parts: Mapping[str, LabelledImages]) -> None:
    """Write the released code's files: the COCO form for COCO's 80 classes, the NUS-WIDE form for other labels.

    That form has no unknown labels: only positive ones are written, as annotations with an ``area`` of 0, a key that
    the released data set class reads.

    Raises:
        UserError: a label is neither seen nor unseen, which the form cannot express.
    """
    neither = sorted(set(range(len(split.labels))) - {*split.seen, *split.unseen})
    is_coco = split.labels == COCO_CLASSES
    if neither and not is_coco:
        raise UserError(
            f"--official: the released code's form counts every label as seen or unseen, but these are neither: "
            f"{name_some(split.names(neither))}; leave the flag out"
        )
    (folder / "zs_split").mkdir(parents=True)
    vectors = split.word_vectors.numpy()
    if is_coco:
        _dump({"train": set(split.seen), "test": set(split.unseen), "val": set()}, folder / "cls_ids.pickle")
        _dump({"wordvec_array": vectors[None].astype(np.float16)}, folder / "wordvec_array.pickle")
    else:
        _dump(dict(enumerate(split.labels)), folder / "classes.pickle")
        _dump(split.names(split.unseen), folder / "unseen_classes.pickle")
        _dump(vectors, folder / "wordvec_array.pickle")
    written = {name: _positive_only(images) for name, images in parts.items()}
    if "val" in written:
        zero_shot = written["val"].targets.select_columns(split.unseen).positives_per_image().nonzero()[:, 0]
        written["val_unseen"] = written["val"].rows(zero_shot)
    for part, file in zip(("train", "val", "val_unseen"), SPLIT_FILES, strict=True):
        if part in written:
            write_coco_labels(folder / "zs_split" / file, written[part], split.labels, {"area": 0.0, "iscrowd": 0})


def _positive_only(images: LabelledImages) -> LabelledImages:
    num_rows, num_labels = images.targets.shape
    return images.with_targets(
        LabelMatrix.from_positives(*images.targets.positives(), num_rows=num_rows, num_labels=num_labels)
    )


def _dump(value: object, path: Path) -> None:
    # The released code runs with NumPy 1, which uses the module path without the underscore.
    content = pickle.dumps(value, protocol=2).replace(
        b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\n_reconstruct\n"
    )
    with atomic_write(path) as stream:
        stream.write(content)
