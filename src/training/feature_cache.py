"""Backbone features of a fixed set of images, kept on disk: a frozen backbone sees every image once."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import PIL
import torch
from torch import Tensor

from src.data.transforms import TRANSFORM_VERSION
from src.embedding import Embedded
from src.errors import UserError
from src.models.state_files import read_state_file
from src.utils.files import atomic_write


def feature_key(paths: Sequence[str], weights: Mapping[str, Tensor], facts: Sequence[object]) -> str:
    """A name for features that changes with all they depend on: images, weights, versions, other facts."""
    versions = [str(package.__version__) for package in (torch, PIL)]
    digest = hashlib.sha256(repr((*facts, *versions, TRANSFORM_VERSION)).encode())
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


def cached_features(folder: Path, key: str, compute: Callable[[], Embedded]) -> Embedded:
    """The features named ``key`` from ``folder``, or computed and put there. The folder may be deleted at any time.

    A file that cannot be read is computed anew; a folder that cannot be written to is reported, and the features live
    in memory only.
    """
    path = folder / f"{key}.pt"
    if path.is_file():
        try:
            stored = read_state_file(path)
            return Embedded(stored["outputs"], stored["rows"], tuple(stored["bad"]))
        except (UserError, KeyError) as error:
            print(f"computing the features anew: {error}", file=sys.stderr)
    features = compute()
    try:
        with atomic_write(path) as stream:
            torch.save({"outputs": features.outputs, "rows": features.rows, "bad": list(features.bad)}, stream)
    except UserError as error:
        print(f"the features are not kept for the next run: {error}", file=sys.stderr)
    return features
