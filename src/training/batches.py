"""Two ways of feeding training: images, augmented anew in each epoch, or a frozen backbone's features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from src.data.dataset import ImageDataset, TrainingImages, TrainingLoader
from src.data.order import Portion
from src.data.parts import EvaluationSet, TrainingSet
from src.data.transforms import Transform
from src.embedding import Embedded, Reading, embed_images
from src.errors import UserError
from src.models import SDLModel
from src.models.sdl_model import freeze_batch_norm
from src.training.engine import TrainBatch
from src.training.feature_cache import FeatureSettings, cached_features, feature_key
from src.training.model_selection import Division
from src.utils.distributed import ALONE, first_goes_ahead

Part = Literal["test", "held"]  # the evaluation images, or the training images that are held back


class Feed(Protocol):
    """Batches to train on and embeddings to evaluate."""

    module: nn.Module  # what is trained: it maps the batches' inputs to embeddings [b, D*M]
    count: int  # images that can be trained on
    bad: tuple[str, ...]  # messages about training images that were left out from the start

    def batches(self, epoch: int, portions: Sequence[Portion]) -> Iterator[TrainBatch]:
        """These portions of an epoch; rows count from 0 to ``count``."""
        ...

    def names(self, rows: Tensor) -> list[str]:
        """The images behind these rows."""
        ...

    def embeddings(self, part: Part, module: nn.Module) -> Embedded:
        """The embeddings [n, D*M] that ``module`` or a copy of it gives; in the first process only."""
        ...

    def set_training(self) -> None:
        """Put the module into the mode in which it is trained."""
        ...


class ImageFeed:
    """Every epoch reads and augments the images; the whole model is trained.

    Args:
        model: what is trained.
        training, evaluation: the images.
        division: which training images are trained on.
        transforms: for training and for evaluation.
        reading: how.
        seed: of the augmentation.
        freeze_bn: train with the stored batch-norm statistics.
    """

    def __init__(
        self,
        model: SDLModel,
        training: TrainingSet,
        evaluation: EvaluationSet,
        division: Division,
        transforms: tuple[Transform, Transform],
        reading: Reading,
        *,
        seed: int,
        freeze_bn: bool = False,
    ) -> None:
        self.module: nn.Module = model
        self.bad: tuple[str, ...] = ()
        self.count = len(division.train_rows)
        self._freeze_bn = freeze_bn
        self._reading = reading
        self._targets = division.train_targets(training.targets).select_rows(division.train_rows)
        train_as, evaluate_as = transforms
        self._images = TrainingImages([training.paths[row] for row in division.train_rows.tolist()], train_as, seed)
        pin_memory = reading.device.type == "cuda"
        self._loader = TrainingLoader(self._images, workers=reading.workers, pin_memory=pin_memory)
        held = [training.paths[row] for row in division.held_rows.tolist()]
        self._parts = {"test": ImageDataset(evaluation.paths, evaluate_as), "held": ImageDataset(held, evaluate_as)}

    def batches(self, epoch: int, portions: Sequence[Portion]) -> Iterator[TrainBatch]:
        """These portions of an epoch; rows count from 0 to ``count``."""
        images = self._loader.batches(epoch, [portion.rows for portion in portions])
        for portion, batch in zip(portions, images, strict=True):
            if len(batch.rows) == 0:
                raise UserError(
                    f"--data: none of the {len(batch.bad)} training images tried for a batch can be read "
                    f"({batch.bad[0]})"
                )
            targets = self._targets.dense(batch.rows)
            yield TrainBatch(batch.images, targets, batch.rows, portion.weight, portion.ends_step, batch.bad)

    def names(self, rows: Tensor) -> list[str]:
        """The images behind these rows."""
        return [self._images.paths[row] for row in rows.tolist()]

    def embeddings(self, part: Part, module: nn.Module) -> Embedded:
        """The embeddings [n, D*M] that ``module`` or a copy of it gives; in the first process only."""
        module.eval()
        images = self._parts[part]
        embedded = embed_images(module, images, self._reading, "evaluating" if part == "test" else "choosing")
        if part == "test" and len(embedded.rows) == 0 and self._reading.processes.is_first:
            raise UserError(f"--data: none of the {len(images)} evaluation images can be read")
        return embedded

    def set_training(self) -> None:
        """Put the module into the mode in which it is trained."""
        self.module.train()
        if self._freeze_bn:
            freeze_batch_norm(self.module)


class FeatureFeed:
    """A frozen backbone: features are computed once, without augmentation, and only the head is trained.

    Args:
        model: whose head is trained.
        training, evaluation: the images.
        division: which training images are trained on.
        transform: for all of them.
        reading: how.
        cache: the folder that keeps the features.
        settings: of the features, for the name of the cached file.
    """

    def __init__(
        self,
        model: SDLModel,
        training: TrainingSet,
        evaluation: EvaluationSet,
        division: Division,
        transform: Transform,
        reading: Reading,
        *,
        cache: Path,
        settings: FeatureSettings,
    ) -> None:
        self.module: nn.Module = model.embedding
        self._reading = reading
        self._paths = training.paths
        model.eval()
        weights = model.backbone.state_dict()

        def features(paths: list[Path], kind: str) -> Embedded:
            dataset = ImageDataset(paths, transform)
            alone = replace(reading, processes=ALONE)

            def compute() -> Embedded:
                return embed_images(model.forward_features, dataset, alone, f"features of the {kind} images")

            key = feature_key(dataset.paths, weights, settings)
            found = cached_features(cache, key, (len(paths), model.num_features), compute)
            if len(found.rows) == 0:
                raise UserError(f"--data: none of the {len(paths)} {kind} images can be read")
            return found

        with first_goes_ahead(reading.processes):
            trained, tested = features(training.paths, "training"), features(evaluation.paths, "evaluation")
        self.bad = trained.bad
        self._parts = {"test": tested, "held": _chosen(trained, division.held_rows)}
        train = _chosen(trained, division.train_rows)
        self._features, self._rows = train.outputs, division.train_rows[train.rows]
        self._targets = division.train_targets(training.targets).select_rows(self._rows)
        self.count = len(self._rows)

    def batches(self, epoch: int, portions: Sequence[Portion]) -> Iterator[TrainBatch]:
        """These portions of an epoch; rows count from 0 to ``count``."""
        for portion in portions:
            rows = torch.tensor(portion.rows)
            yield TrainBatch(self._features[rows], self._targets.dense(rows), rows, portion.weight, portion.ends_step)

    def names(self, rows: Tensor) -> list[str]:
        """The images behind these rows."""
        return [str(self._paths[row]) for row in self._rows[rows].tolist()]

    @torch.inference_mode()
    def embeddings(self, part: Part, module: nn.Module) -> Embedded:
        """The embeddings [n, D*M] that ``module`` or a copy of it gives; in the first process only."""
        module.eval()
        features = self._parts[part]
        blocks = [module(block.to(self._reading.device)).cpu() for block in features.outputs.split(4096)]
        return features._replace(outputs=torch.cat(blocks))

    def set_training(self) -> None:
        """Put the module into the mode in which it is trained."""
        self.module.train()


def _chosen(features: Embedded, rows: Tensor) -> Embedded:
    """The features of some rows of a data set; the new rows are places in ``rows``, which ascend."""
    is_chosen = torch.isin(features.rows, rows)
    return Embedded(features.outputs[is_chosen], torch.searchsorted(rows, features.rows[is_chosen]), ())
