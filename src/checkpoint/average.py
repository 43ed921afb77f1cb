"""The mean of several checkpoints' weights: runs from one starting point, or epochs of one run.

"Model soups" (ICML 2022) and "Averaging weights leads to wider optima" (UAI 2018): models that were fine-tuned from the
same weights often lie in one basin, and their mean does better than each of them. Models that were trained from
different random weights do not, and their mean is worthless.

Batch norms' running statistics are averaged like weights. They are then those of the sources' features, not of the mean
model's: where the batch norms were fine-tuned, recomputing the statistics on training images is better. Where they
were frozen (``--freeze-bn``, ``--freeze-backbone``) they are equal in all sources, and so in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.checkpoint.digest import check_digest, file_digest, save_with_digest, side_file
from src.checkpoint.info import FORMAT, CheckpointInfo, info_of_dict, package_versions
from src.errors import UserError, name_some
from src.models.state_files import read_state_file


@dataclass
class _Running:
    """The weighted sum so far: float64 where tensors are floating, the last file's value elsewhere."""

    sums: dict[str, Tensor]
    dtypes: dict[str, torch.dtype]
    weight: float

    @classmethod
    def start(cls, state: Mapping[str, Tensor], weight: float) -> _Running:
        sums = {
            key: weight * tensor.double() if tensor.is_floating_point() else tensor for key, tensor in state.items()
        }
        return cls(sums, {key: tensor.dtype for key, tensor in state.items()}, weight)

    def add(self, state: Mapping[str, Tensor], weight: float, paths: tuple[str | Path, str | Path]) -> None:
        """One more file's tensors; ``paths`` are the first file and this one.

        Raises:
            UserError: a tensor has no partner in the first file, or one of another shape or kind.
        """
        alone = [key for key in {**self.sums, **state} if key not in self.sums or key not in state]
        unlike = [key for key in self.sums if key in state and _form(self.sums[key]) != _form(state[key])]
        for what, keys in (("only one of them has", alone), ("unlike in shape or kind are", unlike)):
            if keys:
                raise UserError(f"{paths[0]} and {paths[1]} have different weights: {what} {name_some(keys)}")
        for key, tensor in state.items():
            if tensor.is_floating_point():
                self.sums[key].add_(tensor.double(), alpha=weight)  # sum_i w_i theta_i
            else:
                self.sums[key] = tensor
            self.dtypes[key] = torch.promote_types(self.dtypes[key], tensor.dtype)
        self.weight += weight

    def mean(self) -> dict[str, Tensor]:
        """sum_i w_i theta_i / sum_i w_i, in half precision where it is so in all files."""
        return {
            key: (total / self.weight).to(self.dtypes[key]) if total.is_floating_point() else total
            for key, total in self.sums.items()
        }


