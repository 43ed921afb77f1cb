"""The training and evaluation images of a metadata folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from src.data.dataset import locate_images
from src.data.label_cache import cached_coco_labels
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import Metadata
from src.data.split import ZeroShotSplit
from src.errors import UserError


@dataclass(frozen=True)
class TrainingSet:
    """Images with at least one seen label, and those labels.

    The columns of ``targets`` are always the labels of ``split``.

    Attributes:
        paths: [N].
        targets: [N, C_seen].
        split: the C_seen labels alone, all seen, with their word vectors [D, C_seen].
        num_without_label: number of images left out because they have no seen label.
    """

    paths: list[Path]
    targets: LabelMatrix
    split: ZeroShotSplit
    num_without_label: int = 0

    def select_labels(self, columns: Sequence[int]) -> TrainingSet:
        """Keep some labels of ``split``, in this order; the images stay, also those that have none of them."""
        return replace(self, targets=self.targets.select_columns(columns), split=self.split.select(columns))

    def select_rows(self, rows: Tensor) -> TrainingSet:
        """Keep some images, in this order."""
        return replace(self, paths=[self.paths[row] for row in rows.tolist()], targets=self.targets.select_rows(rows))


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Ground truth of N embedded images.

    Attributes:
        targets: [N, C]: 1 positive, 0 negative, -1 unknown; sparse, or a tensor.
        zero_shot_rows, generalized_rows: indices of the images of each setting; None: all.
    """

    targets: LabelMatrix | Tensor
    zero_shot_rows: Tensor | None = None
    generalized_rows: Tensor | None = None

    def dense(self, labels: Tensor | None = None) -> Tensor:
        """Return the targets of some labels [c], or of all, as a tensor [N, c]."""
        if isinstance(self.targets, Tensor):
            return self.targets if labels is None else self.targets[:, labels]
        return (self.targets if labels is None else self.targets.select_columns(labels)).dense()

    def select_rows(self, rows: Tensor) -> GroundTruth:
        """Keep some images [n], in this order, each once."""
        targets = self.targets[rows] if isinstance(self.targets, Tensor) else self.targets.select_rows(rows)
        settings = (
            None if setting is None else torch.isin(rows, setting).nonzero()[:, 0]
            for setting in (self.zero_shot_rows, self.generalized_rows)
        )
        return GroundTruth(targets, *settings)


@dataclass(frozen=True)
class EvaluationSet:
    """Evaluation images.

    Attributes:
        paths: [N].
        targets: [N, C], columns in the order of ``split.labels``.
        in_zero_shot, in_generalized: [N] bool, the images of each setting; all, unless the folder lists them apart.
    """

    paths: list[Path]
    targets: LabelMatrix
    in_zero_shot: Tensor
    in_generalized: Tensor

    def ground_truth(self, rows: Tensor) -> GroundTruth:
        """Select the targets (sparse) and the images of each setting of these rows [n], such as those readable."""
        return GroundTruth(
            self.targets.select_rows(rows),
            self.in_zero_shot[rows].nonzero()[:, 0],
            self.in_generalized[rows].nonzero()[:, 0],
        )


def find_image_root(metadata: Metadata, data: str | Path | None) -> Path:
    """Return the image folder: ``--data``, or the one recorded in the metadata folder.

    The recorded one is also taken if ``--data`` is the metadata folder itself.

    Raises:
        UserError: there is none.
    """
    recorded = metadata.image_root
    if data is not None and (recorded is None or Path(data).resolve() != metadata.folder.resolve()):
        root, origin = Path(data), ""
    elif recorded is not None:
        root, origin = recorded, f" (recorded in {metadata.folder}; give --data)"
    else:
        raise UserError(f"--data is needed: {metadata.folder} does not say where its images are")
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder{origin}")
    return root


def load_training_set(metadata: Metadata, data: str | Path | None) -> TrainingSet:
    """Load the images with a seen label, and their seen labels; unseen labels never reach the loss.

    Raises:
        UserError: the folder has no training labels, images are missing, or none has a seen label.
    """
    path, images = _read(metadata, "train")
    split = metadata.split.select(metadata.split.seen)
    seen = images.with_targets(images.targets.select_columns(metadata.split.seen))
    rows = seen.targets.positives_per_image().nonzero()[:, 0]
    if len(rows) == 0:
        raise UserError(f"{path}: no image has a seen label")
    kept = seen.rows(rows)
    root = find_image_root(metadata, data)
    paths = locate_images(kept.file_names, root, str(path))
    return TrainingSet(paths, kept.targets, split, num_without_label=len(images) - len(kept))


def load_evaluation_set(metadata: Metadata, data: str | Path | None) -> EvaluationSet:
    """Load the evaluation images.

    The released code lists the zero-shot images apart (``val_unseen.json``); an image in both lists is read once.

    Raises:
        UserError: the folder has no validation labels, or images are missing.
    """
    path, images = _read(metadata, "val")
    in_generalized = torch.ones(len(images), dtype=torch.bool)
    in_zero_shot = in_generalized.clone()
    if metadata.val_unseen is not None:
        _, zero_shot = _read(metadata, "val_unseen")
        images, in_zero_shot, in_generalized = _join(images, zero_shot)
    paths = locate_images(images.file_names, find_image_root(metadata, data), str(path))
    return EvaluationSet(paths, images.targets, in_zero_shot, in_generalized)


def _join(images: LabelledImages, zero_shot: LabelledImages) -> tuple[LabelledImages, Tensor, Tensor]:
    """Merge both lists by file name; return (all images, whether each is in ``zero_shot``, whether in ``images``).

    An image in both lists has the labels of either: a list made for the unseen labels need not repeat the others.
    """
    row_of = {name: row for row, name in enumerate(images.file_names)}
    added = torch.tensor([name not in row_of for name in zero_shot.file_names], dtype=torch.bool).nonzero()[:, 0]
    new = zero_shot.rows(added)
    row_of |= {name: row for row, name in enumerate(new.file_names, start=len(images))}
    row_of_zero_shot = torch.tensor([row_of[name] for name in zero_shot.file_names], dtype=torch.int64)
    rows, columns, values = images.targets.entries()
    zero_shot_rows, zero_shot_columns, zero_shot_values = zero_shot.targets.entries()
    targets = LabelMatrix.from_entries(
        torch.cat([rows, row_of_zero_shot[zero_shot_rows]]),
        torch.cat([columns, zero_shot_columns]),
        torch.cat([values, zero_shot_values]),
        unlisted=torch.cat([images.targets.unlisted, new.targets.unlisted]),
        num_labels=images.targets.num_labels,
    )
    joined = LabelledImages(images.image_ids + new.image_ids, images.file_names + new.file_names, targets)
    in_zero_shot = torch.zeros(len(joined), dtype=torch.bool)
    in_zero_shot[row_of_zero_shot] = True
    in_generalized = torch.arange(len(joined)) < len(images)
    return joined, in_zero_shot, in_generalized


def _read(metadata: Metadata, part: str) -> tuple[Path, LabelledImages]:
    """Read the labels of ``train``, ``val`` or ``val_unseen``."""
    path: Path | None = getattr(metadata, part)
    if path is None:
        name = f"{part}.json" if metadata.kind == "SDL" else f"zs_split/{part}_17_48.json"
        raise UserError(f"{metadata.folder} has no {name}; it is needed to train or validate")
    return path, cached_coco_labels(path, metadata.split.labels, metadata.folder / "label_cache")
