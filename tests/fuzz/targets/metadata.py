"""Files of a metadata folder, and caches of labels and features."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

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


def targets() -> tuple[Target, ...]:
    """Return the readers of metadata folders and caches."""
    split = json.loads((_folder() / "split.json").read_bytes())
    vectors = np.load(_folder() / "word_vectors.npy")
    features = {"outputs": torch.zeros(2, 3), "rows": torch.arange(2), "bad": ["x: damaged"]}
    return (
        Target("split-json", "split.json", (split,), _replaced("split.json"), lambda tree: json.dumps(tree).encode()),
        Target("split-vectors", "v.npy", (vectors,), _replaced("word_vectors.npy"), _array),
        Target("split-vectors-bytes", "v.npy", (_array(vectors),), _replaced("word_vectors.npy")),
        Target("feature-cache", "0a.pt", (features,), _features, _torch),
    )
