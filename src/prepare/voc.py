"""Pascal VOC 2007 and 2012: photographs with 20 classes of objects.

"The PASCAL Visual Object Classes (VOC) Challenge" (IJCV 2010). --source is VOC2007 or VOC2012, or any folder that holds
them, such as VOCdevkit:

    VOC2007/ImageSets/Main/{train,val,trainval,test}.txt    an image id a line
    VOC2007/Annotations/000005.xml                          its objects: name, difficult
    VOC2007/JPEGImages/000005.jpg

A year may also lie in several folders, each with the lists, annotations and images of its own.

Unless --train-set and --val-set say otherwise, 2007 is trained on trainval and validated on test; 2012, whose test set
has no public annotations, is trained on train and validated on val. With --train-set trainval all of 2012 is for
training, and validation is on test of 2007 alone.

No division of the 20 classes into seen and unseen is a standard for tagging, so --unseen is needed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from src.data.labels import LabelledImages, LabelMatrix
from src.data.split import columns_of
from src.errors import UserError, name_some
from src.prepare.collected import Collected
from src.prepare.flags import (
    add_missing_pictures_flag,
    add_output_flags,
    add_split_flags,
    add_vector_flags,
    read_names,
    run_source,
)
from src.prepare.images import keep_found
from src.prepare.voc_files import ImageList, folders_of_years, has_list, read_list, read_objects

HELP = "Pascal VOC 2007 and 2012: 20 classes of objects"

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# What to look up for the classes that nobody else writes so.
TEXTS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
# Images of the classification task, from the statistics page of each year; only sets with public annotations.
PUBLISHED = {
    2007: {"train": 2_501, "val": 2_510, "trainval": 5_011, "test": 4_952},
    2012: {"train": 5_717, "val": 5_823, "trainval": 11_540},
}
_COLUMN = {name: column for column, name in enumerate(CLASSES)}
_VALUE = {"unknown": -1, "positive": 1, "negative": 0}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``prepare_data.py voc``."""
    parser.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="VOCdevkit, VOC2007, VOC2012, or what holds them"
    )
    parser.add_argument(
        "--year",
        type=int,
        nargs="+",
        choices=tuple(PUBLISHED),
        help="one, or both as one data set; what is there if left out",
    )
    parser.add_argument("--train-set", choices=("trainval", "train"), help="list to train on; see above if left out")
    parser.add_argument("--val-set", choices=("test", "val"), help="list to validate on; see above if left out")
    parser.add_argument("--unseen", type=Path, metavar="FILE", help="needed: classes to hold out, one a line")
    parser.add_argument(
        "--difficult",
        choices=tuple(_VALUE),
        default="unknown",
        help="what a class is where all its objects are marked as difficult; VOC's own score leaves these out",
    )
    add_missing_pictures_flag(parser)
    add_output_flags(parser)
    add_vector_flags(parser)
    add_split_flags(parser)


def run(args: argparse.Namespace) -> list[str]:
    """``prepare_data.py voc``: the report."""
    _unseen(args.unseen)  # before word vectors are opened, which may take a while
    return run_source(args, collect)


def collect(args: argparse.Namespace) -> Collected:
    """Read Pascal VOC.

    Raises:
        UserError: something is missing or malformed, or the parts share images.
    """
    unseen = _unseen(args.unseen)
    folders = folders_of_years(args.source)
    years = sorted(folders if args.year is None else set(args.year))
    absent = [str(year) for year in years if year not in folders]
    if absent:
        there = [str(folder) for found in folders.values() for folder in found]
        raise UserError(f"--year {' '.join(absent)}: not in --source {args.source}, which holds {name_some(there)}")
    lists: dict[str, list[ImageList]] = {"train": [], "val": []}
    notes: list[str] = []
    for year in years:
        sets, reasons = _sets(year, folders[year], args.train_set, args.val_set)
        notes += reasons
        for part, name in sets.items():
            lists[part].append(read_list(year, name, folders[year], f"--{part}-set"))
    _check_apart(lists["train"], lists["val"])
    parts: dict[str, LabelledImages] = {}
    missing: list[str] = []
    for part, own in lists.items():
        notes += [line for listed in own for line in _count_notes(part, listed)]
        labels = _read_labels(own, args.source, args.difficult)
        if labels.num_difficult:
            why = "as all objects of that class are difficult"
            notes.append(f"{part}: {labels.num_difficult:,} labels taken as {args.difficult}, {why}")
        parts[part] = keep_found(
            labels.images(),
            labels.places,
            drop=args.missing_pictures == "drop",
            missing=missing,
            source=" and ".join(map(str, own)),
            flag=f"--source {args.source}",
        )
    if missing:
        notes.append(f"left out {len(missing):,} images that are not there: {name_some(missing, 3)}")
    return Collected(
        "voc" + "_".join(map(str, years)),
        CLASSES,
        parts,
        image_root=os.path.abspath(args.source),
        unseen=unseen,
        texts=TEXTS,
        notes=notes,
        missing_pictures=missing,
    )


