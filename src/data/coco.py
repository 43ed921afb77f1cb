"""COCO-format label files: the 80 classes, reading image-level labels, and writing them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import Tensor

from src.errors import UserError, name_some
from src.files import read_json, write_json

# The 80 classes of COCO detection in the order of their category ids: the column order of the released code's COCO
# files.
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


@dataclass(frozen=True)
class LabelledPictures:
    """Image-level labels of one part of a data set.

    Attributes:
        image_ids: [N], as in the file.
        file_names: [N], relative to the picture folder.
        targets: [N, C] int8 in the split's column order: 1 positive, 0 not labelled.
    """

    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.file_names)

    def rows(self, rows: Sequence[int]) -> LabelledPictures:
        """Some of the pictures, in this order."""
        kept = list(rows)
        return LabelledPictures(
            tuple(self.image_ids[row] for row in kept), tuple(self.file_names[row] for row in kept), self.targets[kept]
        )


def read_coco_labels(path: str | Path, labels: Sequence[str]) -> LabelledPictures:
    """Read a COCO-format file as image-level labels.

    A label is positive where the image has an annotation of that category.

    Columns follow ``labels``; categories are found by name, so neither their order in the file nor absent categories
    move a column. Images come in ascending id; those without any annotation are kept (the ``all-images`` protocol
    counts them).

    Args:
        path: a JSON file with ``images``, ``annotations`` (``image_id``, ``category_id``) and ``categories``.
        labels: the C labels of the split.

    Raises:
        UserError: the file cannot be read, lacks a section, names a category that is no label of the split, or refers
            to an unknown image or category.
    """
    coco = _index(path)
    annotations = coco.dataset["annotations"]  # not coco.anns, which keeps one of those that share an id
    column_of = {label: column for column, label in enumerate(labels)}
    unknown = [category["name"] for category in coco.cats.values() if category["name"] not in column_of]
    if unknown:
        raise UserError(
            f"{path}: categories that are no label of the split: {name_some(unknown)}; the file and the metadata "
            "folder do not belong together"
        )
    column_of_id = {number: column_of[category["name"]] for number, category in coco.cats.items()}
    image_ids = sorted(coco.imgs)
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    try:
        pairs = np.array(
            [(row_of[item["image_id"]], column_of_id[item["category_id"]]) for item in annotations],
            dtype=np.int64,
        ).reshape(-1, 2)
    except KeyError as error:
        raise UserError(
            f"{path}: an annotation refers to the image or category {error}, which the file does not list"
        ) from error
    targets = torch.zeros(len(image_ids), len(labels), dtype=torch.int8)
    targets[pairs[:, 0], pairs[:, 1]] = 1
    return LabelledPictures(
        tuple(image_ids), tuple(coco.imgs[image_id]["file_name"] for image_id in image_ids), targets
    )


def _index(path: str | Path) -> Any:
    """Pycocotools' index of the file, made without its messages on standard output."""
    content = read_json(path)
    absent = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if absent:
        raise UserError(f"{path} is no COCO-format file: it lacks the lists {', '.join(absent)}")
    coco = COCO()
    coco.dataset = content
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        for section, key in (("images", "file_name"), ("categories", "name")):
            first: dict[Any, Any] = {}
            for entry in content[section]:
                if first.setdefault(entry["id"], entry[key]) != entry[key]:
                    raise UserError(
                        f"{path}: the id {entry['id']} of its {section} stands for {first[entry['id']]!r} and for "
                        f"{entry[key]!r}"
                    )
    except KeyError as error:
        raise UserError(f"{path} is no COCO-format file: an entry lacks {error}") from error
    except TypeError as error:
        raise UserError(f"{path} is no COCO-format file: an entry is malformed: {error}") from error
    return coco


def write_coco_labels(path: str | Path, pictures: LabelledPictures, labels: Sequence[str]) -> None:
    """Write image-level labels as a COCO-format file: one annotation a positive label, category ids 1 + its column."""
    rows, columns = (pictures.targets == 1).nonzero(as_tuple=True)
    annotations = [
        {"id": number, "image_id": pictures.image_ids[row], "category_id": column + 1}
        for number, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True), start=1)
    ]
    images = [
        {"id": number, "file_name": name} for number, name in zip(pictures.image_ids, pictures.file_names, strict=True)
    ]
    categories = [{"id": column + 1, "name": label} for column, label in enumerate(labels)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
