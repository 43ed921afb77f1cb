"""Tags for images from Python: ``Tagger.load(path).tag(images)``. The scripts are thin layers over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from src.calibration.thresholds import Calibration
from src.checkpoint.info import ExpectedModel
from src.choices import Engine
from src.data.images import to_rgb
from src.data.split import ZeroShotSplit
from src.data.transforms import eval_transform
from src.errors import UserError
from src.exported.engines import Embedder, Runtime, open_model
from src.exported.session import ExportedModel
from src.inference.vocabulary import add_own_tags, labels_for
from src.scoring import score_labels, top_k_labels
from src.word_vectors.source import open_word_vectors


class Tag(NamedTuple):
    """A label of an image.

    Attributes:
        label: its name.
        score: see :func:`src.scoring.score_labels`.
        unseen: whether training did not see it. A label on neither side of a split (15 of COCO's 80) is unseen too.
        probability: of a right tag, or None where the checkpoint has no calibration.
    """

    label: str
    score: float
    unseen: bool
    probability: float | None = None

    @property
    def marked(self) -> str:
        """The label as the released code shows it: unseen ones between asterisks."""
        return f"*{self.label}*" if self.unseen else self.label

    def shown(self, scores: Literal["raw", "probability"], digits: int = 4) -> str:
        """The score, or the probability in percent."""
        if scores == "probability" and self.probability is not None:
            return f"{100 * self.probability:.{max(digits - 3, 0)}f}%"
        return f"{self.score:.{digits}f}"


@dataclass(frozen=True)
class TagRule:
    """Which labels become tags, and in which order.

    Attributes:
        top_k: at most this many; None: all that ``threshold`` leaves.
        threshold: only labels above it; ``fitted``: above each label's own threshold in the checkpoint's calibration.
        scores: what ``threshold`` is about: ``raw`` scores or ``probability``.
        seen_bias: is subtracted from the scores of seen labels when ranking (calibrated stacking: training favours
            them); ``fitted``: the calibration's. None: that for probabilities, 0 for raw scores.
    """

    top_k: int | None = 10
    threshold: float | Literal["fitted"] | None = None
    scores: Literal["raw", "probability"] = "raw"
    seen_bias: float | Literal["fitted"] | None = None

    @property
    def needs_calibration(self) -> str | None:
        """The flag that only works with a calibrated checkpoint, or None."""
        if self.threshold == "fitted":
            return "--threshold fitted"
        if self.scores == "probability":
            return "--scores probability"
        return "--seen_bias fitted" if self.seen_bias == "fitted" else None


class Tagger:
    """A model with the labels it can give.

    Args:
        model: maps images in [0, 1] to embeddings: an :class:`src.models.SDLModel`, an exported model, or any other
            callable that does.
        split: the labels to choose from.
        image_size, interpolation: how images are brought to the model's input.
        calibration: thresholds and probabilities, or None.
        fitted_on: the labels that the calibration was fitted on, if they are not those of ``split``.
        device: where to compute.
        engine: what ``model`` computes with: ``torch``, ``onnx float32`` or ``onnx int8``.
        exact_pictures: resize as the released code does, to the bit (see :mod:`src.data.transforms`).

    Attributes:
        calls_at_once: how many threads may call :meth:`embed` at a time to good effect.
    """

    def __init__(
        self,
        model: Embedder,
        split: ZeroShotSplit,
        *,
        image_size: int,
        interpolation: str = "bilinear",
        calibration: Calibration | None = None,
        fitted_on: ZeroShotSplit | None = None,
        device: str | torch.device = "cpu",
        engine: str = "torch",
        exact_pictures: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.engine = engine
        self.model = model.to(self.device).eval() if isinstance(model, nn.Module) else model
        self.calls_at_once = model.calls_at_once if isinstance(model, ExportedModel) else 1
        self.split = split
        self.image_size = image_size
        self.transform = eval_transform(image_size, interpolation, exact=exact_pictures)
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
        dataset_path: str | Path | None = None,
        dataset_type: str | None = None,
        model_name: str | None = None,
        num_rows: int | None = None,
        wordvec_dim: int | None = None,
        image_size: int | None = None,
        device: str | torch.device = "cpu",
        tags: Sequence[str] | None = None,
        only_tags: bool = False,
        word_vectors: str | Path | None = None,
        engine: Engine = "auto",
        exact_pictures: bool = False,
        calls_at_once: int = 1,
    ) -> Tagger:
        """Load a checkpoint of this project or of the released code, or a file that export.py made of one.

        Args:
            path: the file.
            dataset_path: a metadata folder whose labels are used instead of the checkpoint's; the released code's
                checkpoints need one (``data/NUS_WIDE`` if it is not given).
            dataset_type: which kind of folder that must be (``SDL``, ``COCO``, ``NUS_WIDE``); None recognises it.
            model_name, num_rows, wordvec_dim: what the checkpoint must hold; None takes what it says.
            image_size: side of the model's input in pixels; None takes what the checkpoint says.
            device: where to compute.
            tags: own words to choose from as well, or, with ``only_tags``, instead.
            word_vectors: where own words have their vectors (see
                :func:`src.word_vectors.source.open_word_vectors`); None: the words that the checkpoint carries.
            engine: PyTorch or ONNX Runtime, see :func:`src.exported.engines.open_model`.
            exact_pictures: resize as the released code does, to the bit.
            calls_at_once: how many threads will call :meth:`embed` at a time. With ONNX Runtime each call then has its
                share of the threads, which gets more images done; PyTorch is to be called by one.

        Raises:
            UserError: a file cannot be read or does not fit, or own words have no vector.
        """
        runtime = Runtime(engine, device, image_size, calls_at_once)
        model, info, used = open_model(path, runtime, ExpectedModel(model_name, num_rows, wordvec_dim))
        split = labels_for(info, dataset_path, dataset_type)
        if tags is not None:
            source = None if word_vectors is None else open_word_vectors(word_vectors, flag="--word_vectors")
            split = add_own_tags(split, info, tags, source=source, only=only_tags)
        return cls(
            model,
            split,
            image_size=image_size or info.config.image_size,
            interpolation=info.config.interpolation,
            calibration=info.calibration,
            fitted_on=info.split,
            device=device,
            engine=used,
            exact_pictures=exact_pictures,
        )

    def check(self, rule: TagRule) -> None:
        """Raise :class:`UserError` where this tagger cannot follow ``rule``."""
        if rule.top_k is not None and not 1 <= rule.top_k <= len(self.split.labels):
            raise UserError(f"--top_k {rule.top_k}: must be from 1 to the number of labels, {len(self.split.labels)}")
        if self.calibration is None and rule.needs_calibration:
            raise UserError(
                f"{rule.needs_calibration}: the checkpoint has no calibration; make one that has with validate.py "
                "--fit-thresholds, or leave the flag out"
            )

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """Transformed images [B, 3, S, S] -> embeddings [B, D*M]."""
        return self.model(images.to(self.device)).float()

    def tag(
        self, images: Sequence[Image.Image], top_k: int | None = 10, *, rule: TagRule | None = None
    ) -> list[list[Tag]]:
        """The best labels of every image, best first.

        Args:
            images: Pillow images of any mode; see :func:`src.data.images.read_image` for files.
            top_k: 1 to the number of labels.
            rule: which labels, instead of the ``top_k`` best.

        Raises:
            UserError: ``top_k`` is out of range, or ``rule`` needs a calibration that is not there.
        """
        if not images:
            return []
        tensors = torch.stack([self.transform(to_rgb(image)) for image in images])
        return self.tag_tensors(tensors, top_k, rule=rule)

    @torch.inference_mode()
    def tag_tensors(self, images: Tensor, top_k: int | None = 10, *, rule: TagRule | None = None) -> list[list[Tag]]:
        """As :meth:`tag`, for images that :attr:`transform` has made into [B, 3, S, S]."""
        rule = rule or TagRule(top_k)
        self.check(rule)
        return self.choose(self.embed(images), rule)

    def choose(self, embedding: Tensor, rule: TagRule) -> list[list[Tag]]:
        """Embeddings [B, D*M] -> the tags of every image by ``rule``, best first."""
        scores = score_labels(embedding, self._word_vectors)  # [B, C]
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
        """Scores that can be compared between images; the scores themselves without a calibration."""
        if self.calibration is None:
            return scores
        return self.calibration.calibrated(scores, score_labels(embedding, self._fitted_seen), self._is_seen)

    def _bias(self, rule: TagRule) -> float:
        """What seen labels lose in the ranking. Probabilities rank as calibrated scores do, which have it taken off."""
        fitted = 0.0 if self.calibration is None else self.calibration.seen_bias
        if rule.seen_bias is None:
            return fitted if rule.scores == "probability" else 0.0
        return fitted if rule.seen_bias == "fitted" else rule.seen_bias

    def vectors_of(self, tags: Sequence[Tag]) -> Tensor:
        """The word vectors [D, K] of tags that this tagger gave."""
        column_of = {label: column for column, label in enumerate(self.split.labels)}
        return self._word_vectors[:, [column_of[tag.label] for tag in tags]]
