"""COCO-format label files: the 80 classes, and reading and writing image-level labels.

Beside COCO's own format, conventions of other data sets mark a label as unknown rather than absent:

    images[i].neg_category_ids      LVIS: the categories that were looked for and not found; any other category that
                                    the image has no annotation of is unknown
    images[i].not_exhaustive_category_ids
                                    LVIS: categories some of whose objects are not annotated; without any annotation
                                    they are unknown
    annotations[i].ignore           Pascal VOC in COCO format: 1 for a difficult object, which counts neither way
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
import torch

from src.data.coco_files import CocoFile, Id, is_set, name_of, read_coco_file
from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError, name_some
from src.utils.files import atomic_write

if TYPE_CHECKING:
    from pycocotools.coco import COCO

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


_FEW_UNKNOWN = 8  # unknown labels of an image that become annotations to ignore, which other tools know too

_T = TypeVar("_T")


def read_coco_labels(source: str | Path | COCO, labels: Sequence[str]) -> LabelledImages:
    """Read COCO-format labels as image-level labels in the columns of ``labels``.

    Raises:
        UserError: as :func:`read_coco_file` and :func:`image_level_labels`.
    """
    return image_level_labels(read_coco_file(source), labels, name_of(source))


def image_level_labels(content: CocoFile, labels: Sequence[str], name: str) -> LabelledImages:
    """Turn COCO-format annotations into image-level labels.

    A label is positive where the image has an annotation of that category, and unknown where all of these are to be
    ignored, or where the image lists what was looked for and that category is not among it.

    Categories are matched by name, so neither their order in the file nor absent categories move a column. Images come
    in ascending id; those without any annotation are kept (the ``all-images`` protocol counts them).

    Args:
        content: the file.
        labels: the C labels of the split, in the order of the columns.
        name: of the file, for error messages.

    Raises:
        UserError: a category is no label of the split, or an entry refers to an unknown image or category.
    """
    column_of = {label: column for column, label in enumerate(labels)}
    unknown = [category.name for category in content.categories if category.name not in column_of]
    if unknown:
        raise UserError(
            f"{name}: categories that are no label of the split: {name_some(unknown)}; the file and the metadata "
            "folder do not belong together"
        )
    column_of_id = by_written_id({category.id: column_of[category.name] for category in content.categories})
    images = sorted(content.images, key=lambda image: (isinstance(image.id, str), image.id))
    row_of = by_written_id({image.id: row for row, image in enumerate(images)})
    try:
        what = "an annotation refers to the image or category"
        listed = _whole_numbers(
            (row_of[item.image_id], column_of_id[item.category_id], -1 if item.ignore and is_set(item.ignore) else 1)
            for item in content.annotations
        )
        what = "neg_category_ids or not_exhaustive_category_ids of an image name the category"
        searched = _whole_numbers(
            (row, column_of_id[category], value)
            for row, image in enumerate(images)
            for value, categories in ((0, image.neg_category_ids), (-1, image.not_exhaustive_category_ids))
            for category in categories or ()
        )
    except KeyError as error:
        raise UserError(f"{name}: {what} {error}, which the file does not list") from error
    unlisted = torch.tensor([0 if image.neg_category_ids is None else -1 for image in images], dtype=torch.int8)
    targets = LabelMatrix.from_entries(
        *torch.cat([listed, searched]).unbind(dim=1), unlisted=unlisted, num_labels=len(labels)
    )
    return LabelledImages(tuple(image.id for image in images), tuple(image.file_name for image in images), targets)


def by_written_id(values: Mapping[Id, _T]) -> dict[Any, _T]:
    """Return values by every form of their ids: a whole number (equal to one with a fraction of zero) and its text."""
    return {**{str(number): value for number, value in values.items()}, **values}


def _whole_numbers(triples: Iterable[tuple[int, int, int]]) -> torch.Tensor:
    """Return [K, 3] int64, without a list of K tuples in between."""
    return torch.from_numpy(np.fromiter(chain.from_iterable(triples), dtype=np.int64).reshape(-1, 3))


def write_coco_labels(
    path: str | Path,
    images: LabelledImages,
    labels: Sequence[str],
    annotation_keys: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write image-level labels as a COCO-format file, one entry per line.

    Each positive label is one annotation, with 1 + its column as category id. Where all labels but the listed ones are
    unknown, the image carries ``neg_category_ids``. A few unknown labels are annotations to ignore; many are listed in
    ``not_exhaustive_category_ids``, which takes a twentieth of the space.

    Args:
        path: the file.
        images: their labels in the columns of ``labels``.
        labels: C names.
        annotation_keys: further keys and values, the same in every annotation.
    """
    sections: dict[str, Iterable[dict[str, Any]]] = {
        "images": _images(images),
        "annotations": _annotations(images, annotation_keys),
        "categories": ({"id": column + 1, "name": label} for column, label in enumerate(labels)),
    }
    encode = msgspec.json.Encoder().encode
    with atomic_write(path) as stream:
        opening = "{"
        for section, entries in sections.items():
            stream.write(f'{opening}\n"{section}": ['.encode())
            for number, entry in enumerate(entries):
                stream.write((b",\n" if number else b"\n") + encode(entry))
            stream.write(b"]")
            opening = ","
        stream.write(b"}\n")


def _many_unknown(targets: LabelMatrix) -> torch.Tensor:
    """Return [N] bool, the images that list their unknown labels."""
    rows, _, values = targets.entries()
    return (targets.unlisted == 0) & (torch.bincount(rows[values == -1], minlength=len(targets)) > _FEW_UNKNOWN)


def _images(images: LabelledImages) -> Iterator[dict[str, Any]]:
    targets = images.targets
    many = _many_unknown(targets).tolist()
    offsets, columns, values = targets.offsets.tolist(), targets.columns.numpy(), targets.values.numpy()
    partly = (targets.unlisted == -1).tolist()
    for row, (number, name) in enumerate(zip(images.image_ids, images.file_names, strict=True)):
        entry: dict[str, Any] = {"id": number, "file_name": name}
        if partly[row] or many[row]:
            own = slice(offsets[row], offsets[row + 1])
            key, value = ("neg_category_ids", 0) if partly[row] else ("not_exhaustive_category_ids", -1)
            entry[key] = (columns[own][values[own] == value] + 1).tolist()
        yield entry


def _annotations(images: LabelledImages, further: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    rows, columns, values = images.targets.entries()
    to_ignore = (images.targets.unlisted == 0) & ~_many_unknown(images.targets)
    kept = (values == 1) | ((values == -1) & to_ignore[rows])
    entries = zip(rows[kept].tolist(), columns[kept].tolist(), values[kept].tolist(), strict=True)
    for number, (row, column, value) in enumerate(entries, start=1):
        entry = {"id": number, "image_id": images.image_ids[row], "category_id": column + 1, **further}
        yield entry if value == 1 else {**entry, "ignore": 1}
