"""Find the weights in files of other tools: under which key, as which of several sets, behind which prefix.

timm, PyTorch Lightning, torch.compile, DistributedDataParallel, FSDP and others store the same tensors under different
names. The rules go by the form of the file and by the keys that the model expects, not by the tool.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.errors import UserError, name_some
from src.text import shortened
from src.utils.inert_values import Foreign

# Where several sets of weights are alike, the first of these names
_PREFERRED = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "backbone",
    "student",
)
_MOVING_AVERAGE = re.compile(r"(?<![a-z])(ema|swa)(?![a-z])|averaged?|teacher|momentum|target|encoder_k", re.IGNORECASE)
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|rng|callback|loops|sampler", re.IGNORECASE)
_DEEPEST = 3  # keys above a state dict
_DEEPEST_MODULE = 60
# Members that wrappers add to the names of the tensors below them, at any place
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_MARKERS = 40  # expected keys that are looked for, to find a prefix


@dataclass(frozen=True)
class FoundWeights:
    """A set of weights in a file.

    Attributes:
        state: key -> tensor, without the names that wrappers add.
        note: a sentence for the user about a moving average that the file holds too, or None.
    """

    state: dict[str, Tensor]
    note: str | None


def find_weights(
    content: Mapping[str, Any], path: str | Path, expected: Sequence[Collection[str]] = (), *, use_ema: bool = False
) -> FoundWeights:
    """Find the state dict of a loaded file, below some of its keys, and in it the part that the model expects.

    That part is behind the prefix with which most of the expected keys are found. What lies beside it belongs to other
    parts of a larger model (a loss, a second network), and is left out.

    Args:
        content: of :func:`src.models.state_files.read_state_file`.
        path: the file, for error messages.
        expected: sets of keys; the first of which any are found counts. Without one, all tensors are returned.
        use_ema: take the moving average that the file holds beside its weights.

    Raises:
        UserError: there are none, several that fit, or no moving average; or an entry is no tensor that can be read.
    """
    found = dict(_state_dicts(content, ""))
    if not found:
        keys = name_some([shortened(str(key), 40) for key in content]) or "none"
        raise UserError(f"{path} holds no state dict of tensors (its keys: {keys})")
    places, other_places = _plain_and_averages(list(found), use_ema)
    place = _preferred(places, found, expected, path)
    state = _tensors(found[place], place, path)
    fitting = next(filter(None, (_prefixes(state, keys) for keys in expected)), [""])
    prefixes, other_prefixes = _plain_and_averages(fitting, use_ema)
    if len(prefixes) > 1:
        raise UserError(f"{path} holds several sets of weights that fit: {name_some(prefixes)}; keep one of them")
    prefix = prefixes[0]
    if use_ema and not (_MOVING_AVERAGE.search(place) or _MOVING_AVERAGE.search(prefix)):
        raise UserError(f"--use-ema: {path} holds no moving average of weights; leave the flag out")
    beside = tuple(other for other in fitting if len(other) > len(prefix))
    kept = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and not key.startswith(beside)
    }
    left = [*other_places, *other_prefixes]
    if use_ema or not left:
        return FoundWeights(kept, None)
    return FoundWeights(kept, f"taking the weights in {prefix or place}; --use-ema takes their average in {left[0]}")


def tensors_of(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return all tensors that :func:`find_weights` finds."""
    return find_weights(content, path).state


def _plain_and_averages(names: Sequence[str], use_ema: bool) -> tuple[list[str], list[str]]:
    """Divide names of sets of weights into those to choose from and the moving averages that are left."""
    averages = [name for name in names if _MOVING_AVERAGE.search(name)]
    plain = [name for name in names if name not in averages]
    if averages and (use_ema or not plain):
        return averages, []
    return plain, averages


def _prefixes(keys: Iterable[str], expected: Collection[str]) -> list[str]:
    """List the prefixes with which most of the expected keys are among those of a state dict."""
    state = dict.fromkeys(keys)
    fits: dict[str, int] = {}
    for marker in sorted(expected, key=lambda key: (key.count("."), len(key)), reverse=True)[:_MARKERS]:
        for key in state:
            if key == marker or key.endswith(f".{marker}"):
                prefix = key.removesuffix(marker)
                fits[prefix] = fits.get(prefix) or sum(f"{prefix}{one}" in state for one in expected)
    return [prefix for prefix, count in fits.items() if count == max(fits.values())]


