"""Cache of label files as arrays: the JSON of a large data set takes minutes to read, arrays take seconds."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from src.data.coco import read_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError, first_line
from src.utils.digest import file_digest
from src.utils.files import atomic_write

VERSION = 1
MIN_CACHED_BYTES = 4 << 20  # a smaller file is read in a fraction of a second
_ARRAYS = ("offsets", "columns", "values", "unlisted")


def cached_coco_labels(path: Path, labels: Sequence[str], folder: Path) -> LabelledImages:
    """Read labels as :func:`src.data.coco.read_coco_labels` does, through a cache file in ``folder``.

    The cache file is named by a hash of the label file's bytes and of the labels, so it is never out of date. A damaged
    one is written again; if ``folder`` is not writable, that is reported and the labels are read each time.

    Raises:
        UserError: as ``read_coco_labels``.
    """
    if not path.is_file() or path.stat().st_size < MIN_CACHED_BYTES:
        return read_coco_labels(path, labels)
    cached = folder / f"{path.stem}-{_content_key(path, labels)}.npz"
    if cached.is_file():
        try:
            return _load(cached, len(labels))
        except Exception as error:  # noqa: BLE001 -- whatever NumPy, zlib and zipfile raise about a damaged file
            print(f"reading {path.name} again: {cached} is damaged: {first_line(error)}", file=sys.stderr)
    images = read_coco_labels(path, labels)
    try:
        _save(cached, images)
    except UserError as error:
        print(f"the labels are not cached: {error}", file=sys.stderr)
    else:
        for outdated in set(folder.glob(f"{path.stem}-{'[0-9a-f]' * 32}.npz")) - {cached}:
            outdated.unlink(missing_ok=True)
    return images


def _content_key(path: Path, labels: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([VERSION, file_digest(path), *labels]).encode()).hexdigest()[:32]


def _save(path: Path, images: LabelledImages) -> None:
    with atomic_write(path) as stream:
        np.savez(
            stream,
            image_ids=_as_bytes(images.image_ids),
            file_names=_as_bytes(images.file_names),
            **{name: getattr(images.targets, name).numpy() for name in _ARRAYS},
        )


def _load(path: Path, num_labels: int) -> LabelledImages:
    """Read a cache file; one that is damaged raises an exception of any kind."""
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its arrays are packed")  # a packed one may grow to any size
    with np.load(path, allow_pickle=False) as content:
        arrays = {name: torch.from_numpy(content[name]) for name in _ARRAYS}
        image_ids, file_names = (json.loads(content[name].tobytes()) for name in ("image_ids", "file_names"))
    targets = LabelMatrix(**arrays, num_labels=num_labels)
    targets.check()
    if not set(map(type, image_ids)) <= {int, str} or not set(map(type, file_names)) <= {str}:
        raise ValueError("names that are no text")
    if not len(image_ids) == len(file_names) == len(targets) == len(set(image_ids)):
        raise ValueError("another number of images than of rows")
    return LabelledImages(tuple(image_ids), tuple(file_names), targets)


def _as_bytes(values: Sequence[int | str]) -> np.ndarray:
    """Encode values as JSON text, which keeps numbers and strings apart and needs no fixed width."""
    return np.frombuffer(json.dumps(values).encode(), dtype=np.uint8)
