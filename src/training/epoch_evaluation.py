"""Evaluate the model after each epoch: on the evaluation images, and on those that select the best epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from src.config.train import SelectionSettings
from src.data.parts import EvaluationSet, GroundTruth
from src.data.split import ZeroShotSplit
from src.embedding import Embedded
from src.errors import NonFiniteRunError, UserError
from src.evaluation import evaluate
from src.metrics import Protocol
from src.scoring import score_labels, top_k_labels
from src.tags import Tag
from src.training.batches import BatchSource
from src.training.model_selection import TrainValSplit
from src.utils.distributed import Processes


class EpochMetrics(NamedTuple):
    """Evaluation of one set of weights.

    Attributes:
        metrics: on the evaluation images, in percent, such as ``zero_shot.F1@3``.
        criteria: values that select the best epoch, by name: ``zero_shot`` and ``generalized`` on the evaluation
            images, or ``seen`` or ``held-out`` on held-out training images.
        selection: the log's entry about held-out images: name, metric, value; empty if the evaluation images select.
        embedded: embeddings of the evaluation images.
    """

    metrics: dict[str, float]
    criteria: dict[str, float]
    selection: dict[str, Any]
    embedded: Embedded


@dataclass(frozen=True)
class EpochEvaluator:
    """Evaluate the model after each epoch.

    Attributes:
        source: computes the embeddings.
        train_val: the held-out images.
        evaluation: the evaluation images.
        split: labels of the evaluation images, without pseudo-unseen ones.
        settings: metric and protocol.
        device: where scores are computed.
        processes: the processes of the run; only the first one computes metrics.
    """

    source: BatchSource
    train_val: TrainValSplit
    evaluation: EvaluationSet
    split: ZeroShotSplit
    settings: SelectionSettings
    device: torch.device
    processes: Processes

    def __call__(self, module: nn.Module) -> EpochMetrics:
        """Evaluate ``module``; every process must call this, and all but the first get no metrics.

        Raises:
            NonFiniteRunError: the embeddings are not finite.
        """
        test = self.source.embeddings("test", module)
        val = self.source.embeddings("val", module) if len(self.train_val.val_rows) else None
        if not self.processes.is_first:
            return EpochMetrics({}, {}, {}, test)
        if not all(part.outputs.isfinite().all() for part in (test, val) if part is not None):
            raise NonFiniteRunError("the evaluation: the model gives embeddings that are not finite")
        metrics = self._evaluate(test, self.split, self.evaluation.ground_truth(test.rows))
        metric = self.settings.best_metric
        if val is None:
            values = {setting: _value(metrics, setting, metric) for setting in ("zero_shot", "generalized")}
            criteria = {setting: value for setting, value in values.items() if value is not None}
            return EpochMetrics(metrics, criteria, {}, test)
        name, value = self.settings.select_on, self._val_metric(val)
        return EpochMetrics(metrics, {name: value}, {"name": name, "metric": metric, "value": value}, test)

    def _evaluate(self, embedded: Embedded, split: ZeroShotSplit, truth: GroundTruth) -> dict[str, float]:
        return evaluate(embedded.outputs, split, truth, Protocol(images=self.settings.images), device=self.device)

    def _val_metric(self, embedded: Embedded) -> float:
        """Compute the metric on held-out training images: over pseudo-unseen labels if there are any, else seen ones.

        Raises:
            UserError: no image can be read, or there are fewer labels than the K of the metric.
        """
        if len(embedded.rows) == 0:
            raise UserError("--val-share: none of the held-out training images can be read")
        val = self.train_val.val
        report = self._evaluate(embedded, val.split, GroundTruth(val.targets.select_rows(embedded.rows)))
        setting = "zero_shot" if val.split.unseen else "generalized"
        value = _value(report, setting, self.settings.best_metric)
        if value is None:
            raise UserError(
                f"--best-metric {self.settings.best_metric}: there are too few labels to select on; choose another "
                "metric, or a larger --held-out-labels"
            )
        return value

    def samples(self, embedded: Embedded, count: int = 8, top_k: int = 5) -> tuple[list[Path], list[Sequence[Tag]]]:
        """Tag some evaluation images, evenly spaced: their files and best tags."""
        places = torch.linspace(0, len(embedded.rows) - 1, min(count, len(embedded.rows))).long()
        split = self.split
        scores = score_labels(embedded.outputs[places], split.word_vectors)
        best, columns = top_k_labels(scores, min(top_k, len(split.labels)))
        seen = set(split.seen)
        tags: list[Sequence[Tag]] = [
            [Tag(split.labels[column], score, column not in seen) for score, column in zip(*of_image, strict=True)]
            for of_image in zip(best.tolist(), columns.tolist(), strict=True)
        ]
        return [self.evaluation.paths[row] for row in embedded.rows[places].tolist()], tags


def _value(metrics: Mapping[str, float], setting: str, metric: str) -> float | None:
    """Return a metric of a setting, None without it. Where all labels are known, mAP_verified is mAP_skip."""
    found = metrics.get(f"{setting}.{metric}")
    return metrics.get(f"{setting}.mAP_skip") if found is None and metric == "mAP_verified" else found
