"""Cache of backbone features on disk: a frozen backbone sees every image once."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
from torch import Tensor

from src.data.transforms import TRANSFORM_VERSION
from src.embedding import Embedded
from src.errors import UserError, first_line
from src.models.state_files import read_state_file
from src.training.learner_state import check_tensor
from src.utils.files import atomic_write


def _versions() -> tuple[str, ...]:
    return tuple(f"{package.__name__} {package.__version__}" for package in (torch, timm, PIL, np))


@dataclass(frozen=True)
class FeatureSettings:
    """Everything that features depend on beside images and weights. Each attribute is part of the cache key.

    Attributes:
        backbone: its name.
        image_size, interpolation, exact: of the transform.
        dtype: of the forward pass.
        device: its type; rounding differs between devices.
        channels_last, inplace_abn: options of the model that change the rounding.
        transform_version, packages: of the code that makes the features.
    """

    backbone: str
    image_size: int
    interpolation: str = "bilinear"
    exact: bool = False
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    channels_last: bool = False
    inplace_abn: bool = False
    transform_version: int = TRANSFORM_VERSION
    packages: tuple[str, ...] = field(default_factory=_versions)


def feature_key(paths: Sequence[str], weights: Mapping[str, Tensor], settings: FeatureSettings) -> str:
    """Name the features of some images; the name changes with images, weights and settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in paths:
        try:
            status = os.stat(path)
            state = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:  # a dangling link, say: reading it will fail too, and be reported
            state = "missing"
        digest.update(os.fsencode(f"{os.path.abspath(path)}\0{state}\n"))
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def cached_features(folder: Path, key: str, count: int, width: int, compute: Callable[[], Embedded]) -> Embedded:
    """Read the features named ``key`` from ``folder``, or compute and store them. The folder may be deleted any time.

    A file that cannot be read, or holds anything but such features, is replaced; a folder that cannot be written to is
    reported, and the features live in memory only.

    Args:
        folder: of the cache.
        key: see :func:`feature_key`.
        count: number of images.
        width: number of features of an image.
        compute: called where the cache has no such features.
    """
    path = folder / f"{key}.pt"
    if path.is_file():
        try:
            return _read(path, count, width)
        except UserError as error:
            print(f"computing the features again: {error}", file=sys.stderr)
    features = compute()
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"cannot write {path}: it is no file")
        with atomic_write(path) as stream:
            torch.save({"outputs": features.outputs, "rows": features.rows, "bad": list(features.bad)}, stream)
    except UserError as error:
        print(f"the features are not kept for the next run: {error}", file=sys.stderr)
    return features


def _read(path: Path, count: int, width: int) -> Embedded:
    """Read the features of at most ``count`` images.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    stored = read_state_file(path)
    try:
        outputs, rows, bad = stored["outputs"], stored["rows"], stored["bad"]
        check_tensor(rows, torch.empty(len(rows), dtype=torch.long), "rows")
        check_tensor(outputs, torch.empty(len(rows), width if len(rows) else 0), "outputs")
        if not bool(outputs.isfinite().all()):
            raise ValueError("outputs that are not finite")
        if len(rows) and not (rows[0] >= 0 and rows[-1] < count and bool((rows.diff() > 0).all())):
            raise ValueError(f"rows that are not those of {count} images")
        if not isinstance(bad, list) or not all(isinstance(message, str) for message in bad):
            raise ValueError("bad of another form")
    except Exception as error:  # odd kinds of tensors raise any type
        raise UserError(f"{path} holds no such features: {first_line(error)}") from error
    return Embedded(outputs, rows, tuple(bad))
