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

from src.config.data_sets import OpenImagesSettings
from src.data.labels import LabelledImages, LabelMatrix
from src.data.official import read_array_pickle
from src.errors import UserError, name_some, raise_collected
from src.prepare.collected import Collected
from src.prepare.files import ImageFilter, holds_out_none, images_below, list_files, pick_files, read_names
from src.prepare.image_names import ImageNames
from src.prepare.open_images_files import Verdicts, read_verdicts
from src.utils.files import read_lines

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
    listing = images_below(settings.images, settings.missing_pictures)
    index = None if listing is None or settings.images is None else ImageNames(listing.names, settings.images)
    files = _find(settings)
    classes, notes = _classes(settings, files)
    notes += [] if listing is None else listing.notes
    on_disk = ImageFilter(settings.missing_pictures, "--images", "" if index is None else index.searched)
    parts: dict[str, LabelledImages] = {}
    for part, source in (("train", "train"), ("val", settings.val_part)):
        parts[part], part_notes = _read_part(part, source, files, classes, settings.machine_labels)
        notes += part_notes
        if index is not None:
            place_of = index.find(parts[part].file_names, copies=True).place_of
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


def _read_part(
    part: str, source: str, files: Mapping[str, Path], classes: Classes, machine_labels: float | None
) -> tuple[LabelledImages, list[str]]:
    """Read the labels of a part, and what to report.

    Validation keeps images that have labels of other classes only: the ``all-images`` protocol counts them.
    """
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
    kept = verdicts if part == "val" else verdicts.without_foreign()
    if not len(kept.images):
        raise UserError(f"{path}: says nothing about the seen and unseen classes; get it again")
    strangers = len(verdicts.images) - len(kept.images)
    if strangers:
        notes.append(f"{part}: left out {strangers:,} images that have labels of other classes only")
    return _images(kept, len(classes.labels)), notes


def _images(verdicts: Verdicts, num_labels: int) -> LabelledImages:
    """Return one row per image, in ascending ImageID; classes without a verdict are unknown."""
    known = verdicts.columns >= 0
    rows, columns, values = (
        torch.from_numpy(array[known]) for array in (verdicts.rows, verdicts.columns, verdicts.values)
    )
    unlisted = torch.full((len(verdicts.images),), -1, dtype=torch.int8)
    targets = LabelMatrix.from_entries(rows, columns, values, unlisted=unlisted, num_labels=num_labels)
    names = tuple(f"{number:016x}.jpg" for number in verdicts.images.tolist())
    return LabelledImages(tuple(range(1, len(names) + 1)), names, targets)


def _classes(settings: OpenImagesSettings, files: Mapping[str, Path]) -> tuple[Classes, list[str]]:
    """Return the classes of both sides, and what to report about them."""
    name_of = _read_names_of_mids(files[DESCRIPTIONS])
    notes: list[str] = []
    sides: list[list[str]] = []
    for side, own, read, published in (
        ("seen", settings.seen, _read_seen, 7_186),
        ("unseen", settings.unseen, _read_unseen, 400),
    ):
        if own is None:
            sides.append(_mids(read(files), name_of, f"--source {settings.source}, {side} classes"))
            compared = ", as published" if len(sides[-1]) == published else f"; published: {published:,}"
            notes.append(f"{len(sides[-1]):,} {side} classes{compared}")
        elif side == "unseen" and holds_out_none(own):
            sides.append([])
        else:
            sides.append(_mids(read_names(own, f"--{side}"), name_of, f"--{side} {own}"))
    seen, unseen = sides
    both = sorted(set(seen) & set(unseen))
    if both:
        raise UserError(f"--unseen: classes that are seen as well: {name_some(both)}; take them out of one list")
    mids = (*seen, *unseen)
    times = Counter(name_of[mid] for mid in mids)
    labels = tuple(name_of[mid] if times[name_of[mid]] == 1 else f"{name_of[mid]} ({mid})" for mid in mids)
    texts = {label: name_of[mid] for label, mid in zip(labels, mids, strict=True) if label != name_of[mid]}
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
    choices = {entry: [entry] if entry in name_of else mids_of.get(entry, []) for entry in entries}
    found = [mids[0] for mids in choices.values() if len(mids) == 1]
    wrong = {
        "not in class-descriptions.csv": [entry for entry, mids in choices.items() if not mids],
        "names of several classes, give their MIDs": [entry for entry, mids in choices.items() if len(mids) > 1],
        "named more than once": [mid for mid, times in Counter(found).items() if times > 1],
    }
    raise_collected([f"{source}: {what}: {name_some(entries)}" for what, entries in wrong.items() if entries])
    return found


def _read_seen(files: Mapping[str, Path]) -> list[str]:
    return read_names(files[TRAINABLE], "--source")


def _read_unseen(files: Mapping[str, Path]) -> list[str]:
    """Read the 400 unseen MIDs: indices, from 0, into a list of those that are not trainable."""
    every = read_array_pickle(files[UNSEEN_LIST])
    if not isinstance(every, (list, tuple, np.ndarray)) or not all(isinstance(mid, str) for mid in every):
        raise UserError(f"{files[UNSEEN_LIST]}: holds no list of MIDs; get the file again")
    path = files[UNSEEN_INDICES]
    lines = read_names(path, "--source")
    wrong = [line for line in lines if not (line.isdecimal() and int(line) < len(every))]
    if wrong:
        raise UserError(f"{path}: not indices from 0 to {len(every) - 1}: {name_some(wrong)}; get the file again")
    return [str(every[int(line)]) for line in lines]
