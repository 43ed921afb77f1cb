"""Average the weights of several checkpoints: runs from one starting point, or epochs of one run.

"Model soups" (ICML 2022) and "Averaging weights leads to wider optima" (UAI 2018): models that were fine-tuned from the
same weights often lie in one basin, and their mean does better than each of them. This does not hold for models that
were trained from different random weights.

Running batch-norm statistics are averaged like weights, although they describe the features of the sources, not those
of the mean model: if the batch norms were fine-tuned, recompute them on training images. Frozen ones (``--freeze-bn``,
``--freeze-backbone``) are equal in all sources, and so in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.checkpoint.digest import check_digest, save_with_digest, side_file
from src.checkpoint.info import FORMAT, CheckpointInfo, info_of_dict, package_versions
from src.errors import UserError, name_some
from src.models.state_files import read_state_file


@dataclass
class _Source:
    """A file to average.

    Attributes:
        path: the file.
        content: what the file holds beside its weights.
        info: the same, as an object.
        digest: the file's SHA-256.
    """

    path: str | Path
    content: dict[str, Any]
    info: CheckpointInfo
    digest: str


def average_checkpoints(
    paths: Sequence[str | Path], output: str | Path, weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """Write the weighted mean of checkpoints of this project, and its side file.

    Floating tensors are averaged in float64, and stored in half precision if they are so in all files; others
    (``num_batches_tracked``) are the last file's. Only one file at a time is in memory beside the sum. The new file
    keeps the settings that all files agree on, and lists the sources as ``averaged``. It has no metrics and no
    calibration, which would have to be measured anew. All else is the first file's.

    Args:
        paths: the files; a single one gives its own weights.
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
    first, state = _read(paths[0])
    mean = {key: _scaled(tensor, weights[0] / sum(weights)) for key, tensor in state.items()}
    dtypes = {key: tensor.dtype for key, tensor in state.items()}
    settings, digests = dict(first.info.settings), [first.digest]
    for path, weight in zip(paths[1:], weights[1:], strict=True):
        del state  # one file at a time
        other, state = _read(path)
        _check_same_task(first, other)
        _check_same_tensors(mean, state, f"{first.path} and {path} have different weights")
        for key in state:  # mean = sum_i w_i theta_i / sum_i w_i
            scaled = _scaled(state[key], weight / sum(weights))
            mean[key] = mean[key] + scaled if scaled.is_floating_point() else scaled
            dtypes[key] = torch.promote_types(dtypes[key], state[key].dtype)
        theirs = other.info.settings
        settings = {name: value for name, value in settings.items() if name in theirs and theirs[name] == value}
        digests.append(other.digest)
    settings["averaged"] = [
        {"file": str(path), "sha256": digest, "weight": weight}
        for path, digest, weight in zip(paths, digests, weights, strict=True)
    ]
    result = {
        **first.content,
        "state_dict": {key: tensor.to(dtypes[key]) for key, tensor in mean.items()},
        "calibration": None,
        "metrics": {},
        "settings": settings,
        "versions": package_versions(),
    }
    save_with_digest(output, lambda stream: torch.save(result, stream))
    return settings


def _scaled(tensor: Tensor, share: float) -> Tensor:
    return share * tensor.double() if tensor.is_floating_point() else tensor


def _read(path: str | Path) -> tuple[_Source, dict[str, Tensor]]:
    """Read a checkpoint of this project and check that its weights can be averaged."""
    content = read_state_file(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of this project; only those can be averaged")
    digest, agrees = check_digest(path)
    if agrees is False:
        raise UserError(f"{path} differs from its side file {side_file(path)}; copy both again")
    info = info_of_dict(content, str(path))
    state = content.pop("state_dict", None)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is an incomplete checkpoint of this project: it holds no state dict of tensors")
    bad = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(f"{path} has weights that are NaN or infinite: {name_some(bad)}; leave this file out")
    return _Source(path, content, info, digest), state


def _check_same_task(first: _Source, other: _Source) -> None:
    """Raise a :class:`UserError` if the weights of two files belong to different models or labels."""
    one, two = first.info, other.info
    assert one.split is not None  # a file of this project has a split
    assert two.split is not None
    theirs = asdict(two.config)
    differing = [
        f"{name} {ours} and {theirs[name]}" for name, ours in asdict(one.config).items() if ours != theirs[name]
    ]
    if differing:
        raise UserError(f"{first.path} and {other.path} have different configurations: {', '.join(differing)}")
    vectors, extra = ([source.content[key] for source in (first, other)] for key in ("split", "extra_vectors"))
    for what, same in (
        ("labels", one.split.labels == two.split.labels),
        ("seen and unseen labels", (one.split.seen, one.split.unseen) == (two.split.seen, two.split.unseen)),
        ("word vectors", _same_vectors(*(split["word_vectors"] for split in vectors))),
        ("further words", one.extra_words == two.extra_words),
        ("vectors of further words", _same_vectors(*extra)),
    ):
        if not same:
            raise UserError(f"{first.path} and {other.path} have different {what}; average models of one task")


def _check_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor], problem: str) -> None:
    """Raise a :class:`UserError` if two state dicts have different keys, shapes or kinds of numbers."""
    if alone := sorted(ours.keys() ^ theirs.keys()):
        raise UserError(f"{problem}: only one of them has {name_some(alone)}")
    unlike = [
        key
        for key, tensor in ours.items()
        if (tensor.shape, tensor.is_floating_point()) != (theirs[key].shape, theirs[key].is_floating_point())
    ]
    if unlike:
        raise UserError(f"{problem}: shapes or kinds differ for {name_some(unlike)}")


def _same_vectors(a: Tensor | None, b: Tensor | None) -> bool:
    """Compare vectors, at half precision if one of the files stores them so."""
    if a is None or b is None:
        return a is b
    return torch.equal(a, b) if a.dtype == b.dtype else torch.equal(a.half(), b.half())
