"""Labels to choose tags from and rule to choose them by; free of PyTorch, so that infer.py starts fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.choices import Scores


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