def _unseen(path: Path | None) -> list[str]:
    if path is None:
        raise UserError(
            "--unseen is needed: no division of VOC's classes is a standard for tagging; give a file with the classes "
            f"to hold out, one a line, out of: {', '.join(CLASSES)}"
        )
    names = read_names(path, "--unseen")
    columns_of(names, CLASSES, f"--unseen {path}")
    return names


def _sets(year: int, folders: Sequence[Path], train: str | None, val: str | None) -> tuple[dict[str, str], list[str]]:
    """Part -> the list of a year that is used for it, and why where that is not as with 2007."""
    annotated = "test" in PUBLISHED[year]
    has_test = annotated and has_list(folders, "test")
    notes = []
    if not annotated and val != "val":
        notes.append(f"VOC{year}: its test set has no public annotations")
    elif not has_test and val is None:
        notes.append(f"VOC{year}: has no list of test images")
    if val is None and (has_test or train != "trainval"):
        val = "test" if has_test else "val"
    if val is None or (val == "test" and not annotated):
        notes.append(f"VOC{year}: used for training alone")
        return {"train": train or "trainval"}, notes
    return {"train": train or ("train" if val == "val" else "trainval"), "val": val}, notes


def _check_apart(train: Sequence[ImageList], val: Sequence[ImageList]) -> None:
    if not val:
        raise UserError(
            f"--val-set: nothing to validate on, as {name_some([str(listed.folder) for listed in train])} has no test "
            "set with annotations; give --train-set train --val-set val"
        )
    ids = {(listed.year, number) for listed in train for number in listed.ids}
    shared = [number for listed in val for number in listed.ids if (listed.year, number) in ids]
    if shared:
        raise UserError(
            f"--train-set {train[0].name} and --val-set {val[0].name} share {len(shared):,} images "
            f"({name_some(shared, 3)}); choose train and val, or trainval and test"
        )


def _count_notes(part: str, listed: ImageList) -> list[str]:
    published, count = PUBLISHED[listed.year][listed.name], len(listed.ids)
    known = "as published" if count == published else f"not {published:,} as published"
    notes = [f"{part}: {listed} lists {count:,} images, {known}"]
    if listed.num_repeated:
        notes.append(f"{part}: {listed} repeats {listed.num_repeated:,} lines, which count once")
    return notes


@dataclass
class _Labels:
    """The labels of a part, as they are read: entries (rows, columns, values) and a row an image.

    Attributes:
        places: like ``file_names``, None where there is no such image.
        num_difficult: labels of classes whose objects in the image are all difficult.
    """

    image_ids: list[int] = field(default_factory=list)
    file_names: list[str] = field(default_factory=list)
    places: list[str | None] = field(default_factory=list)
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    num_difficult: int = 0

    def images(self) -> LabelledImages:
        """The same as tensors."""
        rows, columns, values = torch.tensor(self.entries, dtype=torch.int64).reshape(-1, 3).unbind(dim=1)
        unlisted = torch.zeros(len(self.image_ids), dtype=torch.int8)
        targets = LabelMatrix.from_entries(rows, columns, values, unlisted=unlisted, num_labels=len(CLASSES))
        return LabelledImages(tuple(self.image_ids), tuple(self.file_names), targets)


def _read_labels(lists: Sequence[ImageList], source: Path, difficult: str) -> _Labels:
    """Read the annotations of these lists; file names are relative to ``source``."""
    labels = _Labels()
    for listed in lists:
        folder = listed.folder / "JPEGImages"
        on_disk = set(os.listdir(folder)) if folder.is_dir() else set()
        prefix = folder.relative_to(source).as_posix()
        absent = []
        for number in tqdm(listed.ids, desc=str(listed), unit="file", disable=None, leave=False):
            try:
                objects = read_objects(listed.folder / "Annotations" / f"{number}.xml", _COLUMN)
            except FileNotFoundError:
                absent.append(number)
                continue
            row, name = len(labels.image_ids), f"{number}.jpg"
            labels.image_ids.append(int(number.replace("_", "")))
            labels.file_names.append(f"{prefix}/{name}")
            labels.places.append(f"{prefix}/{name}" if name in on_disk else None)
            clear = {column for column, is_difficult in objects if not is_difficult}
            doubtful = {column for column, _ in objects} - clear
            labels.entries += [(row, column, 1) for column in sorted(clear)]
            labels.entries += [(row, column, _VALUE[difficult]) for column in sorted(doubtful)]
            labels.num_difficult += len(doubtful)
        if absent:
            raise UserError(
                f"--source {listed.folder}: {len(absent):,} of the {len(listed.ids):,} images of {listed} have no "
                f"XML file in Annotations ({name_some(absent, 3)}); unpack the archive again"
            )
    return labels
