"""Files of a metadata folder, and caches of labels and features."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from src.data import label_cache
from src.data.coco import write_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import load_metadata
from src.data.metadata_writer import MetadataContent, write_metadata
from src.embedding import Embedded
from src.training.feature_cache import cached_features
from tests.fuzz.harness import Target
from tests.helpers import make_toy_split


@cache
def _folder() -> Path:
    """A metadata folder whose files are replaced one at a time."""
    folder = Path(tempfile.mkdtemp(prefix="sdl-fuzz-metadata-")) / "m"
    split = make_toy_split()
    images = LabelledImages((1, 2), ("a.jpg", "b.jpg"), LabelMatrix.from_dense(torch.eye(2, 6, dtype=torch.int8)))
    write_metadata(folder, MetadataContent(split, {"train": images, "val": images}, image_root="images"))
    return folder


def _replaced(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        whole = (_folder() / name).read_bytes()
        try:
            shutil.copyfile(path, _folder() / name)
            return load_metadata(_folder())
        finally:
            (_folder() / name).write_bytes(whole)

    return read


def _array(tree: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, tree, allow_pickle=False)
    return stream.getvalue()


def _torch(tree: object) -> bytes:
    stream = io.BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


def _features(path: Path) -> object:
    made = Embedded(torch.zeros(2, 3), torch.arange(2), ())
    return cached_features(path.parent, path.stem, 2, 3, lambda: made)


_LABELS = ("sea", "boat", "cat")


@cache
def _cached_labels() -> tuple[Path, bytes]:
    """A folder with a label file and its cache, and the content of the cache."""
    folder = Path(tempfile.mkdtemp(prefix="sdl-fuzz-labels-"))
    matrix = LabelMatrix.from_dense(torch.eye(2, 3, dtype=torch.int8))
    write_coco_labels(folder / "a.json", LabelledImages((1, "x"), ("a.jpg", "b.jpg"), matrix), _LABELS)
    _read_labels(folder)
    return folder, _cache_file(folder).read_bytes()


def _read_labels(folder: Path) -> LabelledImages:
    with patch.object(label_cache, "MIN_CACHED_BYTES", 0), redirect_stderr(io.StringIO()):
        return label_cache.cached_coco_labels(folder / "a.json", _LABELS, folder)


def _cache_file(folder: Path) -> Path:
    (path,) = folder.glob("*.npz")
    return path


def _labels(path: Path) -> object:
    folder, _ = _cached_labels()
    shutil.copyfile(path, _cache_file(folder))
    images = _read_labels(folder)
    return images.file_names, images.targets.dense(), images.targets.positives()


def _arrays(tree: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **tree)
    return stream.getvalue()


def targets() -> tuple[Target, ...]:
    """Return the readers of metadata folders and caches."""
    split = json.loads((_folder() / "split.json").read_bytes())
    vectors = np.load(_folder() / "word_vectors.npy")
    features = {"outputs": torch.zeros(2, 3), "rows": torch.arange(2), "bad": ["x: damaged"]}
    with np.load(io.BytesIO(_cached_labels()[1])) as content:
        labels = dict(content)
    return (
        Target("split-json", "split.json", (split,), _replaced("split.json"), lambda tree: json.dumps(tree).encode()),
        Target("split-vectors", "v.npy", (vectors,), _replaced("word_vectors.npy"), _array),
        Target("split-vectors-bytes", "v.npy", (_array(vectors),), _replaced("word_vectors.npy")),
        Target("label-cache", "a.npz", (labels,), _labels, _arrays),
        Target("label-cache-bytes", "a.npz", (_cached_labels()[1],), _labels),
        Target("feature-cache", "0a.pt", (features,), _features, _torch),
    )
