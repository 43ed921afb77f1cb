"""Tag images from Python: ``Tagger.load(path).tag(images)``. infer.py is a thin layer over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from src.calibration.thresholds import Calibration
from src.data.images import to_rgb
from src.data.split import ZeroShotSplit
from src.data.transforms import ImageTransform, eval_transform
from src.errors import UserError
from src.exported.engines import Embedder, open_model
from src.exported.session import ExportedModel
from src.inference.vocabulary import choose_labels
from src.options import (
    ANY_MODEL,
    DEFAULT_READING,
    DEFAULT_RUNTIME,
    OWN_LABELS,
    ExpectedModel,
    LabelOptions,
    Reading,
    Runtime,
    TagRule,
)
from src.scoring import score_labels, top_k_labels
from src.tags import Tag


class Tagger:
    """A model with the labels that it chooses from.

    Args:
        model: maps images in [0, 1] to embeddings: an :class:`src.models.SDLModel`, an exported model, or any callable.
        split: labels to choose from.
        transform: RGB image -> model input.
        calibration: thresholds and probabilities, or None.
        fitted_on: labels that the calibration was fitted on, if not those of ``split``.
        device: where to compute.

    Attributes:
        engine: ``torch``, ``onnx float32`` or ``onnx int8``.
        parallel_calls: number of threads that may call :meth:`embed` at the same time.
    """

    def __init__(
        self,
        model: Embedder,
        split: ZeroShotSplit,
        *,
        transform: ImageTransform,
        calibration: Calibration | None = None,
        fitted_on: ZeroShotSplit | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval() if isinstance(model, nn.Module) else model
        exported = model if isinstance(model, ExportedModel) else None
        self.engine = "torch" if exported is None else f"onnx {exported.facts.precision}"
        self.parallel_calls = 1 if exported is None else exported.parallel_calls
        self.split = split
        self.transform = transform
        self.calibration = calibration
        self._is_seen = torch.zeros(len(split.labels), dtype=torch.bool, device=self.device)
        self._is_seen[list(split.seen)] = True
        self._word_vectors = split.word_vectors.to(self.device)
        if calibration is not None:
            fitted_on = fitted_on or split
            self._fitted_seen = fitted_on.word_vectors[:, list(fitted_on.seen)].to(self.device)
            column_of = {label: column for column, label in enumerate(fitted_on.labels)}
            self._thresholds = calibration.threshold_of([column_of.get(label, -1) for label in split.labels])

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        labels: LabelOptions = OWN_LABELS,
        expected: ExpectedModel = ANY_MODEL,
        runtime: Runtime = DEFAULT_RUNTIME,
        exact: bool = False,
        reading: Reading = DEFAULT_READING,
    ) -> Tagger:
        """Load a checkpoint of this project or of the released code, or a file that export.py made of one.

        Args:
            path: the file.
            labels: labels to choose from, instead of or beside the checkpoint's.
            expected: properties that the model must have.
            runtime: engine, device and input size.
            exact: resize exactly as the released code does (see :mod:`src.data.transforms`).
            reading: limits of reading image files.

        Raises:
            UserError: a file cannot be read or does not fit, or own words have no vector.
        """
        model, info, _ = open_model(path, runtime, expected)
        config = info.config
        return cls(
            model,
            choose_labels(info, labels),
            transform=eval_transform(
                runtime.image_size or config.image_size, config.interpolation, exact=exact, reading=reading
            ),
            calibration=info.calibration,
            fitted_on=info.split,
            device=runtime.device,
        )

    def check(self, rule: TagRule) -> None:
        """Raise a :class:`UserError` if this tagger cannot apply ``rule``."""
        if rule.top_k is not None and not 1 <= rule.top_k <= len(self.split.labels):
            raise UserError(f"--top_k {rule.top_k}: must be from 1 to the number of labels, {len(self.split.labels)}")
        if self.calibration is None and rule.needs_calibration:
            raise UserError(
                f"{rule.needs_calibration}: the checkpoint has no calibration; add one with validate.py "
                "--fit-thresholds, or leave the flag out"
            )

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """Compute the embeddings [B, D*M] of transformed images [B, 3, S, S]."""
        return self.model(images.to(self.device)).float()

    def tag(
        self, images: Sequence[Image.Image], top_k: int | None = 10, *, rule: TagRule | None = None
    ) -> list[list[Tag]]:
        """Return the tags of each image, best first.

        Args:
            images: Pillow images of any mode; see :func:`src.data.images.read_image` for files.
            top_k: 1 to the number of labels.
            rule: replaces ``top_k``.

        Raises:
            UserError: ``top_k`` is out of range, or ``rule`` needs a calibration and there is none.
        """
        if not images:
            return []
        tensors = torch.stack([self.transform(to_rgb(image)) for image in images])
        return self.tag_tensors(tensors, top_k, rule=rule)

    @torch.inference_mode()
    def tag_tensors(self, images: Tensor, top_k: int | None = 10, *, rule: TagRule | None = None) -> list[list[Tag]]:
        """Tag transformed images [B, 3, S, S]; see :meth:`tag`."""
        rule = rule or TagRule(top_k)
        self.check(rule)
        return self.choose(self.embed(images), rule)

    def choose(self, embedding: Tensor, rule: TagRule) -> list[list[Tag]]:
        """Select the tags of each embedding [B, D*M] by ``rule``, best first.

        Raises:
            UserError: a score is not finite.
        """
        scores = score_labels(embedding, self._word_vectors)  # [B, C]
        if not scores.isfinite().all():
            raise UserError(
                "--model_path: gives scores that are not finite numbers; the checkpoint is damaged, or its training "
                "diverged: give another"
            )
        calibrated = self._calibrated(scores, embedding)
        # Of all labels, before some are selected: vectorised code rounds by place, so a label's probability would
        # otherwise depend on top_k
        probabilities = None if self.calibration is None else self.calibration.probability(calibrated)  # [B, C]
        bias = self._bias(rule)
        ranked = scores - bias * self._is_seen if bias else scores  # s_c - bias [c seen]
        most = scores.shape[1] if rule.top_k is None else rule.top_k
        if rule.threshold is not None:
            if rule.threshold == "fitted":
                above = calibrated > self._thresholds.to(self.device)  # float64: may lie just below a float32 score
            else:
                above = (scores if rule.scores == "raw" or probabilities is None else probabilities) > rule.threshold
            ranked = ranked.masked_fill(~above, -torch.inf)
            most = min(most, max([1, *above.sum(dim=1).tolist()]))
        best, columns = top_k_labels(ranked, most)
        return [
            [
                Tag(self.split.labels[column], score, not seen, probability)
                for kept, column, score, seen, probability in zip(*of_image, strict=True)
                if kept
            ]
            for of_image in zip(
                best.isfinite().tolist(),
                columns.tolist(),
                scores.gather(1, columns).tolist(),
                self._is_seen[columns].tolist(),
                [[None] * most] * len(scores) if probabilities is None else probabilities.gather(1, columns).tolist(),
                strict=True,
            )
        ]

    def _calibrated(self, scores: Tensor, embedding: Tensor) -> Tensor:
        """Make scores [B, C] comparable between images; without a calibration return them unchanged."""
        if self.calibration is None:
            return scores
        return self.calibration.calibrated(scores, score_labels(embedding, self._fitted_seen), self._is_seen)

    def _bias(self, rule: TagRule) -> float:
        """Return the number that seen labels lose in the ranking; ranking by probability implies the calibration's."""
        fitted = 0.0 if self.calibration is None else self.calibration.seen_bias
        if rule.seen_bias is None:
            return fitted if rule.scores == "probability" else 0.0
        return fitted if rule.seen_bias == "fitted" else rule.seen_bias

    def vectors_of(self, tags: Sequence[Tag]) -> Tensor:
        """Return the word vectors [D, K] of tags of this tagger."""
        column_of = {label: column for column, label in enumerate(self.split.labels)}
        return self._word_vectors[:, [column_of[tag.label] for tag in tags]]
