"""Everything in a checkpoint of this project except its weights, as an object and as builtin containers."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from src.calibration.thresholds import Calibration
from src.checkpoint.form import numbers_of, plain_of, stored_form, stored_space
from src.checkpoint.further_words import read_vectors, read_words, stored_further_words
from src.data.split import ZeroShotSplit, make_split
from src.errors import UserError, first_line, name_some
from src.options import ExpectedModel
from src.word_vectors.space import Space, space_of

FORMAT = "sdl-checkpoint/1"


@dataclass
class ModelConfig:
    """Arguments of :func:`src.models.create_model`, and the resize filter for its images.

    Attributes:
        model_name: timm's name of the backbone.
        num_rows: M.
        wordvec_dim: D.
        image_size: side of the square that images are squashed to, in pixels.
        interpolation: Pillow's resize filter, ``bilinear`` or ``bicubic``.
        num_class_words: number of classes of the backbone's own classifier that the head knows as words.
    """

    model_name: str
    num_rows: int
    wordvec_dim: int
    image_size: int
    interpolation: str = "bilinear"
    num_class_words: int = 0

    def check(self, expected: ExpectedModel, path: str | Path) -> None:
        """Raise a :class:`UserError` if the model in ``path`` is not the expected one."""
        for flag, wanted, found in (
            ("--model-name", expected.model_name, self.model_name),
            ("--num_rows", expected.num_rows, self.num_rows),
            ("--wordvec_dim", expected.wordvec_dim, self.wordvec_dim),
        ):
            if wanted is not None and wanted != found:
                raise UserError(f"{flag} {wanted}: {path} holds a model with {found}; leave the flag out to use it")


@dataclass
class CheckpointInfo:
    """Everything in a checkpoint except its weights.

    Attributes:
        kind: ``sdl`` (this project's file), ``release`` or ``bare`` (the released code's two forms).
        config: configuration and preprocessing of the model.
        split: labels, seen, unseen and word vectors; None for the released code's files (``bare`` has no labels,
            ``release`` no word vectors).
        labels: label names in column order; empty for ``bare``.
        extra_words: further words; those of a list first, each part with the most frequent first.
        extra_vectors: their vectors [D, V] float32, or None.
        calibration: thresholds and probabilities fitted on labelled images, or None.
        space: fingerprint of the word-vector space, or None without word vectors.
        metrics: evaluation of the saved epoch, in percent.
        settings: flags, epoch and data paths of the run.
        versions: package versions of the run.
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
    """Return the versions of Python and of the packages that results depend on."""
    timm = importlib.metadata.version("timm")  # importing timm takes a second
    return {"python": platform.python_version(), "torch": str(torch.__version__), "timm": timm}


def info_to_dict(
    info: CheckpointInfo, *, dtype: torch.dtype = torch.float32, further: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Convert to tensors and builtin containers; :func:`info_of_dict` reads them back.

    Args:
        info: ``info.split`` is required; ``kind``, ``versions`` and a missing ``space`` are filled in.
        dtype: type of the labels' word vectors.
        further: type of the vectors of further words; ``torch.int8`` for :mod:`src.checkpoint.further_words`' form.
    """
    if info.split is None:
        raise ValueError("a checkpoint needs a split: labels without word vectors cannot be scored")
    split, words, vectors = info.split, info.extra_words, info.extra_vectors
    # Rounding changes signs, by which spaces are told apart: what was read is kept
    space = info.space or _space_of(split, words, vectors)
    return {
        "format": FORMAT,
        "config": asdict(info.config),
        "split": {
            "name": split.name,
            "labels": list(split.labels),
            "seen": list(split.seen),
            "unseen": list(split.unseen),
            "word_vectors": split.word_vectors.cpu().to(dtype).contiguous(),
        },
        **stored_further_words(words, vectors, further),
        "calibration": None if info.calibration is None else info.calibration.to_dict(),
        "space": asdict(space),
        "metrics": dict(info.metrics),
        "settings": dict(info.settings),
        "versions": package_versions(),
    }


def info_of_dict(content: Mapping[str, Any], source: str) -> CheckpointInfo:
    """Convert the result of :func:`info_to_dict` back; ``source`` names the file in error messages.

    Raises:
        UserError: an entry is missing, of another type, or does not fit the others.
    """
    try:
        stored = stored_form(content)
        calibration = None if stored.calibration is None else Calibration.from_dict(stored.calibration)
    except Exception as error:  # of many kinds: msgspec looks into tensors and other objects
        raise UserError(f"{source} is an incomplete checkpoint of this project: {first_line(error)}") from error
    config = ModelConfig(**msgspec.structs.asdict(stored.config))
    vectors = stored.split.word_vectors.float()
    split = make_split(**{**msgspec.structs.asdict(stored.split), "word_vectors": vectors}, source=source)
    words = read_words(stored.extra_words)
    extra = None if stored.extra_vectors is None else read_vectors(stored.extra_vectors, stored.extra_scales)
    lengths = {split.wordvec_dim, *(() if extra is None else extra.shape[:1])}
    if lengths != {config.wordvec_dim}:
        raise UserError(f"{source}: its word vectors have lengths {lengths}, its model has D = {config.wordvec_dim}")
    fitted = None if calibration is None else len(calibration.thresholds)
    if fitted not in (None, len(split.labels)):
        raise UserError(
            f"{source} is an incomplete checkpoint of this project: its calibration has {fitted} labels, its split "
            f"{len(split.labels)}"
        )
    space = stored_space(stored.space, split.wordvec_dim)
    return CheckpointInfo(
        kind="sdl",
        config=config,
        split=split,
        labels=split.labels,
        extra_words=words,
        extra_vectors=extra,
        calibration=calibration,
        space=_space_of(split, words, extra) if space is None else Space(space.dim, space.probes),
        metrics=numbers_of(stored.metrics),
        settings=plain_of(stored.settings),
        versions=plain_of(stored.versions),
    )


def _space_of(split: ZeroShotSplit, extra_words: Sequence[str], extra_vectors: Tensor | None) -> Space:
    """Compute the fingerprint, from frequent words first: labels can be several words, or have a stand-in's vector."""
    vectors = [] if extra_vectors is None else [extra_vectors.float()]
    return space_of([*extra_words, *split.labels], torch.cat([*vectors, split.word_vectors], dim=1))


def check_same_space(info: CheckpointInfo, split: ZeroShotSplit, source: str | Path) -> None:
    """Check that word vectors are those that the model was trained with; other ones give meaningless scores.

    The length must be the model's, and labels that the checkpoint has too must have the same vectors there (cosine of
    at least 0.99; storage in half precision stays far above).

    Raises:
        UserError: they are not.
    """
    if split.wordvec_dim != info.config.wordvec_dim:
        raise UserError(
            f"{source}: word vectors of length {split.wordvec_dim}, but the model was trained with length "
            f"{info.config.wordvec_dim}"
        )
    if info.split is None:
        return
    column_of = {label: column for column, label in enumerate(info.split.labels)}
    shared = [column for column, label in enumerate(split.labels) if label in column_of]
    theirs = info.split.word_vectors[:, [column_of[split.labels[column]] for column in shared]]
    cosine = torch.cosine_similarity(split.word_vectors[:, shared], theirs, dim=0)
    others = [split.labels[column] for column, match in zip(shared, cosine.tolist(), strict=True) if match < 0.99]
    if others:
        raise UserError(
            f"{source}: {len(others)} of {len(shared)} labels have other word vectors than the model was trained with "
            f"({name_some(others)}); use a folder made with the same word vectors"
        )
