"""The form of what a checkpoint stores beside its weights: types and ranges of every field.

What decides over results (configuration, labels, vectors, calibration) must have its form. What only documents a run
(metrics, settings, versions) is kept as far as it is plain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from src.checkpoint.further_words import check_form, count_words
from src.utils.inert_values import Foreign

MAX_IMAGE_SIZE = 4096  # pixels; the pixels of one image take 200 MB
_NAMES_OF_PATHS = ("metadata", "data", "images")  # settings that are read again, as text


class StoredConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Fields of :class:`src.checkpoint.info.ModelConfig`."""

    model_name: Annotated[str, Meta(pattern=r"^[\w.\-]{1,200}$")]
    num_rows: Annotated[int, Meta(ge=1, le=1 << 14)]
    wordvec_dim: Annotated[int, Meta(ge=1, le=1 << 16)]
    image_size: Annotated[int, Meta(ge=1, le=MAX_IMAGE_SIZE)]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    num_class_words: Annotated[int, Meta(ge=0, le=1 << 16)] = 0


class StoredSplit(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of :func:`src.data.split.make_split`."""

    name: str
    labels: list[str]
    seen: list[int]
    unseen: list[int]
    word_vectors: Any


class StoredSpace(msgspec.Struct, forbid_unknown_fields=True):
    """Fields of :class:`src.word_vectors.space.Space`."""

    dim: int
    probes: dict[str, str]


class Stored(msgspec.Struct):
    """A checkpoint without its weights."""

    config: StoredConfig
    split: StoredSplit
    extra_words: str | list[str]
    extra_vectors: Any
    metrics: Any
    settings: Any
    versions: Any
    extra_scales: Any = None
    calibration: Any = None
    space: Any = None


def stored_form(content: Mapping[str, Any]) -> Stored:
    """Check the form of a checkpoint's content.

    Raises:
        ValueError: a field is missing, of another type, or out of range; the message says which.
    """
    named = {key: value for key, value in content.items() if key != "state_dict"}
    for key in ("config", "split", "extra_words"):  # msgspec would try a tensor as a sequence, with PyTorch's warnings
        named[key] = _without_tensors(named[key], kept="word_vectors")
    if isinstance(content["extra_words"], Tensor):  # which would be a text by now
        raise ValueError("its further words are a tensor")
    stored = msgspec.convert(named, Stored)
    _check_vectors(stored.split.word_vectors, len(stored.split.labels), "word vectors")
    if stored.extra_vectors is not None:
        words = count_words(stored.extra_words)
        _check_vectors(stored.extra_vectors, words, "vectors of further words", (torch.int8,))
        if not stored.extra_vectors.isfinite().all():
            raise ValueError("its vectors of further words are NaN or infinite")
    check_form(stored.extra_words, stored.extra_vectors, stored.extra_scales)
    return stored


def storable(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's content without what is no part of one, ready to be saved again.

    Raises:
        ValueError: see :func:`stored_form`.
    """
    stored_form(content)
    known = {field.name for field in msgspec.structs.fields(Stored)} | {"format", "state_dict"}
    made = {name: value for name, value in content.items() if name in known}
    made |= {"metrics": numbers_of(made["metrics"])}
    made |= {name: plain_of(made[name]) for name in ("settings", "versions")}
    if stored_space(made.get("space"), made["config"]["wordvec_dim"]) is None:
        made.pop("space", None)
    return made


def _check_vectors(vectors: Any, count: int, what: str, integers: tuple[torch.dtype, ...] = ()) -> None:
    is_matrix = isinstance(vectors, Tensor) and vectors.ndim == 2
    if not (is_matrix and (vectors.is_floating_point() or vectors.dtype in integers)):
        raise ValueError(f"its {what} are no matrix of numbers")
    if vectors.shape[1] != count:
        raise ValueError(f"its {what} are {vectors.shape[1]} for {count} words")


def _without_tensors(value: Any, kept: str) -> Any:
    if type(value) is dict:
        return {key: one if key == kept else _without_tensors(one, kept) for key, one in value.items()}
    return "a tensor" if isinstance(value, Tensor) else value


def stored_space(content: Any, wordvec_dim: int) -> StoredSpace | None:
    """Return a stored fingerprint of the word vectors; None if it has another form and must be computed again."""
    try:
        space = msgspec.convert(_without_tensors(content, kept=""), StoredSpace)
    except Exception:  # noqa: BLE001 -- msgspec looks into tensors and other objects
        return None
    return space if space.dim == wordvec_dim else None


def numbers_of(content: Any) -> dict[str, float]:
    """Keep the numbers of stored metrics."""
    entries = content.items() if isinstance(content, Mapping) else ()
    return {name: float(value) for name, value in entries if isinstance(name, str) and _is_number(value)}


def plain_of(content: Any) -> dict[str, Any]:
    """Keep what is plain in stored settings or versions; anything else becomes its name."""
    entries = content.items() if isinstance(content, Mapping) else ()
    kept = {name: _plain(value) for name, value in entries if isinstance(name, str)}
    return {name: value for name, value in kept.items() if name not in _NAMES_OF_PATHS or isinstance(value, str)}


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 64)


def _plain(value: Any, levels: int = 20) -> Any:
    if isinstance(value, Foreign) or levels == 0:
        return str(value) if isinstance(value, Foreign) else "..."
    if isinstance(value, Mapping):
        return {str(name): _plain(one, levels - 1) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, levels - 1) for one in value]
    return value if value is None or isinstance(value, (bool, str)) or _is_number(value) else type(value).__name__
