"""Pascal VOC 2007 and 2012, and annotations of its form (see ``VocSettings`` for the layout)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from src.config.data_sets import VocSettings
from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError, name_some
from src.prepare.collected import Collected
from src.prepare.files import ImageFilter, list_files, read_unseen
from src.prepare.voc_files import (
    ForeignClassError,
    ImageList,
    folders_of_years,
    folders_with_lists,
    has_ids_of_voc,
    has_list,
    read_list,
    read_objects,
)
from src.prepare.voc_own import collect_own
from src.prepare.voc_xml import read_annotation

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# Texts to look up for the classes that no word list spells so.
TEXTS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
# Images of the classification task, from the statistics page of each year; only sets with public annotations.
PUBLISHED = {
    2007: {"train": 2_501, "val": 2_510, "trainval": 5_011, "test": 4_952},
    2012: {"train": 5_717, "val": 5_823, "trainval": 11_540},
}
_COLUMN = {name: column for column, name in enumerate(CLASSES)}
_VALUE = {"unknown": -1, "positive": 1, "negative": 0}


def collect(settings: VocSettings) -> Collected:
    """Read Pascal VOC.

    Raises:
        UserError: something is missing or malformed, or the parts share images.
    """
    if _is_own(settings):
        return collect_own(settings)
    _refuse_flags_of_own(settings)
    try:
        return _collect_official(settings)
    except ForeignClassError:
        if settings.classes is None and _names_own_classes(settings.source):
            return collect_own(settings)
        raise


def _is_own(settings: VocSettings) -> bool:
    """Return whether the annotations have classes and images of the user's own."""
    if settings.classes is not None or settings.year is not None:
        return settings.classes == "own"
    folders = folders_with_lists(settings.source)
    return not folders or not has_ids_of_voc(folders)


def _names_own_classes(source: Path) -> bool:
    """Return whether most classes that the annotations name are none of VOC's."""
    files = [path for paths in list_files(source, (".xml",)).values() for path in paths]
    names = {name for path in files for name, _ in read_annotation(path).objects}
    return 2 * len(names - _COLUMN.keys()) > len(names)


def _refuse_flags_of_own(settings: VocSettings) -> None:
    for name in ("images", "val_fraction", "unseen_fraction", "seed"):
        value = getattr(settings, name)
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value}: is about annotations of your own; leave it out, or give --classes own")


def _collect_official(settings: VocSettings) -> Collected:
    if settings.unseen is None:
        raise UserError(
            "--unseen is needed: no division of VOC's classes is a standard for tagging; give a file with the classes "
            f"to hold out, one per line, or none, out of: {', '.join(CLASSES)}"
        )
    unseen = read_unseen(settings.unseen, CLASSES)
    folders = folders_of_years(settings.source)
    years = sorted(folders if settings.year is None else set(settings.year))
    absent = [str(year) for year in years if year not in folders]
    if absent:
        there = [str(folder) for found in folders.values() for folder in found]
        raise UserError(f"--year {' '.join(absent)}: not in --source {settings.source}, which holds {name_some(there)}")
    lists: dict[str, list[ImageList]] = {"train": [], "val": []}
    notes: list[str] = []
    for year in years:
        sets, reasons = _sets(year, folders[year], settings.train_set, settings.val_set)
        notes += reasons
        for part, name in sets.items():
            lists[part].append(read_list(year, name, folders[year], f"--{part}-set"))
    _check_apart(lists["train"], lists["val"])
    parts: dict[str, LabelledImages] = {}
    on_disk = ImageFilter(settings.missing_pictures, f"--source {settings.source}")
    for part, own in lists.items():
        notes += [line for listed in own for line in _count_notes(part, listed)]
        images, places, num_difficult = _read_labels(own, settings.source, settings.difficult)
        if num_difficult:
            why = "as all objects of that class are difficult"
            notes.append(f"{part}: {num_difficult:,} labels taken as {settings.difficult}, {why}")
        parts[part] = on_disk.keep(images, places, " and ".join(map(str, own)))
    return Collected(
        "voc" + "_".join(map(str, years)),
        CLASSES,
        parts,
        image_root=os.path.abspath(settings.source),
        unseen=unseen,
        texts=TEXTS,
        notes=notes + on_disk.notes,
        missing_pictures=on_disk.missing,
    )


def _sets(year: int, folders: Sequence[Path], train: str | None, val: str | None) -> tuple[dict[str, str], list[str]]:
    """Choose the list of a year for each part; explain choices that differ from those of 2007."""
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


def _read_labels(
    lists: Sequence[ImageList], source: Path, difficult: str
) -> tuple[LabelledImages, list[str | None], int]:
    """Read the annotations of these lists.

    Returns:
        The images with their labels; their places relative to ``source``, None for those that are not on disk; and the
        number of labels of classes whose objects in the image are all difficult.
    """
    image_ids: list[int] = []
    names: list[str] = []
    places: list[str | None] = []
    entries: list[tuple[int, int, int]] = []
    num_difficult = 0
    for listed in lists:
        folder = listed.folder / "JPEGImages"
        on_disk = set(os.listdir(folder)) if folder.is_dir() else set()
        absent = [number for number in listed.ids if not listed.annotation(number).is_file()]
        if absent:
            raise UserError(
                f"--source {listed.folder}: {len(absent):,} of the {len(listed.ids):,} images of {listed} have no "
                f"XML file in Annotations ({name_some(absent, 3)}); unpack the archive again"
            )
        for number in tqdm(listed.ids, desc=str(listed), unit="file", disable=None, leave=False):
            objects = read_objects(listed.annotation(number), _COLUMN)
            clear = {column for column, is_difficult in objects if not is_difficult}
            doubtful = {column for column, _ in objects} - clear
            entries += [(len(names), column, 1) for column in clear]
            entries += [(len(names), column, _VALUE[difficult]) for column in doubtful]
            num_difficult += len(doubtful)
            image_ids.append(int(number.replace("_", "")))
            names.append((folder / f"{number}.jpg").relative_to(source).as_posix())
            places.append(names[-1] if f"{number}.jpg" in on_disk else None)
    rows, columns, values = torch.tensor(entries, dtype=torch.int64).reshape(-1, 3).unbind(dim=1)
    unlisted = torch.zeros(len(names), dtype=torch.int8)
    targets = LabelMatrix.from_entries(rows, columns, values, unlisted=unlisted, num_labels=len(CLASSES))
    return LabelledImages(tuple(image_ids), tuple(names), targets), places, num_difficult
