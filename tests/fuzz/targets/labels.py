"""Annotation files: COCO-format JSON, and the text files of the other data sets."""

from __future__ import annotations

import json
from pathlib import Path

from src.data.coco import read_coco_labels
from src.data.coco_files import read_coco_file
from src.prepare.nus_wide_files import read_flags, read_image_list
from src.prepare.open_images_files import read_verdicts
from src.prepare.voc_files import read_objects
from src.prepare.voc_xml import read_annotation
from tests.fuzz.harness import Target

_LABELS = ("sea", "boat", "cat")
_COCO = {
    "info": {"year": 2014},
    "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}, {"id": 20, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "area": 1.5, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 20, "category_id": 7, "ignore": 1, "segmentation": [[1, 2]]},
    ],
    "categories": [
        {"id": 7, "name": "boat", "supercategory": "thing"},
        {"id": 3, "name": "sea"},
        {"id": 90, "name": "cat"},
    ],
}
_LVIS = {
    "images": [{"id": 1, "coco_url": "http://images.cocodataset.org/train2017/1.jpg", "neg_category_ids": [2]}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1}],
    "categories": [{"id": 1, "name": "sea"}, {"id": 2, "name": "boat"}],
}
_VOC = (
    b'<?xml version="1.0" encoding="utf-8"?>\n<annotation><filename>a.jpg</filename><object><name>cat</name>'
    b"<difficult>0</difficult><bndbox><xmin>1</xmin></bndbox></object><object><name>dog</name></object></annotation>"
)
_VERDICTS = (
    b"ImageID,Source,LabelName,Confidence\n0001eeaf4aed83f9,verification,/m/0cmf2,1\n"
    b"000595fe6fee6369,verification,/m/01x,0\n"
)
_MIDS = {"/m/0cmf2": 0, "/m/01x": 1}


def _json(tree: object) -> bytes:
    return json.dumps(tree, ensure_ascii=True).encode()


def _labels(path: Path) -> object:
    return read_coco_labels(path, _LABELS)


def targets() -> tuple[Target, ...]:
    """Return the readers of annotations."""
    return (
        Target("coco-labels", "a.json", (_COCO, _LVIS), _labels, _json),
        Target("coco-bytes", "a.json", (_json(_COCO), _json(_LVIS)), read_coco_file),
        Target("voc-xml", "a.xml", (_VOC,), lambda path: read_objects(path, {"cat": 0, "dog": 1})),
        Target("own-xml", "a.xml", (_VOC,), read_annotation),
        Target("open-images-csv", "a.csv", (_VERDICTS,), lambda path: read_verdicts(path, _MIDS)),
        Target("nus-wide-list", "a.txt", (b"actor\\0001_2124494179.jpg\nsky\\0002_1.jpg\n",), read_image_list),
        Target("nus-wide-flags", "a.txt", (b"1 0 0\n0 1 1\n",), lambda path: read_flags(path, 3)),
    )
