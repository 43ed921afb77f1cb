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

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import numpy as np
import torch
from msgspec import Struct

from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError, name_some
from src.text import shortened
from src.utils.files import atomic_write
from src.utils.json_files import read_json_as

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


_T = TypeVar("_T")
_Entry = TypeVar("_Entry", "CocoImage", "CocoCategory")

Id = int | str
# As written: whole numbers, also with a fraction of zero as long as it is exact, or text.
_WrittenId = int | str | Annotated[float, msgspec.Meta(ge=-(2**53), le=2**53)]
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,99}")

EXPECTED = (
    '{"images": [{"id": 1, "file_name": "a.jpg"}, ...], "annotations": [{"image_id": 1, "category_id": 1}, ...], '
    '"categories": [{"id": 1, "name": "cat"}, ...]}'
)


class CocoImage(Struct, gc=False):
    """An entry of ``images``, reduced to the keys that are read."""

    id: Id
    file_name: str
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class CocoAnnotation(Struct, gc=False):
    """An entry of ``annotations``, reduced to the keys that are read; see :func:`is_set` for the last two."""

    image_id: _WrittenId
    category_id: _WrittenId
    iscrowd: Any = 0
    ignore: Any = 0


class CocoCategory(Struct, gc=False):
    """An entry of ``categories``, reduced to the keys that are read."""

    id: Id
    name: str
    supercategory: str = ""


class CocoFile(Struct):
    """A COCO-format file, reduced to what image-level labels need: no boxes, no polygons."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class _WrittenImage(Struct, gc=False):
    id: _WrittenId
    file_name: str | None = None
    coco_url: Any = None
    neg_category_ids: list[_WrittenId] | None = None
    not_exhaustive_category_ids: list[_WrittenId] | None = None


class _WrittenCategory(Struct, gc=False):
    id: _WrittenId
    name: str
    supercategory: Any = None


class _WrittenFile(Struct):
    images: list[_WrittenImage]
    annotations: list[CocoAnnotation]
    categories: list[_WrittenCategory]


def is_set(value: object) -> bool:
    """Return whether a mark such as ``iscrowd`` is set: a number but zero, or its text; ``null`` and others are not."""
    if isinstance(value, str):
        return value.strip().lower() in ("1", "1.0", "true", "yes")
    if isinstance(value, float):
        return math.isfinite(value) and value != 0
    return isinstance(value, int) and value != 0


def name_of(source: str | Path | COCO) -> str:
    """Return the name of a label file for messages: its path, or that it is a ``COCO`` object."""
    return str(source) if isinstance(source, str | Path) else "the COCO object"


def read_coco_file(source: str | Path | COCO) -> CocoFile:
    """Read COCO-format labels; repeated images and categories are merged.

    An id may be a number or its text, in one section this and in another that: ``1``, ``1.0`` and ``"1"`` are the same
    id, ``"01"`` is another. LVIS v1 gives images a ``coco_url`` and no ``file_name``.

    Args:
        source: a JSON file, or a ``pycocotools.coco.COCO`` object, whose ``dataset`` is read: labels can be filtered
            with the API of pycocotools first.

    Raises:
        UserError: the file cannot be read, lacks a section or a key, or gives an id to two images or categories.
    """
    name = name_of(source)
    if isinstance(source, str | Path):
        content = read_json_as(source, _WrittenFile, "COCO-format file", expected=EXPECTED)
    else:
        try:
            content = msgspec.convert(source.dataset, _WrittenFile)
        except msgspec.ValidationError as error:
            raise UserError(f"{name} is no COCO-format data set: {error}; expected {EXPECTED}") from error
    images = (_image(image, f"{name}: images[{number}]") for number, image in enumerate(content.images))
    categories = (_category(category, f"{name}: categories") for category in content.categories)
    return CocoFile(_merged(images, f"{name}: images"), content.annotations, _merged(categories, f"{name}: categories"))


def _image(written: _WrittenImage, where: str) -> CocoImage:
    file_name = written.file_name
    if not (file_name and file_name.strip()):
        # http://images.cocodataset.org/train2017/000000000009.jpg
        file_name = str(written.coco_url or "").partition("://")[2].partition("/")[2]
        if not file_name:
            raise UserError(f"{where} has neither file_name nor coco_url; write the name of the image into file_name")
    negative, partly = (
        None if ids is None else [_id_of(number, where) for number in ids]
        for ids in (written.neg_category_ids, written.not_exhaustive_category_ids)
    )
    return CocoImage(_id_of(written.id, where), file_name, negative, partly or None)


def _category(written: _WrittenCategory, where: str) -> CocoCategory:
    if not written.name.strip():
        raise UserError(f"{where}: the name of the category with the id {written.id} is empty; write one")
    group = written.supercategory
    return CocoCategory(_id_of(written.id, where), written.name, group if isinstance(group, str) else "")


def _id_of(written: float | str, where: str) -> Id:
    """Return the whole number that an id is or spells, or else its text."""
    if isinstance(written, str):
        return int(written) if _WHOLE_NUMBER.fullmatch(written) else written
    if isinstance(written, float) and not written.is_integer():
        raise UserError(f"{where}: the id {written} is neither a whole number nor text")
    return int(written)


def _merged(entries: Iterable[_Entry], where: str) -> list[_Entry]:
    """Return the entries, each id once."""
    found: dict[Id, _Entry] = {}
    for entry in entries:
        first = found.setdefault(entry.id, entry)
        if first is not entry and first != entry:
            shown = (shortened(repr(one), 200) for one in (first, entry))
            raise UserError(f"{where}: the id {entry.id!r} stands for {' and '.join(shown)}; write each id once")
    return list(found.values())


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
    unknown, the image carries ``neg_category_ids``; a single unknown label is an annotation to ignore.

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


def _images(images: LabelledImages) -> Iterator[dict[str, Any]]:
    targets = images.targets
    offsets, columns, values = targets.offsets.tolist(), targets.columns.numpy(), targets.values.numpy()
    partly = (targets.unlisted == -1).tolist()
    for row, (number, name) in enumerate(zip(images.image_ids, images.file_names, strict=True)):
        entry: dict[str, Any] = {"id": number, "file_name": name}
        if partly[row]:
            own = slice(offsets[row], offsets[row + 1])
            entry["neg_category_ids"] = (columns[own][values[own] == 0] + 1).tolist()
        yield entry


def _annotations(images: LabelledImages, further: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    rows, columns, values = images.targets.entries()
    kept = (values == 1) | ((values == -1) & (images.targets.unlisted[rows] == 0))
    entries = zip(rows[kept].tolist(), columns[kept].tolist(), values[kept].tolist(), strict=True)
    for number, (row, column, value) in enumerate(entries, start=1):
        entry = {"id": number, "image_id": images.image_ids[row], "category_id": column + 1, **further}
        yield entry if value == 1 else {**entry, "ignore": 1}