def average_checkpoints(
    paths: Sequence[str | Path], output: str | Path, weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """Write the weighted mean of checkpoints of this project, and its side file.

    Floating tensors are averaged in float64; others (``num_batches_tracked``) are the last file's. The files are read
    one after another: beside the sum, one is in memory. Of the settings those stay on which all files agree, and
    ``averaged`` names the files; metrics are empty, since nobody has measured this model, and a calibration, which was
    fitted to one model's scores, is left out. All else is the first file's.

    Args:
        paths: the files; one alone gives its own weights.
        output: the file to write; none of ``paths``.
        weights: one positive number a file, in any unit; None counts all alike.

    Returns:
        The settings of the new file.

    Raises:
        UserError: a file is no checkpoint of this project or differs from its side file; has weights that are not
            finite; or differs from the first in configuration, labels, word vectors, or the keys or shapes of its
            weights; ``output`` is one of them or cannot be written.
    """
    weights = [1.0] * len(paths) if weights is None else list(weights)
    if len(weights) != len(paths):
        raise UserError(f"--weights: {len(weights)} numbers for {len(paths)} files; give one a file")
    if any(Path(output).resolve() == Path(path).resolve() for path in paths):
        raise UserError(f"--output {output}: is one of the files to average; choose another name")
    exponent = math.frexp(max(weights))[1]
    relative = [math.ldexp(weight, -exponent) for weight in weights]  # below 1, and exactly as they were to each other
    first = _read(paths[0])
    running = _Running.start(first.take_state(), relative[0])
    settings, digests = dict(first.info.settings), [first.digest]
    for path, weight in zip(paths[1:], relative[1:], strict=True):
        other = _read(path)
        _check_same_task(first, other)
        running.add(other.take_state(), weight, (first.path, path))
        settings = {name: value for name, value in settings.items() if other.has_setting(name, value)}
        digests.append(other.digest)
    settings["averaged"] = [
        {"file": str(path), "sha256": digest, "weight": weight}
        for path, digest, weight in zip(paths, digests, weights, strict=True)
    ]
    result = {
        **first.content,
        "state_dict": running.mean(),
        "calibration": None,
        "metrics": {},
        "settings": settings,
        "versions": package_versions(),
    }
    save_with_digest(output, lambda stream: torch.save(result, stream))
    return settings


@dataclass
class _Source:
    """A file that was read: what it holds, what it says, its SHA-256."""

    path: str | Path
    content: dict[str, Any]
    info: CheckpointInfo
    digest: str

    def take_state(self) -> dict[str, Tensor]:
        """The weights, which are not kept here any longer."""
        return self.content.pop("state_dict")

    def has_setting(self, name: str, value: object) -> bool:
        return name in self.info.settings and self.info.settings[name] == value


def _read(path: str | Path) -> _Source:
    """A file whose weights can be averaged."""
    content = read_state_file(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of this project; only those can be averaged")
    digest = file_digest(path)
    if check_digest(path, digest) is False:
        raise UserError(f"{path} differs from its side file {side_file(path)}; get both again")
    info = info_of_dict(content, str(path))
    state = content.get("state_dict")
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is an incomplete checkpoint of this project: it holds no state dict of tensors")
    if not isinstance(info.settings, dict):
        raise UserError(f"{path} is an incomplete checkpoint of this project: its settings are no dict")
    bad = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(f"{path} has weights that are NaN or infinite, which no mean survives: {name_some(bad)}")
    return _Source(path, content, info, digest)


def _check_same_task(first: _Source, other: _Source) -> None:
    """Refuse a file that says something else than the first about what the weights mean."""
    split, other_split = first.info.split, other.info.split
    assert split is not None  # a file of this project has one
    assert other_split is not None
    config, other_config = asdict(first.info.config), asdict(other.info.config)
    differing = [
        f"{name} {config[name]} and {other_config[name]}" for name in config if config[name] != other_config[name]
    ]
    if differing:
        raise UserError(f"{first.path} and {other.path} have different configurations: {', '.join(differing)}")
    vectors, other_vectors = (source.content["split"]["word_vectors"] for source in (first, other))
    further, other_further = (source.content["extra_vectors"] for source in (first, other))
    for what, same in (
        ("labels", split.labels == other_split.labels),
        ("seen and unseen labels", (split.seen, split.unseen) == (other_split.seen, other_split.unseen)),
        ("word vectors", _same_vectors(vectors, other_vectors)),
        ("further words", first.info.extra_words == other.info.extra_words),
        ("vectors of further words", _same_vectors(further, other_further)),
    ):
        if not same:
            raise UserError(f"{first.path} and {other.path} have different {what}; average models of one task")


def _same_vectors(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal, up to the rounding of a file that stores them in half precision."""
    if a is None or b is None:
        return a is b
    if a.dtype != b.dtype:
        a, b = a.half(), b.half()
    return torch.equal(a, b)


def _form(tensor: Tensor) -> tuple[torch.Size, bool]:
    return tensor.shape, tensor.is_floating_point()
