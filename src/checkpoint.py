"""Checkpoints: one self-describing file, and the files of the released code.

This project's file holds all that tagging and validation need: weights, model configuration, preprocessing, labels with
their word vectors, seen and unseen, further words, metrics, settings and versions; tensors and builtin containers only,
so that it loads with ``weights_only=True``.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from src.calibration import Calibration
from src.data.split import ZeroShotSplit, make_split
from src.errors import UserError
from src.files import atomic_write
from src.models import SDLModel, create_model
from src.models.converters import convert_released_tresnet, is_released_tresnet
from src.models.inplace_abn import plain_state_dict
from src.models.state_files import load_strictly, read_state_file, tensors_of
from src.word_vectors.space import Space, space_of

FORMAT = "sdl-checkpoint/1"

# What the released code does before the model; its release-format files say nothing about it.
OFFICIAL_IMAGE_SIZE = 224
OFFICIAL_WORDVEC_DIM = 300
# Width of the first convolution -> model of the released code.
_TRESNET_OF_WIDTH = {64: "tresnet_m", 76: "tresnet_l", 83: "tresnet_xl"}


@dataclass
class ModelConfig:
    """What :func:`src.models.create_model` needs, and how pictures are brought to its input size.

    Attributes:
        model_name: timm's name of the backbone.
        num_rows: M.
        wordvec_dim: D.
        image_size: side of the square that pictures are squashed to, in pixels.
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
        calibration: thresholds and probabilities fitted on labelled pictures, or None.
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
    return {"python": platform.python_version(), "torch": str(torch.__version__), "timm": str(timm.__version__)}


