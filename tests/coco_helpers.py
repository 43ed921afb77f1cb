"""Instances files in COCO's true form, made from image-level labels, as small or as large as a test wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from src.data.coco import COCO_CLASSES

_ABSENT_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of 1..90; no instance has these
CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in _ABSENT_IDS)
_SUPERCATEGORIES = (
    ("person", 1), ("vehicle", 8), ("outdoor", 5), ("animal", 10), ("accessory", 5), ("sports", 10), ("kitchen", 7),
    ("food", 10), ("furniture", 6), ("electronic", 6), ("appliance", 5), ("indoor", 7),
)  # fmt: skip
CATEGORIES = [
    {"supercategory": group, "id": number, "name": name}
    for group, number, name in zip(
        chain.from_iterable([group] * size for group, size in _SUPERCATEGORIES), CATEGORY_IDS, COCO_CLASSES, strict=True
    )
]

NUM_IMAGES = {"train2014": 82_783, "val2014": 40_504}
NUM_ANNOTATIONS = {"train2014": 604_907, "val2014": 291_875}
_FIRST_FREE_ID = 600_000  # COCO's own end below

Images = Mapping[int, Sequence[int]]  # image id -> columns of its labels


def file_name_of(release: str, image_id: int) -> str:
    """``COCO_val2014_000000000042.jpg`` or, since 2017, ``000000000042.jpg``."""
    return f"COCO_{release}_{image_id:012d}.jpg" if release.endswith("2014") else f"{image_id:012d}.jpg"


def write_instances(
    path: Path,
    images: Images,
    *,
    release: str = "val2014",
    num_annotations: int | None = None,
    polygon_numbers: int = 8,
    crowd_every: int = 0,
    seed: int = 0,
) -> Path:
    """Write an instances file.

    Args:
        path: the file; its folder is made.
        images: their labels.
        release: what gives the file names.
        num_annotations: in all, at least one a label; None makes one or two a label.
        polygon_numbers: numbers in the outline of each object.
        crowd_every: every so many annotations one is of a crowd; 0 for none.
        seed: of boxes, outlines and the order.
    """
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Iterable[dict[str, Any]]] = {
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}],
        "images": (_image(release, image_id) for image_id in random.permutation(list(images)).tolist()),
        "annotations": _annotations(images, num_annotations, polygon_numbers, crowd_every, random),
        "categories": CATEGORIES,
    }
    encode = msgspec.json.Encoder().encode
    with open(path, "wb") as stream:
        stream.write(b'{"info": ' + encode({"description": f"drawn, in the form of {release}", "year": 2014}))
        for name, entries in sections.items():
            stream.write(f', "{name}": ['.encode())
            entries = iter(entries)
            separator = b""
            while block := list(islice(entries, 10_000)):
                stream.write(separator + encode(block)[1:-1])
                separator = b","
            stream.write(b"]")
        stream.write(b"}")
    return path


def _image(release: str, image_id: int) -> dict[str, Any]:
    return {
        "license": 4,
        "file_name": file_name_of(release, image_id),
        "coco_url": f"http://images.cocodataset.org/{release}/{image_id:012d}.jpg",
        "height": 480,
        "width": 640,
        "date_captured": "2013-11-14 17:02:52",
        "flickr_url": f"http://farm7.staticflickr.com/6116/{image_id}_da26cf2c9e_z.jpg",
        "id": image_id,
    }


def _annotations(
    images: Images, total: int | None, polygon_numbers: int, crowd_every: int, random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Return annotations in random order, as in COCO's own files."""
    pairs = np.array([(image_id, column) for image_id, columns in images.items() for column in columns], dtype=np.int64)
    if not len(pairs):
        return
    if total is None:
        repeats = random.integers(1, 3, len(pairs))
    else:
        repeats = 1 + random.multinomial(total - len(pairs), np.full(len(pairs), 1 / len(pairs)))
    shapes = [_shape(polygon_numbers, random) for _ in range(997)]
    rows = random.permutation(np.repeat(pairs, repeats, axis=0)).tolist()
    for number, (image_id, column) in zip(count(1), rows):
        crowd = bool(crowd_every) and number % crowd_every == 0
        outline, area, box = shapes[number % len(shapes)]
        yield {
            "segmentation": {"counts": [272, 2, 4, 4, 306_918], "size": [480, 640]} if crowd else [outline],
            "area": area,
            "iscrowd": int(crowd),
            "image_id": image_id,
            "bbox": box,
            "category_id": CATEGORY_IDS[column],
            "id": number,
        }


def _shape(polygon_numbers: int, random: np.random.Generator) -> tuple[list[float], float, list[float]]:
    """An outline, its area and its box."""
    x, y, width, height = (random.random(4) * (320, 240, 300, 220) + (0, 0, 10, 10)).round(2).tolist()
    outline = (random.random(polygon_numbers) * 200 + 100).round(2).tolist()
    return outline, round(width * height / 2, 4), [x, y, width, height]


def read_labels_2014(path: Path) -> dict[str, dict[int, tuple[int, ...]]]:
    """``train|val image_id label ...`` -> release -> image id -> columns, with as many unlabelled images as COCO has.

    The ids of these are made up.
    """
    images: dict[str, dict[int, tuple[int, ...]]] = {"train2014": {}, "val2014": {}}
    for line in path.read_text().splitlines():
        part, *numbers = line.split()
        image_id, *columns = map(int, numbers)
        images[f"{part}2014"][image_id] = tuple(columns)
    for first, (release, of_release) in enumerate(images.items(), start=1):
        free = count(first * _FIRST_FREE_ID)
        while len(of_release) < NUM_IMAGES[release]:
            of_release[next(free)] = ()
    return images


def write_word_vectors(path: Path, dim: int = 50) -> Path:
    """A text file of drawn vectors for every word of the class names."""
    random = np.random.default_rng(0)
    words = dict.fromkeys(word for name in COCO_CLASSES for word in name.split())
    path.write_text("".join(f"{word} {' '.join(map(str, random.normal(size=dim).round(4)))}\n" for word in words))
    return path
