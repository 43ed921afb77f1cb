"""What an epoch's weights are worth: on the evaluation images, and on those that choose the best epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from src.choices import Images
from src.data.parts import EvaluationSet, GroundTruth, TrainingSet
from src.data.split import ZeroShotSplit
from src.embedding import Embedded
from src.errors import NonFiniteRunError, UserError
from src.evaluation import evaluate
from src.inference.tagger import Tag
from src.metrics import Protocol
from src.scoring import score_labels, top_k_labels
from src.training.batches import Feed
from src.training.model_selection import Division

SETTINGS = ("zero_shot", "generalized")


class Verdict(NamedTuple):
    """What some weights are worth.

    Attributes:
        metrics: on the evaluation images, in percent, such as ``zero_shot.F1@3``.
        choices: what the best epoch is chosen by -> its value: ``zero_shot`` and ``generalized`` on the evaluation
            images, or ``seen`` or ``held-out`` on held-back training images.
        selection: the name, the metric, and the value that chooses on held-back images; empty where the evaluation
            images choose.
        embedded: the embeddings of the evaluation images, and messages about those that could not be read.
    """

    metrics: dict[str, float]
    choices: dict[str, float]
    selection: dict[str, Any]
    embedded: Embedded


@dataclass(frozen=True)
class Judge:
    """Evaluates weights; only the first of several processes gets a verdict, but all must ask.

    Attributes:
        feed: gives the embeddings.
        training, evaluation: the labels of the images.
        division: what chooses.
        split: of the metadata folder.
        metric: such as ``F1@3``.
        images: which images count.
        device: where scores are computed.
        is_first: whether this process computes metrics.
    """

    feed: Feed
    training: TrainingSet
    evaluation: EvaluationSet
    division: Division
    split: ZeroShotSplit
    metric: str
    images: Images
    device: torch.device
    is_first: bool = True

    def __call__(self, module: nn.Module) -> Verdict:
        """The worth of ``module``'s weights.

        Raises:
            NonFiniteRunError: they give embeddings that are not finite.
        """
        embedded = self.feed.embeddings("test", module)
        held = self.feed.embeddings("held", module) if len(self.division.held_rows) else None
        if not self.is_first:
            return Verdict({}, {}, {}, embedded)
        if not all(part.outputs.isfinite().all() for part in (embedded, held) if part is not None):
            raise NonFiniteRunError("the evaluation: the weights give embeddings that are not finite")
        metrics = self._test_metrics(embedded)
        if held is None:
            choices = {
                setting: metrics[f"{setting}.{self.metric}"]
                for setting in SETTINGS
                if f"{setting}.{self.metric}" in metrics
            }
            return Verdict(metrics, choices, {}, embedded)
        name, value = str(self.division.select_on), self._held_value(held)
        selection = {"name": name, "metric": self.metric, "value": value}
        return Verdict(metrics, {name: value}, selection, embedded)

    def _test_metrics(self, embedded: Embedded) -> dict[str, float]:
        split = self.division.trained_split(self.split)
        truth = self.evaluation.ground_truth(embedded.rows)
        return evaluate(embedded.outputs, split, truth, Protocol(images=self.images), device=self.device)

    def _held_value(self, held: Embedded) -> float:
        """The metric over seen labels, or over those that pose as unseen, on the held-back training images.

        Raises:
            UserError: none of them can be read, or there are fewer labels than the metric's K.
        """
        if len(held.rows) == 0:
            raise UserError("--val-share: none of the training images that are held back can be read")
        split = replace(self.training.split, seen=self.division.columns, unseen=self.division.posing)
        truth = GroundTruth(self.training.targets.select_rows(self.division.held_rows[held.rows]))
        report = evaluate(held.outputs, split, truth, Protocol(images=self.images), device=self.device)
        key = f"{self.division.setting}.{self.metric}"
        if key not in report:
            raise UserError(
                f"--best-metric {self.metric}: there are fewer labels to choose on than that; give another one, or a "
                "larger --held-out-labels"
            )
        return report[key]

    def samples(self, embedded: Embedded, count: int = 8, top_k: int = 5) -> tuple[list[Path], list[list[Tag]]]:
        """Some evaluation images, spread over all of them, and their best tags."""
        places = torch.linspace(0, len(embedded.rows) - 1, min(count, len(embedded.rows))).long()
        split = self.division.trained_split(self.split)
        k = min(top_k, len(split.labels))
        best, columns = top_k_labels(score_labels(embedded.outputs[places], split.word_vectors), k)
        seen = set(split.seen)
        tags = [
            [Tag(split.labels[column], score, column not in seen) for score, column in zip(*of_image, strict=True)]
            for of_image in zip(best.tolist(), columns.tolist(), strict=True)
        ]
        return [self.evaluation.paths[row] for row in embedded.rows[places].tolist()], tags
