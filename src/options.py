"""Named choices, and groups of options that functions take and flags set.

Free of PyTorch, so that ``--help`` and mistakes in flags are answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Augmentation = Literal["randaugment", "torchvision", "none"]
DatasetKind = Literal["SDL", "COCO", "NUS_WIDE"]  # of a metadata folder
Device = Literal["auto", "cpu", "cuda"]
DistBN = Literal["reduce", "broadcast"]  # how batch-norm statistics become equal over processes
Engine = Literal["auto", "torch", "onnx"]
Images = Literal["positive-only", "all-images"]  # which images a metric counts, see src.metrics
Normalization = Literal["official", "paper"]  # scale of the loss
Optimizer = Literal["adam", "adamw"]
OutputFormat = Literal["json", "csv", "parquet"]  # of infer.py
Precision = Literal["float32", "bf16", "fp16"]
Schedule = Literal["one_cycle", "cosine", "constant"]
Scores = Literal["raw", "probability"]
SeenBias = Literal["labels", "gap"]  # how validate.py fits the bias of seen labels
Selection = Literal["test", "seen", "held-out"]  # images that select the best epoch
Truncated = Literal["refuse", "accept"]  # images that are cut short
Unknown = Literal["negative", "ignore"]  # how the loss treats an unknown label

MAX_INT = 2**31 - 1  # largest size or count that a flag takes

AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)
DATASET_KINDS: tuple[DatasetKind, ...] = get_args(DatasetKind)
DEVICES: tuple[Device, ...] = get_args(Device)
DIST_BNS: tuple[DistBN, ...] = get_args(DistBN)
ENGINES: tuple[Engine, ...] = get_args(Engine)
IMAGES: tuple[Images, ...] = get_args(Images)
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
SCORES: tuple[Scores, ...] = get_args(Scores)
SEEN_BIASES: tuple[SeenBias, ...] = get_args(SeenBias)
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
TRUNCATED: tuple[Truncated, ...] = get_args(Truncated)
UNKNOWNS: tuple[Unknown, ...] = get_args(Unknown)


@dataclass(frozen=True)
class Protocol:
    """Evaluation protocol. One model has different numbers under two protocols, so every table names its own.

    Attributes:
        ks: the K of P/R/F1@K.
        images: ``positive-only`` counts the images with at least one relevant positive label (the released code,
            DualCoOp, ML-Decoder); ``all-images`` counts every image (LESA, BiAM, Gen-MLZSL).
        threshold: also measure P/R/F1 of the labels that score above it; None: no such metrics.

    Raises:
        ValueError: a K is below 1, or ``images`` is not a known protocol.
    """

    ks: tuple[int, ...] = (3, 5)
    images: Images = "positive-only"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if any(k < 1 for k in self.ks):
            raise ValueError(f"k must be at least 1, got {min(self.ks)}")
        if self.images not in IMAGES:
            raise ValueError(f"images must be one of {IMAGES}, got {self.images!r}")


DEFAULT_PROTOCOL = Protocol()


@dataclass(frozen=True)
class FitOptions:
    """Fit of a calibration: ``--fit-thresholds``.

    Attributes:
        share: share of the images to fit on; the metrics are of the rest.
        seed: seed of the random division of the images.
        bias: what sets the bias of seen labels: the ``labels`` of the fitting images, unseen ones included, or the
            ``gap`` between the scores of both sides, which needs no ground truth of unseen labels.
    """

    share: float = 0.5
    seed: int = 0
    bias: SeenBias = "labels"


@dataclass(frozen=True)
class ExpectedModel:
    """The model that a file must hold; None accepts any value.

    Attributes:
        model_name: timm's name of the backbone.
        num_rows: M.
        wordvec_dim: D.
    """

    model_name: str | None = None
    num_rows: int | None = None
    wordvec_dim: int | None = None


@dataclass(frozen=True)
class Runtime:
    """Engine, device and input size to run a model with.

    Attributes:
        engine: PyTorch or ONNX Runtime; ``auto`` reports on standard error when it uses ONNX Runtime, or cannot.
        device: where PyTorch computes; ONNX Runtime always computes on the CPU.
        image_size: side of the model's input in pixels; None takes the file's.
        parallel_calls: see :class:`src.exported.session.ExportedModel`; PyTorch ignores it.
    """

    engine: Engine = "auto"
    device: str | torch.device = "cpu"
    image_size: int | None = None
    parallel_calls: int = 1


@dataclass(frozen=True)
class Reading:
    """Limits of reading images.

    Attributes:
        max_pixels: largest number of pixels of an image, after a JPEG is decoded at a smaller size; None takes Pillow's
            (178,956,970).
        truncated: whether an image that is cut short is refused, or taken as far as it can be decoded.
    """

    max_pixels: int | None = None
    truncated: Truncated = "refuse"


@dataclass(frozen=True)
class TagRule:
    """Rule that selects and orders the tags.

    Attributes:
        top_k: maximum number of tags; None keeps all that pass ``threshold``.
        threshold: score that a tag must exceed; ``fitted`` uses each label's own threshold from the calibration.
        scores: what ``threshold`` is compared with: ``raw`` scores or ``probability``.
        seen_bias: subtracted from the scores of seen labels when ranking (calibrated stacking, because training favours
            them); ``fitted`` uses the calibration's. None: the calibration's for probabilities, 0 for raw scores.
    """

    top_k: int | None = 10
    threshold: float | Literal["fitted"] | None = None
    scores: Scores = "raw"
    seen_bias: float | Literal["fitted"] | None = None

    @property
    def needs_calibration(self) -> str | None:
        """The flag that only works with a calibrated checkpoint, or None."""
        if self.threshold == "fitted":
            return "--threshold fitted"
        if self.scores == "probability":
            return "--scores probability"
        return "--seen_bias fitted" if self.seen_bias == "fitted" else None


@dataclass(frozen=True)
class LabelOptions:
    """Labels to choose tags from; the default is the checkpoint's own.

    Attributes:
        dataset_path: metadata folder whose labels replace the checkpoint's. Checkpoints of the released code need one
            (None: ``data/NUS_WIDE``).
        dataset_type: kind that the folder must have (``SDL``, ``COCO``, ``NUS_WIDE``); None detects it.
        tags: the user's own words, added to the labels.
        only_tags: use ``tags`` instead of the labels.
        word_vectors: source of the own words' vectors (see :func:`src.word_vectors.source.open_word_vectors`); None
            uses the words in the checkpoint.
    """

    dataset_path: str | Path | None = None
    dataset_type: str | None = None
    tags: Sequence[str] | None = None
    only_tags: bool = False
    word_vectors: str | Path | None = None


ANY_MODEL, DEFAULT_READING, DEFAULT_RUNTIME, OWN_LABELS = ExpectedModel(), Reading(), Runtime(), LabelOptions()
