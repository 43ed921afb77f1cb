"""The training and evaluation pictures of a metadata folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from src.data.coco import LabelledPictures, read_coco_labels
from src.data.dataset import locate_pictures
from src.data.metadata import Metadata
from src.errors import UserError


@dataclass(frozen=True)
class TrainingSet:
    """Pictures with at least one seen label.

    Attributes:
        paths: [N].
        targets: [N, C_seen] int8, columns in the order of ``split.seen``.
        num_without_label: pictures left out because they have no seen label.
    """

    paths: list[Path]
    targets: Tensor
    num_without_label: int


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures to evaluate on.

    Attributes:
        paths: [N].
        targets: [N, C] int8, columns in the order of ``split.labels``.
        in_zero_shot, in_generalized: [N] bool, which pictures each setting evaluates; all of both, unless the folder
            lists them apart.
    """

    paths: list[Path]
    targets: Tensor
    in_zero_shot: Tensor
    in_generalized: Tensor


def picture_root(metadata: Metadata, data: str | Path | None) -> Path:
    """The picture folder: ``--data``, or the one that the metadata folder records.

    The latter also where ``--data`` is the metadata folder itself.

    Raises:
        UserError: neither is there.
    """
    is_metadata = (
        data is not None and metadata.image_root is not None and Path(data).resolve() == metadata.folder.resolve()
    )
    root = metadata.image_root if data is None or is_metadata else Path(data)
    if root is None:
        raise UserError(f"--data is needed: {metadata.folder} does not say where its pictures are")
    if not root.is_dir():
        raise UserError(
            f"--data {root}: no such folder"
            + ("" if root != metadata.image_root else f" (recorded in {metadata.folder}; give --data)")
        )
    return root


def load_training_set(metadata: Metadata, data: str | Path | None) -> TrainingSet:
    """The pictures that training uses: those with a seen label. Unseen labels of these pictures never reach the loss.

    Raises:
        UserError: the folder has no training labels, pictures are missing, or none has a seen label.
    """
    path = _label_file(metadata, metadata.train, "train.json", "zs_split/train_17_48.json")
    pictures = read_coco_labels(path, metadata.split.labels)
    targets = pictures.targets[:, list(metadata.split.seen)]
    rows = (targets == 1).any(dim=1).nonzero()[:, 0]
    if len(rows) == 0:
        raise UserError(f"{path}: no picture has a seen label")
    kept = pictures.rows(rows.tolist())
    root = picture_root(metadata, data)
    return TrainingSet(locate_pictures(kept.file_names, root, str(path)), targets[rows], len(pictures) - len(kept))


def load_evaluation_set(metadata: Metadata, data: str | Path | None) -> EvaluationSet:
    """The pictures that validation uses.

    The released code lists the zero-shot pictures apart (``val_unseen.json``); each picture is still read once.

    Raises:
        UserError: the folder has no validation labels, or pictures are missing.
    """
    path = _label_file(metadata, metadata.val, "val.json", "zs_split/val_17_48.json")
    pictures = read_coco_labels(path, metadata.split.labels)
    in_generalized = torch.ones(len(pictures), dtype=torch.bool)
    in_zero_shot = in_generalized.clone()
    if metadata.val_unseen is not None:
        pictures, in_zero_shot, in_generalized = _join(
            pictures, read_coco_labels(metadata.val_unseen, metadata.split.labels)
        )
    paths = locate_pictures(pictures.file_names, picture_root(metadata, data), str(path))
    return EvaluationSet(paths, pictures.targets, in_zero_shot, in_generalized)


def _join(pictures: LabelledPictures, zero_shot: LabelledPictures) -> tuple[LabelledPictures, Tensor, Tensor]:
    """Both lists as one, each picture (by file name) once: (all, in ``zero_shot``, in ``pictures``).

    A picture in both has the labels of either: a list made for the unseen labels need not repeat the others.
    """
    row_of = {name: row for row, name in enumerate(pictures.file_names)}
    new = [row for row, name in enumerate(zero_shot.file_names) if name not in row_of]
    shared = [row for row, name in enumerate(zero_shot.file_names) if name in row_of]
    added = zero_shot.rows(new)
    targets = pictures.targets.clone()
    rows = [row_of[zero_shot.file_names[row]] for row in shared]
    targets[rows] = torch.maximum(targets[rows], zero_shot.targets[shared])
    joined = LabelledPictures(
        pictures.image_ids + added.image_ids,
        pictures.file_names + added.file_names,
        torch.cat([targets, added.targets]),
    )
    listed = set(zero_shot.file_names)
    in_zero_shot = torch.tensor([name in listed for name in joined.file_names], dtype=torch.bool)
    in_generalized = torch.arange(len(joined)) < len(pictures)
    return joined, in_zero_shot, in_generalized


def _label_file(metadata: Metadata, path: Path | None, own_name: str, official_name: str) -> Path:
    if path is None:
        name = own_name if metadata.kind == "SDL" else official_name
        raise UserError(f"{metadata.folder} has no {name}; it is needed to train or validate")
    return path
