"""What a checkpoint of this project says beside its weights, as an object and as builtin containers."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.calibration.thresholds import Calibration
from src.data.split import ZeroShotSplit, make_split
from src.errors import UserError
from src.word_vectors.space import Space, space_of

FORMAT = "sdl-checkpoint/1"


@dataclass
class ModelConfig:
    """What :func:`src.models.create_model` needs, and how images are brought to its input size.

    Attributes:
        model_name: timm's name of the backbone.
        num_rows: M.
        wordvec_dim: D.
        image_size: side of the square that images are squashed to, in pixels.
        interpolation: Pillow's resize filter, ``bilinear`` or ``bicubic``.
    """

    model_name: str
    num_rows: int
    wordvec_dim: int
    image_size: int
    interpolation: str = "bilinear"


@dataclass
class CheckpointInfo:
    """Everything in a checkpoint but the weights.

    Attributes:
        kind: ``sdl`` (this project's file), ``release`` or ``bare`` (the released code's two forms).
        config: the model's configuration and preprocessing.
        split: labels, seen, unseen and word vectors; None where the file has none (``bare`` has no labels, ``release``
            no word vectors).
        labels: the label names of a ``release`` file, in column order; for ``sdl`` those of the split.
        extra_words: further words, most frequent first.
        extra_vectors: their vectors [D, V] float32, or None.
        calibration: thresholds and probabilities fitted on labelled images, or None.
        space: fingerprint of the word-vector space, or None where the file has no word vectors.
        metrics: of the saved epoch, in percent.
        settings: of the run that made it (flags, epoch, data paths).
        versions: of the packages that made it.
    """

    kind: str
    config: ModelConfig
    split: ZeroShotSplit | None = None
    labels: tuple[str, ...] = ()
    extra_words: tuple[str, ...] = ()
    extra_vectors: Tensor | None = None
    calibration: Calibration | None = None
    space: Space | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def package_versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    timm = importlib.metadata.version("timm")  # asks its metadata: importing it takes a second
    return {"python": platform.python_version(), "torch": str(torch.__version__), "timm": timm}


def check_expected(
    info: CheckpointInfo,
    path: str | Path,
    *,
    model_name: str | None = None,
    num_rows: int | None = None,
    wordvec_dim: int | None = None,
) -> None:
    """Compare a file with what the caller expects of it; None takes what the file says.

    Raises:
        UserError: it contradicts an expectation.
    """
    for flag, expected, found in (
        ("--model-name", model_name, info.config.model_name),
        ("--num_rows", num_rows, info.config.num_rows),
        ("--wordvec_dim", wordvec_dim, info.config.wordvec_dim),
    ):
        if expected is not None and expected != found:
            raise UserError(
                f"{flag} {expected}: {path} holds a model with {found}; leave the flag out to use what the file says"
            )


def info_to_dict(info: CheckpointInfo, *, half: bool = False) -> dict[str, Any]:
    """Tensors and builtin containers that say all of ``info``; :func:`info_of_dict` reads them back.

    Args:
        info: ``info.split`` is required; ``kind``, ``versions`` and ``space`` are filled in.
        half: word vectors in half precision.
    """
    if info.split is None:
        raise ValueError("a checkpoint needs a split: labels without word vectors cannot be scored")

    def shrink(vectors: Tensor) -> Tensor:
        vectors = vectors.detach().cpu().contiguous()
        return vectors.half() if half else vectors

    split = info.split
    return {
        "format": FORMAT,
        "config": asdict(info.config),
        "split": {
            "name": split.name,
            "labels": list(split.labels),
            "seen": list(split.seen),
            "unseen": list(split.unseen),
            "word_vectors": shrink(split.word_vectors),
        },
        "extra_words": list(info.extra_words),
        "extra_vectors": None if info.extra_vectors is None else shrink(info.extra_vectors),
        "calibration": None if info.calibration is None else info.calibration.to_dict(),
        "space": asdict(_space_of(split, info.extra_words, info.extra_vectors)),
        "metrics": dict(info.metrics),
        "settings": dict(info.settings),
        "versions": package_versions(),
    }


def info_of_dict(content: Mapping[str, Any], source: str) -> CheckpointInfo:
    """What :func:`info_to_dict` gave; ``source`` is what it was read from, for error messages.

    Raises:
        UserError: something is missing, of another kind, or does not fit the rest.
    """
    try:
        config = ModelConfig(**content["config"])
        stored = content["split"]
        split = make_split(
            stored["labels"],
            stored["seen"],
            stored["unseen"],
            stored["word_vectors"].float(),
            name=stored["name"],
            source=source,
        )
        extra = content["extra_vectors"]
        info = CheckpointInfo(
            kind="sdl",
            config=config,
            split=split,
            labels=split.labels,
            extra_words=tuple(content["extra_words"]),
            extra_vectors=None if extra is None else extra.float(),
            calibration=_calibration_of(content, split),
            space=Space(**content["space"]) if "space" in content else _space_of(split, content["extra_words"], extra),
            metrics=content["metrics"],
            settings=content["settings"],
            versions=content["versions"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source} is an incomplete checkpoint of this project: {error}") from error
    lengths = {split.wordvec_dim, *(() if info.extra_vectors is None else info.extra_vectors.shape[:1])}
    if lengths != {config.wordvec_dim}:
        raise UserError(f"{source}: its word vectors have lengths {lengths}, its model has D = {config.wordvec_dim}")
    return info


def _space_of(split: ZeroShotSplit, extra_words: Sequence[str], extra_vectors: Tensor | None) -> Space:
    """Frequent words before labels: they are one word each, and nobody has given them another's vector."""
    vectors = [] if extra_vectors is None else [extra_vectors.float()]
    return space_of([*extra_words, *split.labels], torch.cat([*vectors, split.word_vectors], dim=1))


def _calibration_of(content: Mapping[str, Any], split: ZeroShotSplit) -> Calibration | None:
    stored = content.get("calibration")  # files from before calibrations have none
    if stored is None:
        return None
    calibration = Calibration.from_dict(stored)
    if len(calibration.thresholds) != len(split.labels):
        raise ValueError(f"its calibration has {len(calibration.thresholds)} labels, its split {len(split.labels)}")
    return calibration
