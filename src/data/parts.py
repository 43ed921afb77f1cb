"""The training and evaluation pictures of a metadata folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from src.data.dataset import locate_pictures
from src.data.label_cache import cached_coco_labels
from src.data.labels import LabelledPictures, LabelMatrix
from src.data.metadata import Metadata
from src.errors import UserError


@dataclass(frozen=True)
class TrainingSet:
    """Pictures with at least one seen label.

    Attributes:
        paths: [N].
        targets: [N, C_seen], columns in the order of ``split.seen``.
        num_without_label: pictures left out because they have no seen label.
    """

    paths: list[Path]
    targets: LabelMatrix
    num_without_label: int


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures to evaluate on.

    Attributes:
        paths: [N].
        targets: [N, C], columns in the order of ``split.labels``.
        in_zero_shot, in_generalized: [N] bool, which pictures each setting evaluates; all of both, unless the folder
            lists them apart.
    """

    paths: list[Path]
    targets: LabelMatrix
    in_zero_shot: Tensor
    in_generalized: Tensor


def find_image_root(metadata: Metadata, data: str | Path | None) -> Path:
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
    pictures = _labels(path, metadata)
    seen = pictures.with_targets(pictures.targets.select_columns(metadata.split.seen))
    rows = seen.targets.positives_per_picture().nonzero()[:, 0]
    if len(rows) == 0:
        raise UserError(f"{path}: no picture has a seen label")
    kept = seen.rows(rows)
    root = find_image_root(metadata, data)
    return TrainingSet(locate_pictures(kept.file_names, root, str(path)), kept.targets, len(pictures) - len(kept))


def load_evaluation_set(metadata: Metadata, data: str | Path | None) -> EvaluationSet:
    """The pictures that validation uses.

    The released code lists the zero-shot pictures apart (``val_unseen.json``); each picture is still read once.

    Raises:
        UserError: the folder has no validation labels, or pictures are missing.
    """
    path = _label_file(metadata, metadata.val, "val.json", "zs_split/val_17_48.json")
    pictures = _labels(path, metadata)
    in_generalized = torch.ones(len(pictures), dtype=torch.bool)
    in_zero_shot = in_generalized.clone()
    if metadata.val_unseen is not None:
        pictures, in_zero_shot, in_generalized = _join(pictures, _labels(metadata.val_unseen, metadata))
    paths = locate_pictures(pictures.file_names, find_image_root(metadata, data), str(path))
    return EvaluationSet(paths, pictures.targets, in_zero_shot, in_generalized)


def _join(pictures: LabelledPictures, zero_shot: LabelledPictures) -> tuple[LabelledPictures, Tensor, Tensor]:
    """Both lists as one, each picture (by file name) once: (all, in ``zero_shot``, in ``pictures``).

    A picture in both has the labels of either: a list made for the unseen labels need not repeat the others.
    """
    row_of = {name: row for row, name in enumerate(pictures.file_names)}
    added = torch.tensor([name not in row_of for name in zero_shot.file_names], dtype=torch.bool).nonzero()[:, 0]
    new = zero_shot.rows(added)
    row_of |= {name: row for row, name in enumerate(new.file_names, start=len(pictures))}
    row_of_zero_shot = torch.tensor([row_of[name] for name in zero_shot.file_names], dtype=torch.int64)
    rows, columns, values = pictures.targets.entries()
    zero_shot_rows, zero_shot_columns, zero_shot_values = zero_shot.targets.entries()
    targets = LabelMatrix.from_entries(
        torch.cat([rows, row_of_zero_shot[zero_shot_rows]]),
        torch.cat([columns, zero_shot_columns]),
        torch.cat([values, zero_shot_values]),
        unlisted=torch.cat([pictures.targets.unlisted, new.targets.unlisted]),
        num_labels=pictures.targets.num_labels,
    )
    joined = LabelledPictures(pictures.image_ids + new.image_ids, pictures.file_names + new.file_names, targets)
    in_zero_shot = torch.zeros(len(joined), dtype=torch.bool)
    in_zero_shot[row_of_zero_shot] = True
    in_generalized = torch.arange(len(joined)) < len(pictures)
    return joined, in_zero_shot, in_generalized


def _labels(path: Path, metadata: Metadata) -> LabelledPictures:
    return cached_coco_labels(path, metadata.split.labels, metadata.folder / "label_cache")


def _label_file(metadata: Metadata, path: Path | None, own_name: str, official_name: str) -> Path:
    if path is None:
        name = own_name if metadata.kind == "SDL" else official_name
        raise UserError(f"{metadata.folder} has no {name}; it is needed to train or validate")
    return path