def save_checkpoint(path: str | Path, model: SDLModel, info: CheckpointInfo, *, half: bool = False) -> None:
    """Write this project's checkpoint, atomically.

    Args:
        path: the file.
        model: the model; InPlaceABN scales are stored as plain batch normalisation needs them.
        info: the rest; ``info.split`` is required; ``kind``, ``versions`` and ``space`` are filled in.
        half: store weight matrices and word vectors in half precision. Scales, biases and batch statistics stay
            float32: a running variance can exceed the range of half precision.

    Raises:
        UserError: the file cannot be written.
    """
    if info.split is None:
        raise ValueError("a checkpoint needs a split: labels without word vectors cannot be scored")

    def shrink(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu().contiguous()
        return tensor.half() if half and tensor.is_floating_point() and tensor.ndim >= 2 else tensor

    split = info.split
    content = {
        "format": FORMAT,
        "config": asdict(info.config),
        "state_dict": {key: shrink(tensor) for key, tensor in plain_state_dict(model).items()},
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
    with atomic_write(path) as stream:
        torch.save(content, stream)


def _space_of(split: ZeroShotSplit, extra_words: Sequence[str], extra_vectors: Tensor | None) -> Space:
    """Frequent words before labels: they are one word each, and nobody has given them another's vector."""
    vectors = [] if extra_vectors is None else [extra_vectors.float()]
    return space_of([*extra_words, *split.labels], torch.cat([*vectors, split.word_vectors], dim=1))


def save_with_calibration(source: str | Path, target: str | Path, calibration: Calibration) -> None:
    """Copy a checkpoint of this project, all else bit for bit as it is, with this calibration in it.

    Raises:
        UserError: ``source`` is no such checkpoint, or ``target`` cannot be written.
    """
    content = read_state_file(source)
    if content.get("format") != FORMAT:
        raise UserError(f"{source} is no checkpoint of this project, so it can hold no calibration")
    with atomic_write(target) as stream:
        torch.save({**content, "calibration": calibration.to_dict()}, stream)


def load_checkpoint(
    path: str | Path, *, model_name: str | None = None, num_rows: int | None = None, wordvec_dim: int | None = None
) -> tuple[SDLModel, CheckpointInfo]:
    """Load a checkpoint of this project or of the released code.

    The latter is a release file ``{'model', 'num_classes', 'idx_to_class'}`` or a bare state dict of its train.py.

    Weights load strictly. The files of the released code are converted from InPlaceABN's scales; their backbone is told
    by its width, and M and D by the head's size (D is 300 unless given).

    Args:
        path: the file.
        model_name, num_rows, wordvec_dim: what the caller expects; None takes what the file says.

    Returns:
        (the model in eval mode on the CPU, what else the file says).

    Raises:
        UserError: the file cannot be read, is of another kind, does not fit, or contradicts an expectation.
    """
    content = read_state_file(path)
    if content.get("format") == FORMAT:
        model, info = _load_own(content, path)
    elif "format" in content and "state_dict" in content:
        raise UserError(f"{path} has the format {content['format']!r}; this version reads {FORMAT!r}")
    else:
        model, info = _load_released(content, path, num_rows, wordvec_dim)
    for flag, expected, found in (
        ("--model-name", model_name, info.config.model_name),
        ("--num_rows", num_rows, info.config.num_rows),
        ("--wordvec_dim", wordvec_dim, info.config.wordvec_dim),
    ):
        if expected is not None and expected != found:
            raise UserError(
                f"{flag} {expected}: {path} holds a model with {found}; leave the flag out to use what the file says"
            )
    return model.eval(), info


def _load_own(content: Mapping[str, Any], path: str | Path) -> tuple[SDLModel, CheckpointInfo]:
    try:
        config = ModelConfig(**content["config"])
        stored = content["split"]
        split = make_split(
            stored["labels"],
            stored["seen"],
            stored["unseen"],
            stored["word_vectors"].float(),
            name=stored["name"],
            source=str(path),
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
        state = {
            key: tensor.float() if tensor.is_floating_point() else tensor
            for key, tensor in content["state_dict"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is an incomplete checkpoint of this project: {error}") from error
    lengths = {split.wordvec_dim, *(() if info.extra_vectors is None else info.extra_vectors.shape[:1])}
    if lengths != {config.wordvec_dim}:
        raise UserError(f"{path}: its word vectors have lengths {lengths}, its model has D = {config.wordvec_dim}")
    model = create_model(config.model_name, config.num_rows, config.wordvec_dim, image_size=config.image_size)
    load_strictly(model, state, path)
    return model, info


def _calibration_of(content: Mapping[str, Any], split: ZeroShotSplit) -> Calibration | None:
    stored = content.get("calibration")  # files from before calibrations have none
    if stored is None:
        return None
    calibration = Calibration.from_dict(stored)
    if len(calibration.thresholds) != len(split.labels):
        raise ValueError(f"its calibration has {len(calibration.thresholds)} labels, its split {len(split.labels)}")
    return calibration


def _load_released(
    content: Mapping[str, Any], path: str | Path, num_rows: int | None, wordvec_dim: int | None
) -> tuple[SDLModel, CheckpointInfo]:
    state = tensors_of(content, path)
    if not is_released_tresnet(state):
        raise UserError(
            f"{path} is neither a checkpoint of this project nor a TResNet of the released code (its first key "
            f"is {next(iter(state))})"
        )
    if "embedding.weight" not in state:
        raise UserError(
            f"{path} is a backbone without the principal-embedding head, which cannot tag; train a head first: "
            f"python train.py --model-path {path} --pretrain-backbone 1"
        )
    converted = convert_released_tresnet(state)
    width = len(converted["body.conv1.bn.weight"])
    if width not in _TRESNET_OF_WIDTH:
        raise UserError(f"{path}: no TResNet of the released code has a first layer of width {width}")
    outputs = len(state["embedding.weight"])
    dim = wordvec_dim or (outputs // num_rows if num_rows else OFFICIAL_WORDVEC_DIM)
    if outputs % dim:
        raise UserError(
            f"{path}: its head has {outputs} outputs, no multiple of the word-vector length {dim}; give "
            "--wordvec_dim or --num_rows"
        )
    is_release = "idx_to_class" in content
    config = ModelConfig(
        _TRESNET_OF_WIDTH[width],
        outputs // dim,
        dim,
        OFFICIAL_IMAGE_SIZE,
        # The released infer.py resizes with Pillow's default filter, train.py validates with torchvision's.
        interpolation="bicubic" if is_release else "bilinear",
    )
    model = create_model(config.model_name, config.num_rows, config.wordvec_dim)
    load_strictly(
        model,
        {name if name.startswith("embedding.") else f"backbone.{name}": tensor for name, tensor in converted.items()},
        path,
    )
    return model, CheckpointInfo("release" if is_release else "bare", config, labels=_labels_of(content, path))


def _labels_of(content: Mapping[str, Any], path: str | Path) -> tuple[str, ...]:
    """The label names of a release file by ascending index, whatever order the dict is in."""
    names = content.get("idx_to_class")
    if names is None:
        return ()
    try:
        by_index = {int(index): str(name) for index, name in names.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: idx_to_class is no dict from indices to names: {error}") from error
    if sorted(by_index) != list(range(len(by_index))):
        raise UserError(f"{path}: the indices of idx_to_class are not 0..{len(by_index) - 1}")
    return tuple(by_index[index] for index in range(len(by_index)))
