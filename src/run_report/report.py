"""Content of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from src.data.labels import LabelMatrix
from src.data.parts import GroundTruth
from src.data.split import ZeroShotSplit
from src.metrics import Protocol


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One epoch's embeddings of the N evaluation images that could be read, and their evaluation; tensors on the CPU.

    Attributes:
        split: the C labels.
        paths: the N images, which need not exist any more.
        embeddings: [N, D*M].
        truth: targets [N, C] and the images of each setting.
        protocol: of ``metrics``.
        metrics: of these embeddings, in percent, as :func:`src.evaluation.evaluate` returns them.
    """

    split: ZeroShotSplit
    paths: Sequence[Path]
    embeddings: Tensor
    truth: GroundTruth
    protocol: Protocol
    metrics: Mapping[str, float]

    @property
    def num_vectors(self) -> int:
        """M, the number of principal vectors."""
        return self.embeddings.shape[1] // self.split.wordvec_dim

    def targets(self, rows: Tensor) -> Tensor:
        """Return the targets of some images, [len(rows), C]."""
        targets = self.truth.targets
        return targets.dense(rows) if isinstance(targets, LabelMatrix) else targets[rows]

    def marked(self, column: int) -> str:
        """Return the name of a label; between asterisks if it is unseen, as everywhere in the project."""
        name = self.split.labels[column]
        return f"*{name}*" if column in self.split.unseen else name


@dataclass(frozen=True, eq=False)
class RunReport:
    """A training run.

    Attributes:
        title: the page's heading.
        chosen: one sentence: the epoch of ``evaluated``, and how it was chosen.
        settings: flags and the like, by name, in the order in which they are listed.
        entries: the lines of ``log.jsonl``, one for each epoch. Without any the page has no curves.
        evaluated: the embeddings that the page examines.
    """

    title: str
    chosen: str
    settings: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]
    evaluated: Evaluated
