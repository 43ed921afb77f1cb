"""What train.py wires together: the model to start from and the two ways of feeding it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from src.checkpoint import FORMAT, CheckpointInfo, load_checkpoint
from src.data.dataset import PictureDataset, picture_loader
from src.data.parts import EvaluationSet, TrainingSet
from src.data.transforms import Transform
from src.engine import TrainBatch, feature_batches, picture_batches
from src.errors import UserError
from src.evaluation import Embedded, embed
from src.feature_cache import cached_features, feature_key
from src.models import SDLModel, create_model
from src.models.backbones import find_backbone_weights, load_backbone
from src.models.sdl_model import freeze_batch_norm
from src.models.state_files import load_strictly, read_state_file, tensors_of


@dataclass(frozen=True)
class LoaderOptions:
    """How pictures are read: batch size, reading processes, seed of order and augmentation, pinned memory."""

    batch_size: int
    workers: int
    seed: int | None
    pin_memory: bool


def starting_model(
    model_path: str,
    *,
    model_name: str | None,
    num_rows: int | None,
    wordvec_dim: int,
    image_size: int,
    pretrain_backbone: int | None = None,
    num_classes: int | None = None,
) -> tuple[SDLModel, str, CheckpointInfo | None]:
    """The model that training starts from.

    Args:
        model_path: a file, or ``auto`` (installed or local ImageNet weights), ``timm`` (download), ``none`` (random
            weights).
        model_name: the backbone; None takes that of an SDL checkpoint, else ``tresnet_m``.
        num_rows: M; None takes that of an SDL checkpoint, else 2 (the released COCO script).
        wordvec_dim: D of the data.
        image_size: side of the input in pixels.
        pretrain_backbone: 1: the file gives a backbone, the head is fresh; 0: the file is an SDL model that training
            continues; None tells from the file.
        num_classes: what the classifier of a backbone file must have.

    Returns:
        (model, name of its backbone, what the SDL checkpoint says or None).

    Raises:
        UserError: the file is missing, does not fit, or contradicts the flags.
    """
    is_sdl = model_path not in ("auto", "timm", "none") and _holds_head(model_path)
    if pretrain_backbone == 0 and not is_sdl:
        raise UserError(
            f"--pretrain-backbone 0: {model_path} is no SDL model; use --pretrain-backbone 1 to put a fresh head "
            "on a backbone"
        )
    if num_classes is not None and (is_sdl or model_path in ("timm", "none")):
        raise UserError(
            f"--num-classes {num_classes}: --model-path {model_path} has no classifier to check; leave the flag out"
        )
    if is_sdl and pretrain_backbone != 1:
        model, info = load_checkpoint(model_path, model_name=model_name, num_rows=num_rows, wordvec_dim=wordvec_dim)
        return model, info.config.model_name, info
    if is_sdl:
        source, info = load_checkpoint(model_path, model_name=model_name)
        name, rows = info.config.model_name, num_rows or info.config.num_rows
        model = create_model(name, rows, wordvec_dim, image_size=image_size)
        load_strictly(model.backbone, source.backbone.state_dict(), model_path)  # made for one size, it may not fit
        return model, name, None
    name = model_name or "tresnet_m"
    model = create_model(name, num_rows or 2, wordvec_dim, image_size=image_size, pretrained=model_path == "timm")
    if model_path not in ("timm", "none"):
        load_backbone(model, name, find_backbone_weights(name) if model_path == "auto" else model_path, num_classes)
    return model, name, None


def _holds_head(path: str) -> bool:
    content = read_state_file(path)
    return content.get("format") == FORMAT or "embedding.weight" in tensors_of(content, path)


class Feed(Protocol):
    """Batches to train on and embeddings to evaluate."""

    module: nn.Module  # what is trained: it maps the batches' inputs to embeddings [b, D*M]
    steps: int  # batches an epoch

    def batches(self) -> Iterator[TrainBatch]:
        """One epoch of training batches."""
        ...

    def embeddings(self) -> Embedded:
        """The evaluation pictures' embeddings [n, D*M]."""
        ...

    def set_training(self) -> None:
        """Put the module into the mode in which it is trained."""
        ...


