"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from src.choices import Images
from src.data.split import ZeroShotSplit


@dataclass(frozen=True, eq=False)
class RunReport:
    """A run, and one epoch's embeddings of the N evaluation images that could be read; tensors are on the CPU.

    Attributes:
        title: the page's heading.
        settings: flags and the like, by name, in the order in which they are listed.
        entries: the lines of ``log.jsonl``, one an epoch; none, and the page has no curves.
        split: the C labels.
        embeddings: [N, D*M].
        targets: [N, C] int8: 1 positive, 0 negative, -1 unknown.
        paths: the N images; one that is gone is said to be gone.
        images: the protocol of ``metrics``.
        metrics: of these embeddings, in percent, as :func:`src.metrics.zero_shot.zero_shot_report` gives them.
        chosen: one sentence: which epoch the embeddings are of, and what chose it.
        zero_shot_rows, generalized_rows: the images of each setting where a split lists them apart; None means all.

    Raises:
        ValueError: the sizes do not fit each other.
    """

    title: str
    settings: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]
    split: ZeroShotSplit
    embeddings: Tensor
    targets: Tensor
    paths: Sequence[Path]
    images: Images
    metrics: Mapping[str, float]
    chosen: str
    zero_shot_rows: Tensor | None = None
    generalized_rows: Tensor | None = None

    def __post_init__(self) -> None:
        images, labels, dim = len(self.paths), len(self.split.labels), self.split.wordvec_dim
        if self.targets.shape != (images, labels):
            raise ValueError(f"targets must be [N, C] = {(images, labels)}, got {tuple(self.targets.shape)}")
        shape = tuple(self.embeddings.shape)
        if len(shape) != 2 or shape[0] != images or shape[1] == 0 or shape[1] % dim:
            raise ValueError(f"embeddings must be [N, D*M] with N = {images} and D = {dim}, got {shape}")

    @property
    def num_rows(self) -> int:
        """M."""
        return self.embeddings.shape[1] // self.split.wordvec_dim
