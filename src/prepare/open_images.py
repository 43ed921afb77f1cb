"""Open Images v4, image-level labels (see ``OpenImagesSettings`` for the layout)."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.config.sources import OpenImagesSettings
from src.data.labels import LabelledImages, LabelMatrix
from src.data.official import read_array_pickle
from src.errors import UserError, name_some, raise_collected
from src.prepare.collected import Collected
from src.prepare.files import ImageFilter, list_files, list_images, pick_files, read_names
from src.prepare.open_images_files import Verdicts, read_verdicts
from src.utils.files import read_lines

PUBLISHED = {"seen classes": 7_186, "unseen classes": 400}
DESCRIPTIONS, TRAINABLE = "class-descriptions.csv", "classes-trainable.txt"
UNSEEN_LIST, UNSEEN_INDICES = "unseen_labels.pkl", "top_400_unseen.csv"


@dataclass(frozen=True)
class Classes:
    """The classes in the order of the label columns.

    Attributes:
        mids: [C], for instance ``/m/01h44``.
        labels: [C], unique names.
        texts: label -> name, for labels that are not just the name.
        num_seen: number of seen classes, which come first; the others are unseen.
    """

    mids: tuple[str, ...]
    labels: tuple[str, ...]
    texts: dict[str, str]
    num_seen: int


def collect(settings: OpenImagesSettings) -> Collected:
    """Read Open Images; the label files are streamed.

    Raises:
        UserError: a file is missing or malformed, classes are unknown or on both sides, or images are missing.
    """
    if settings.missing_pictures == "drop" and settings.images is None:
        raise UserError("--missing-pictures drop needs --images, the folder to look in")
    files = _find(settings)
    place_of = None if settings.images is None else _places(settings.images)
    classes, notes = _classes(settings, files)
    on_disk = ImageFilter(settings.missing_pictures, "--images")
    parts: dict[str, LabelledImages] = {}
    for part, source in (("train", "train"), ("val", settings.val_part)):
        parts[part], part_notes = _read_part(part, source, files, classes, settings.machine_labels)
        notes += part_notes
        if place_of is not None:
            places = [place_of.get(name) for name in parts[part].file_names]
            parts[part] = on_disk.keep(parts[part], places, f"{source} labels")
    return Collected(
        "open_images",
        classes.labels,
        parts,
        image_root=None if settings.images is None else os.path.abspath(settings.images),
        seen=classes.labels[: classes.num_seen],
        unseen=classes.labels[classes.num_seen :],
        texts=classes.texts,
        notes=notes + on_disk.notes,
        missing_pictures=on_disk.missing,
    )


def _label_file(part: str, kind: str) -> str:
    return f"{part}-annotations-{kind}-imagelabels.csv"


def _find(settings: OpenImagesSettings) -> dict[str, Path]:
    """Find the files that are needed, by name, at any depth below ``--source``."""
    kinds = ("human",) if settings.machine_labels is None else ("human", "machine")
    needed = [DESCRIPTIONS, *(_label_file(part, kind) for kind in kinds for part in ("train", settings.val_part))]
    needed += [] if settings.seen is not None else [TRAINABLE]
    needed += [] if settings.unseen is not None else [UNSEEN_LIST, UNSEEN_INDICES]
    listed = list_files(settings.source, (".csv", ".txt", ".pkl"))
    return pick_files(listed, needed, f"--source {settings.source}", "is this the Open Images folder?")


def _places(root: Path) -> Mapping[str, str]:
    """Return the place below ``root`` of each ``ImageID.jpg``."""
    places: dict[str, str] = {}
    for place in list_images(root):
        places.setdefault(place.rpartition("/")[2], place)
    return places


def _read_part(
    part: str, source: str, files: Mapping[str, Path], classes: Classes, machine_labels: float | None
) -> tuple[LabelledImages, list[str]]:
    """Read the labels of a part, and what to report."""
    column_of = {mid: column for column, mid in enumerate(classes.mids)}
    path = files[_label_file(source, "human")]
    verdicts = read_verdicts(path, column_of)
    notes = [f"{part}: {len(verdicts.rows):,} verified labels of {len(verdicts.images):,} images"]
    foreign, conflicts = int((verdicts.columns < 0).sum()), verdicts.num_conflicts()
    if foreign:
        notes.append(f"{part}: left out {foreign:,} verified labels of other classes")
    if conflicts:
        notes.append(f"{part}: {conflicts:,} classes of an image are both present and absent; taken as present")
    if machine_labels is not None:
        machine = read_verdicts(files[_label_file(source, "machine")], column_of, least_confidence=machine_labels)
        verdicts, added = verdicts.joined(machine)
        notes.append(f"{part}: {added:,} machine-generated labels of confidence {machine_labels:g} or more")
    images = _images(verdicts, len(classes.labels), keep_all=part == "val")
    if not len(images):
        raise UserError(f"{path}: says nothing about the seen and unseen classes; get it again")
    strangers = len(verdicts.images) - len(images)
    if strangers:
        notes.append(f"{part}: left out {strangers:,} images that have labels of other classes only")
    return images, notes


def _classes(settings: OpenImagesSettings, files: Mapping[str, Path]) -> tuple[Classes, list[str]]:
    """Return the classes of both sides, and what to report about them."""
    name_of = _read_names_of_mids(files[DESCRIPTIONS])
    if settings.seen is None:
        path = files[TRAINABLE]
        seen = _mids([line for line in read_lines(path, "--source") if line], name_of, str(path))
    else:
        seen = _mids(read_names(settings.seen, "--seen"), name_of, f"--seen {settings.seen}")
    if settings.unseen is None:
        unseen = _mids(_read_unseen(files), name_of, str(files[UNSEEN_LIST]))
    else:
        unseen = _mids(read_names(settings.unseen, "--unseen"), name_of, f"--unseen {settings.unseen}")
    both = sorted(set(seen) & set(unseen))
    if both:
        raise UserError(f"--unseen: classes that are seen as well: {name_some(both)}; take them out of one list")
    mids = (*seen, *unseen)
    times = Counter(name_of[mid] for mid in mids)
    labels = tuple(name_of[mid] if times[name_of[mid]] == 1 else f"{name_of[mid]} ({mid})" for mid in mids)
    texts = {label: name_of[mid] for label, mid in zip(labels, mids, strict=True) if label != name_of[mid]}
    notes = []
    for (what, published), own, side in zip(
        PUBLISHED.items(), (settings.seen, settings.unseen), (seen, unseen), strict=True
    ):
        if own is None:
            compared = ", as published" if len(side) == published else f"; published: {published:,}"
            notes.append(f"{len(side):,} {what}{compared}")
    if texts:
        notes.append(f"{len(texts):,} classes share their name with another and have their MID appended")
    return Classes(mids, labels, texts, len(seen)), notes


def _read_names_of_mids(path: Path) -> dict[str, str]:
    """Read ``class-descriptions.csv``: MID -> name. Version 5 begins with a line of column names."""
    name_of: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "--source"), start=1):
        if not line or (number == 1 and line == "LabelName,DisplayName"):
            continue
        try:
            mid, name = next(csv.reader([line], strict=True))  # one line at a time: an open quote ends with it
        except (csv.Error, ValueError):
            mid, name = "", ""
        name = name.strip()
        if not mid.startswith("/") or not name:
            raise UserError(f"{path}, line {number}: not 'MID,name': {line[:120]!r}; get the file again")
        if name_of.setdefault(mid, name) != name:
            raise UserError(f"{path}, line {number}: {mid} is {name!r} here and {name_of[mid]!r} before; get it again")
    return name_of


def _mids(entries: Sequence[str], name_of: Mapping[str, str], source: str) -> list[str]:
    """Return the MIDs of entries, which are MIDs or names of one class only."""
    mids_of: dict[str, list[str]] = {}
    for mid, name in name_of.items():
        mids_of.setdefault(name, []).append(mid)
    found = [entry if entry in name_of else (mids_of.get(entry) or [""])[0] for entry in entries]
    unknown = [entry for entry, mid in zip(entries, found, strict=True) if not mid]
    ambiguous = [entry for entry in entries if entry not in name_of and len(mids_of.get(entry, ())) > 1]
    repeated = [mid for mid, times in Counter(found).items() if times > 1 and mid]
    problems = [] if entries else [f"{source}: names nothing; get the file again"]
    problems += [f"{source}: not in class-descriptions.csv: {name_some(unknown)}"] if unknown else []
    problems += [f"{source}: names of several classes: {name_some(ambiguous)}; give their MIDs"] if ambiguous else []
    problems += [f"{source}: named more than once: {name_some(repeated)}"] if repeated else []
    raise_collected(problems)
    return found


def _read_unseen(files: Mapping[str, Path]) -> list[str]:
    """Read the 400 unseen MIDs: indices, from 0, into a list of those that are not trainable."""
    every = read_array_pickle(files[UNSEEN_LIST])
    if not isinstance(every, (list, tuple, np.ndarray)) or not all(isinstance(mid, str) for mid in every):
        raise UserError(f"{files[UNSEEN_LIST]}: holds no list of MIDs; get the file again")
    path = files[UNSEEN_INDICES]
    lines = [line for line in read_lines(path, "--source") if line]
    wrong = [
        line for line, times in Counter(lines).items() if times > 1 or not (line.isdecimal() and int(line) < len(every))
    ]
    if wrong:
        raise UserError(
            f"{path}: not indices from 0 to {len(every) - 1}, each once: {name_some(wrong)}; get the file again"
        )
    return [str(every[int(line)]) for line in lines]


def _images(verdicts: Verdicts, num_labels: int, keep_all: bool) -> LabelledImages:
    """Return one row per image, in ascending ImageID.

    Args:
        keep_all: keep images that have labels of other classes only: the ``all-images`` protocol counts them.
    """
    if not keep_all:
        verdicts = verdicts.without_foreign()
    known = verdicts.columns >= 0
    rows, columns, values = (
        torch.from_numpy(array[known]) for array in (verdicts.rows, verdicts.columns, verdicts.values)
    )
    unlisted = torch.full((len(verdicts.images),), -1, dtype=torch.int8)
    targets = LabelMatrix.from_entries(rows, columns, values, unlisted=unlisted, num_labels=num_labels)
    names = tuple(f"{number:016x}.jpg" for number in verdicts.images.tolist())
    return LabelledImages(tuple(range(1, len(names) + 1)), names, targets)