class PictureFeed:
    """Every epoch reads and augments the pictures; the whole model is trained."""

    def __init__(
        self,
        model: SDLModel,
        training: TrainingSet,
        evaluation: EvaluationSet,
        transforms: tuple[Transform, Transform],
        options: LoaderOptions,
        device: torch.device,
        autocast: bool,
        freeze_bn: bool = False,
    ) -> None:
        self.module = model
        self._freeze_bn = freeze_bn
        self._targets = training.targets
        self._device, self._autocast = device, autocast
        train_set, self._eval_set = (
            PictureDataset(paths, transform)
            for paths, transform in zip((training.paths, evaluation.paths), transforms, strict=True)
        )
        self._train_loader = picture_loader(
            train_set,
            batch_size=options.batch_size,
            workers=options.workers,
            shuffle=True,
            seed=options.seed,
            pin_memory=options.pin_memory,
        )
        self._eval_loader = picture_loader(
            self._eval_set, batch_size=options.batch_size, workers=options.workers, pin_memory=options.pin_memory
        )
        self.steps = len(self._train_loader)

    def batches(self) -> Iterator[TrainBatch]:
        """One epoch of training batches."""
        return picture_batches(self._train_loader, self._targets.dense)

    def embeddings(self) -> Embedded:
        """The evaluation pictures' embeddings [n, D*M]."""
        self.module.eval()
        with progress(len(self._eval_set), "evaluating") as advance:
            embedded = embed(
                self.module, self._eval_loader, device=self._device, autocast=self._autocast, on_batch=advance
            )
        if len(embedded.rows) == 0:
            raise UserError(f"--data: none of the {len(self._eval_set)} evaluation pictures can be read")
        return embedded

    def set_training(self) -> None:
        """Put the module into the mode in which it is trained."""
        self.module.train()
        if self._freeze_bn:
            freeze_batch_norm(self.module)


class FeatureFeed:
    """A frozen backbone: features are computed once, without augmentation, and only the head is trained.

    ``facts`` are what the features depend on beside pictures, weights and precision: they name the cached file.
    """

    def __init__(
        self,
        model: SDLModel,
        training: TrainingSet,
        evaluation: EvaluationSet,
        transform: Transform,
        options: LoaderOptions,
        device: torch.device,
        autocast: bool,
        cache: Path,
        facts: tuple[object, ...],
    ) -> None:
        self.module = model.embedding
        self._device = device
        model.eval()

        def features(paths: list[Path], title: str) -> Embedded:
            dataset = PictureDataset(paths, transform)
            loader = picture_loader(
                dataset, batch_size=options.batch_size, workers=options.workers, pin_memory=options.pin_memory
            )

            def compute() -> Embedded:
                with progress(len(dataset), f"features of the {title} pictures") as advance:
                    return embed(model.forward_features, loader, device=device, autocast=autocast, on_batch=advance)

            return cached_features(
                cache, feature_key(dataset.paths, model.backbone.state_dict(), (*facts, autocast)), compute
            )

        trained, self._evaluated = features(training.paths, "training"), features(evaluation.paths, "evaluation")
        self._features, self._targets, self._bad = (
            trained.outputs,
            training.targets.select_rows(trained.rows),
            trained.bad,
        )
        for kind, found, paths in (
            ("training", trained, training.paths),
            ("evaluation", self._evaluated, evaluation.paths),
        ):
            if len(found.rows) == 0:
                raise UserError(f"--data: none of the {len(paths)} {kind} pictures can be read")
        self._batch_size = options.batch_size
        self._generator = torch.Generator()
        self._generator.manual_seed(options.seed) if options.seed is not None else self._generator.seed()
        self.steps = -(-len(self._features) // options.batch_size)

    def batches(self) -> Iterator[TrainBatch]:
        """One epoch of training batches."""
        if self._bad:
            yield TrainBatch(self._features[:0], self._targets.dense(torch.empty(0, dtype=torch.int64)), self._bad)
        yield from feature_batches(self._features, self._targets.dense, self._batch_size, self._generator)

    @torch.inference_mode()
    def embeddings(self) -> Embedded:
        """The evaluation pictures' embeddings [n, D*M]."""
        parts = [self.module(part.to(self._device)).cpu() for part in self._evaluated.outputs.split(4096)]
        return self._evaluated._replace(outputs=torch.cat(parts))

    def set_training(self) -> None:
        """Put the module into the mode in which it is trained."""
        self.module.train()


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """A progress bar over pictures on standard error; silent where that is no terminal."""
    with tqdm(total=total, desc=title, unit="img", disable=None, leave=False) as bar:
        yield bar.update


def warn_about_bad_pictures(bad: tuple[str, ...], known: set[str]) -> None:
    """Name pictures that could not be read, each once a run."""
    for message in bad:
        if message not in known:
            known.add(message)
            print(f"skipped: {message}", file=sys.stderr)


def present_rows(evaluation: EvaluationSet, rows: Tensor) -> Mapping[str, Tensor]:
    """Targets and settings of the evaluation pictures that could be read, for :func:`src.evaluation.evaluate`."""
    return {
        "targets": evaluation.targets.dense(rows),
        "zero_shot_rows": evaluation.in_zero_shot[rows].nonzero()[:, 0],
        "generalized_rows": evaluation.in_generalized[rows].nonzero()[:, 0],
    }