def _state_dicts(content: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place, mapping) of all mappings that hold tensors and no further such mappings."""
    if isinstance(content, Foreign) and (state := dict(_module_state(content, ""))):
        yield place, state
        return
    if not isinstance(content, Mapping):
        return
    below = [
        pair
        for key, value in content.items()
        if isinstance(key, str) and place.count(".") < _DEEPEST and not _NOT_WEIGHTS.search(key)
        for pair in _state_dicts(value, f"{place}.{key}" if place else key)
    ]
    if below:
        yield from below
    elif any(map(_may_be_weight, content.values())) and all(isinstance(key, str) for key in content):
        yield place, content


def _may_be_weight(value: Any) -> bool:
    return _is_unread(value) or isinstance(value, (Tensor, np.ndarray))


def _is_unread(value: Any) -> bool:
    """Return whether a value stands for a tensor of a kind that is not built: quantised, sparse, nested."""
    return isinstance(value, Foreign) and value.name.startswith(("torch._utils._rebuild", "torch._tensor."))


def _module_state(module: Foreign, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the state dict of a whole pickled ``nn.Module``."""
    attributes = module.state if isinstance(module.state, Mapping) else {}
    for kind in ("_parameters", "_buffers"):
        for name, value in _items(attributes.get(kind)):
            if value is not None and name not in (attributes.get("_non_persistent_buffers_set") or ()):
                yield f"{prefix}{name}", value
    for name, child in _items(attributes.get("_modules")):
        if isinstance(child, Foreign) and prefix.count(".") < _DEEPEST_MODULE:
            yield from _module_state(child, f"{prefix}{name}.")


def _items(mapping: Any) -> Sequence[tuple[Any, Any]]:
    return list(mapping.items()) if isinstance(mapping, Mapping) else []


def _preferred(
    places: Sequence[str],
    found: Mapping[str, Mapping[str, Any]],
    expected: Sequence[Collection[str]],
    path: str | Path,
) -> str:
    """Return the place of the weights that the model expects; of several, the one of the usual name.

    Raises:
        UserError: none has a usual name.
    """

    def rank(place: str) -> tuple[int, int]:
        name = place.split(".", 1)[0]
        return _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED), -len(found[place])

    fitting = [place for place in places if any(_prefixes(map(_unwrapped, found[place]), keys) for keys in expected)]
    best = min(fitting or places, key=rank)
    if len(fitting) > 1 and rank(best)[0] == len(_PREFERRED):
        raise UserError(f"{path} holds several sets of weights that fit: {name_some(fitting)}; keep one of them")
    return best


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _tensors(state: Mapping[str, Any], place: str, path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict; counters, names and the like beside them are left out."""
    tensors: dict[str, Tensor] = {}
    problems = []
    for key, value in state.items():
        name = _unwrapped(key)
        if isinstance(value, np.ndarray) and value.dtype.kind in "?biuf":
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        if isinstance(value, Tensor):
            if name in tensors:
                raise UserError(f"{path} holds {shortened(name, 80)} twice, with and without the name of a wrapper")
            tensors[name] = value
        elif isinstance(value, Foreign) and not name.endswith("_extra_state") and name != "_metadata":
            problems.append(f"{shortened(key, 80)} is {shortened(str(value), 120)}")
        elif isinstance(value, (tuple, list)) and (unread := [one for one in value if _is_unread(one)]):
            problems.append(f"{shortened(key, 80)} holds {shortened(str(unread[0]), 120)}")  # packed parameters
    if problems:
        where = f"{path}, {place}" if place else str(path)
        raise UserError(
            f"{where}: holds other objects than plain tensors: {name_some(problems, 3)}; save plain "
            "tensors (of tensor.dequantize() or tensor.to_dense())"
        )
    return tensors
