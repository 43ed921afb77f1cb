"""Settings of infer.py as dataclasses; free of PyTorch, so that infer.py starts fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from src.choices import ExpectedModel, OutputFormat, Runtime, Scores


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


OWN_LABELS = LabelOptions()


@dataclass(frozen=True)
class OutputOptions:
    """Outputs of infer.py; None leaves one out.

    Attributes:
        results: paths of the machine-readable outputs, by format.
        resume: continue the record of an earlier run.
        overwrite: drop the record of an interrupted run.
        html: path of the contact sheet.
        keywords: folder of image copies with keywords.
        folder: folder of annotated images and explanations.
        annotate: save annotated images; None does so unless there are many.
        explain: number of tags to explain per image.
        print_tags: print tags to standard output.
    """

    results: Mapping[OutputFormat, Path] = field(default_factory=dict)
    resume: bool = False
    overwrite: bool = False
    html: Path | None = None
    keywords: Path | None = None
    folder: Path = Path("outputs")
    annotate: bool | None = None
    explain: int | None = None
    print_tags: bool = True


@dataclass(frozen=True)
class InferSettings:
    """Everything that a run of infer.py depends on.

    Attributes:
        images: values of ``--pic_path``; see :func:`src.inference.input_paths.expand`.
        model_path: checkpoint or exported model.
        expected: properties that the model must have.
        runtime: engine, device and input size.
        exact: resize exactly as the released code does.
        num_threads: threads that PyTorch and ONNX Runtime compute with; None for PyTorch's default.
        labels: labels to choose tags from.
        rule: selection of tags. Without ``top_k`` and ``threshold``, the best ten.
        outputs: files to write.
        batch_size: images per forward pass.
        workers: threads that read images.
    """

    images: tuple[str, ...]
    model_path: Path
    expected: ExpectedModel
    runtime: Runtime
    exact: bool
    num_threads: int | None
    labels: LabelOptions
    rule: TagRule
    outputs: OutputOptions
    batch_size: int
    workers: int
