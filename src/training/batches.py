"""Sources of training batches: images, augmented in each epoch, or cached features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from src.data.dataset import ImageDataset, TrainingImages, TrainingLoader
from src.data.order import MicroBatch
from src.data.parts import EvaluationSet
from src.data.transforms import Transform
from src.embedding import Embedded, LoaderConfig, embed_images
from src.errors import UserError
from src.models import SDLModel
from src.models.sdl_model import freeze_batch_norm
from src.training.engine import TrainBatch
from src.training.feature_cache import FeatureSettings, cached_features, feature_key
from src.training.model_selection import TrainValSplit
from src.utils.distributed import ALONE, first_goes_ahead

Part = Literal["test", "val"]  # the evaluation images, or the held-out training images


@dataclass(frozen=True)
class ImageOptions:
    """Transforms and augmentation seed of the training images.

    Attributes:
        train_transform, eval_transform: from an image to the input of the model.
        seed: of the augmentation.
        freeze_bn: train with the stored batch-norm statistics.
    """

    train_transform: Transform
    eval_transform: Transform
    seed: int = 0
    freeze_bn: bool = False


class ImageBatches:
    """Read and augment the images in every epoch, to train the whole model.

    Attributes:
        module: is trained; it maps the inputs of the batches to embeddings [b, D*M].
        count: number of images to train on.
        bad: messages about unreadable training images that are left out; here they are replaced instead.
    """

    def __init__(
        self,
        model: SDLModel,
        split: TrainValSplit,
        evaluation: EvaluationSet,
        options: ImageOptions,
        loader: LoaderConfig,
    ) -> None:
        self.module: nn.Module = model
        self.bad: tuple[str, ...] = ()
        self.count = len(split.train.paths)
        self._freeze_bn, self._loader_config, self._targets = options.freeze_bn, loader, split.train.targets
        self._images = TrainingImages(split.train.paths, options.train_transform, options.seed)
        pin_memory = loader.device.type == "cuda"
        self._loader = TrainingLoader(self._images, workers=loader.workers, pin_memory=pin_memory)
        self._parts = {
            "test": ImageDataset(evaluation.paths, options.eval_transform),
            "val": ImageDataset(split.val.paths, options.eval_transform),
        }

    def batches(self, epoch: int, micro_batches: Sequence[MicroBatch]) -> Iterator[TrainBatch]:
        """Load these micro-batches of an epoch; their rows count from 0 to ``count``."""
        images = self._loader.batches(epoch, [micro_batch.rows for micro_batch in micro_batches])
        for micro_batch, batch in zip(micro_batches, images, strict=True):
            if len(batch.rows) == 0:
                raise UserError(
                    f"--data: none of the {len(batch.bad)} training images tried for a batch can be read "
                    f"({batch.bad[0]})"
                )
            targets = self._targets.dense(batch.rows)
            yield TrainBatch(
                batch.images, targets, batch.rows, micro_batch.weight, micro_batch.ends_step, batch.bad
            )  # fmt: skip

    def names(self, rows: Tensor) -> list[str]:
        """Return the image files of these rows."""
        return [self._images.paths[row] for row in rows.tolist()]

    def embeddings(self, part: Part, module: nn.Module) -> Embedded:
        """Compute embeddings [n, D*M] with ``module`` or a copy of it; only the first process gets all of them."""
        module.eval()
        images, title = self._parts[part], "evaluation" if part == "test" else "selection"
        embedded = embed_images(module, images, self._loader_config, title)
        if part == "test" and len(embedded.rows) == 0 and self._loader_config.processes.is_first:
            raise UserError(f"--data: none of the {len(images)} evaluation images can be read")
        return embedded

    def set_training(self) -> None:
        """Put the module into training mode, but for frozen batch norms."""
        self.module.train()
        if self._freeze_bn:
            freeze_batch_norm(self.module)


@dataclass(frozen=True)
class FeatureOptions:
    """Transform and cache of the features of a frozen backbone.

    Attributes:
        transform: from an image to the input of the model, for all images.
        cache: folder of the features.
        settings: of the features, for their names in the cache.
    """

    transform: Transform
    cache: Path
    settings: FeatureSettings


class FeatureBatches:
    """Compute the features of a frozen backbone once, without augmentation, to train only the head.

    Attributes and methods are those of :class:`ImageBatches`.
    """

    def __init__(
        self,
        model: SDLModel,
        split: TrainValSplit,
        evaluation: EvaluationSet,
        options: FeatureOptions,
        loader: LoaderConfig,
    ) -> None:
        self.module: nn.Module = model.embedding
        self._device = loader.device
        model.eval()
        with first_goes_ahead(loader.processes):
            train = _features(model, split.all.paths, "training", options, loader)
            test = _features(model, evaluation.paths, "evaluation", options, loader)
        self.bad = train.bad
        self._parts = {"test": test, "val": _select(train, split.val_rows)}
        train = _select(train, split.train_rows)
        readable = split.train.select_rows(train.rows)
        self._features, self._paths, self._targets = train.outputs, readable.paths, readable.targets
        self.count = len(self._paths)

    def batches(self, epoch: int, micro_batches: Sequence[MicroBatch]) -> Iterator[TrainBatch]:
        """Load these micro-batches of an epoch; their rows count from 0 to ``count``."""
        for batch in micro_batches:
            rows = torch.tensor(batch.rows)
            yield TrainBatch(self._features[rows], self._targets.dense(rows), rows, batch.weight, batch.ends_step)

    def names(self, rows: Tensor) -> list[str]:
        """Return the image files of these rows."""
        return [str(self._paths[row]) for row in rows.tolist()]

    @torch.inference_mode()
    def embeddings(self, part: Part, module: nn.Module) -> Embedded:
        """Compute embeddings [n, D*M] with ``module`` or a copy of it, in every process."""
        module.eval()
        features = self._parts[part]
        blocks = [module(block.to(self._device)).cpu() for block in features.outputs.split(4096)]
        return features._replace(outputs=torch.cat(blocks))

    def set_training(self) -> None:
        """Put the module into training mode."""
        self.module.train()


BatchSource = ImageBatches | FeatureBatches


def _features(model: SDLModel, paths: list[Path], kind: str, options: FeatureOptions, loader: LoaderConfig) -> Embedded:
    """Read the features of some images from the cache, or compute them in this process alone."""
    images = ImageDataset(paths, options.transform)
    key = feature_key(images.paths, model.backbone.state_dict(), options.settings)

    def compute() -> Embedded:
        title = f"features of the {kind} images"
        return embed_images(model.forward_features, images, replace(loader, processes=ALONE), title)

    found = cached_features(options.cache, key, len(paths), model.embedding.in_features, compute)
    if len(found.rows) == 0:
        raise UserError(f"--data: none of the {len(paths)} {kind} images can be read")
    return found


def _select(features: Embedded, rows: Tensor) -> Embedded:
    """Select the features of some rows, which ascend; the new rows are indices into ``rows``."""
    is_selected = torch.isin(features.rows, rows)
    return Embedded(features.outputs[is_selected], torch.searchsorted(rows, features.rows[is_selected]), ())
