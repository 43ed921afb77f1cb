"""Average the weights of several checkpoints: runs from one starting point, or epochs of one run.

"Model soups" (ICML 2022) and "Averaging weights leads to wider optima" (UAI 2018): the mean of models that were
fine-tuned from the same weights is often better than each of them; not so for models from different random weights.

Running batch-norm statistics are averaged like weights; unless batch norms were frozen (``--freeze-bn``,
``--freeze-backbone``), recompute them on training images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.checkpoint.digest import save_with_digest, unchanged
from src.checkpoint.further_words import read_words, same_vectors
from src.checkpoint.info import package_versions
from src.checkpoint.own import read_own
from src.errors import UserError, name_some
from src.models.layouts import tensors_of
from src.models.state_files import check_finite


def average_checkpoints(
    paths: Sequence[str | Path], output: str | Path, weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """Write the weighted mean of checkpoints of this project, and its side file.

    Floating tensors are averaged in float64, and stored in half precision if they are so in all files; others
    (``num_batches_tracked``) are the last file's. One file at a time is in memory beside the sum. The new file keeps
    the settings that all files agree on and lists the sources as ``averaged``. It has neither metrics nor a
    calibration. All else is the first file's.

    Args:
        paths: the files.
        output: the file to write; none of ``paths``.
        weights: one positive number per file; None weighs all alike.

    Returns:
        The settings of the new file.

    Raises:
        UserError: a file is no checkpoint of this project, differs from its side file, has weights that are not
            finite, or differs from the first in configuration, labels, word vectors, or the keys or shapes of its
            weights; ``output`` is one of them or cannot be written.
    """
    weights = [1.0] * len(paths) if weights is None else list(weights)
    if len(weights) != len(paths):
        raise UserError(f"--weights: {len(weights)} numbers for {len(paths)} files; give one per file")
    if any(Path(output).resolve() == Path(path).resolve() for path in paths):
        raise UserError(f"--output {output}: is one of the files to average; choose another name")
    first: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    sources: list[dict[str, Any]] = []
    mean: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for path, weight in zip(paths, weights, strict=True):
        content, state, digest = _read(path)
        if sources:
            _check_same_task(first, content, f"{paths[0]} and {path} have different")
            _check_same_tensors(mean, state, f"{paths[0]} and {path} have different weights")
        else:
            first, settings = content, content["settings"]
        _add(state, weight / sum(weights), mean)
        for key, tensor in state.items():
            dtypes[key] = torch.promote_types(dtypes.get(key, tensor.dtype), tensor.dtype)
        theirs = content["settings"]
        settings = {name: value for name, value in settings.items() if name in theirs and theirs[name] == value}
        sources.append({"file": str(path), "sha256": digest, "weight": weight})
        del state  # before the next file is read
    settings["averaged"] = sources
    save_with_digest(
        output,
        {
            **first,
            "state_dict": {key: tensor.to(dtypes[key]) for key, tensor in mean.items()},
            "calibration": None,
            "metrics": {},
            "settings": settings,
            "versions": package_versions(),
        },
    )
    return settings


def _add(state: Mapping[str, Tensor], share: float, mean: dict[str, Tensor]) -> None:
    """Add a share of floating tensors: mean = sum_i w_i theta_i / sum_i w_i; of others the last is kept."""
    for key, tensor in state.items():
        mean[key] = mean.get(key, 0) + share * tensor.double() if tensor.is_floating_point() else tensor


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Read and check a checkpoint of this project; return its content, state dict and digest."""
    if not os.path.isfile(path):
        raise UserError(f"no such file: {path}; give the path of a checkpoint")
    with unchanged(path) as digest:
        content = read_own(path, "be averaged")
    state = tensors_of({"state_dict": content.pop("state_dict", None)}, path)
    check_finite(state, path)
    return content, state, digest


def _check_same_task(ours: Mapping[str, Any], theirs: Mapping[str, Any], problem: str) -> None:
    """Raise a :class:`UserError` if two files hold different models, labels or words."""
    config = theirs["config"]
    if differing := [
        f"{name} {value} and {config.get(name)}" for name, value in ours["config"].items() if value != config.get(name)
    ]:
        raise UserError(f"{problem} configurations: {', '.join(differing)}")
    one, two = ours["split"], theirs["split"]
    for what, same in (
        ("labels", one["labels"] == two["labels"]),
        ("seen and unseen labels", (one["seen"], one["unseen"]) == (two["seen"], two["unseen"])),
        ("word vectors", same_vectors((one["word_vectors"], None), (two["word_vectors"], None))),
        ("further words", read_words(ours["extra_words"]) == read_words(theirs["extra_words"])),
        ("vectors of further words", same_vectors(_further_vectors(ours), _further_vectors(theirs))),
    ):
        if not same:
            raise UserError(f"{problem} {what}; average models of one task")


def _check_same_tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], problem: str) -> None:
    """Raise a :class:`UserError` if two state dicts have different keys, shapes or kinds of numbers."""
    if alone := sorted(ours.keys() ^ theirs.keys()):
        raise UserError(f"{problem}: only one of them has {name_some(alone)}")
    if unlike := [
        key
        for key, tensor in ours.items()
        if (tensor.shape, tensor.is_floating_point()) != (theirs[key].shape, theirs[key].is_floating_point())
    ]:
        raise UserError(f"{problem}: shapes or kinds differ for {name_some(unlike)}")


def _further_vectors(content: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    return content["extra_vectors"], content.get("extra_scales")
