"""Reading files of COCO's format as they occur: ids as numbers or text, LVIS's keys, other tools' categories."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Struct

from src.errors import UserError
from src.text import shortened
from src.utils.json_files import read_json_as

if TYPE_CHECKING:
    from pycocotools.coco import COCO

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
