"""The files that flags name to be read, of which no output may take the place."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Inputs = list[tuple[str, Path]]  # (flag, file or folder)


def model_inputs(flag: str, path: Path) -> Inputs:
    """Return a model file, its digest, and the exported model beside it."""
    return [(flag, path), (flag, Path(f"{path}.sha256")), (flag, path.with_suffix(".onnx"))]


def vector_inputs(flag: str, value: str | Path) -> Inputs:
    """Return a file or folder of word vectors, the archive that it is in, and the list of words beside an array."""
    path = Path(value)
    archives = [parent for parent in path.parents if parent.is_file()]
    lists = [path.with_suffix(suffix) for suffix in (".txt", ".json")] if path.suffix == ".npy" else []
    return [(flag, source) for source in (path, *archives, *lists)]


def list_inputs(flag: str, values: Iterable[str]) -> Inputs:
    """Return the files among values that may be images, or lists of images with or without ``@``."""
    named = [Path(name) for value in values for name in (value, value.removeprefix("@"))]
    return [(flag, path) for path in named if path.is_file()]
