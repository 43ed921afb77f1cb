"""Open Images v4, image-level labels: 7,186 seen and 400 unseen classes.

"The Open Images Dataset V4" (IJCV 2020), in the zero-shot split of LESA and BiAM. --source holds, at any depth:

    {train,validation,test}-annotations-human-imagelabels.csv      ImageID,Source,LabelName,Confidence: 1 or 0
    {train,validation,test}-annotations-machine-imagelabels.csv    with --machine-labels; Confidence from 0 to 1
    class-descriptions.csv                                         MID,name
    classes-trainable.txt                                          the seen classes, a MID a line
    unseen_labels.pkl, top_400_unseen.csv                          2,594 MIDs, and the places of 400 in that list

People verified some classes of each image: these are present or absent, all others are unknown. Columns are the seen
classes in the order of their file, then the unseen ones in that of theirs. A class is called by its name; the names
that several classes have get the MID behind them, "Bat (/m/01h44)".
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.config.arguments import fraction
from src.data.labels import LabelledImages, LabelMatrix
from src.data.official import read_array_pickle
from src.errors import UserError, name_some, raise_collected
from src.prepare.collected import Collected
from src.prepare.flags import (
    add_missing_pictures_flag,
    add_output_flags,
    add_split_flags,
    add_vector_flags,
    read_names,
    run_source,
)
from src.prepare.images import keep_found, list_images
from src.prepare.open_images_files import Verdicts, read_verdicts
from src.utils.files import read_lines

HELP = "Open Images v4: 7,186 seen and 400 unseen classes"

PUBLISHED = {"seen classes": 7_186, "unseen classes": 400}
CLASS_FILES = ("class-descriptions.csv", "classes-trainable.txt")
UNSEEN_FILES = ("unseen_labels.pkl", "top_400_unseen.csv")


@dataclass(frozen=True)
class Classes:
    """The classes in the order of the label columns.

    Attributes:
        mids: [C], for instance ``/m/01h44``.
        labels: [C], their unique names.
        texts: label -> name, for labels that are not just the name.
        num_seen: the first so many are seen, the others unseen.
    """

    mids: tuple[str, ...]
    labels: tuple[str, ...]
    texts: dict[str, str]
    num_seen: int


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``prepare_data.py open-images``."""
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="folder with the files above")
    parser.add_argument(
        "--val-part", choices=("test", "validation"), default="test", help="which images validation is on"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder: ImageID.jpg at any depth")
    add_missing_pictures_flag(parser)
    parser.add_argument(
        "--machine-labels",
        type=fraction,
        metavar="CONFIDENCE",
        help="where people did not verify a class, take it as present if a machine is as sure as this",
    )
    parser.add_argument("--seen", type=Path, metavar="FILE", help="other seen classes, a MID or unique name a line")
    parser.add_argument("--unseen", type=Path, metavar="FILE", help="other unseen classes, a MID or unique name a line")
    add_output_flags(parser)
    add_vector_flags(parser)
    add_split_flags(parser)


def run(args: argparse.Namespace) -> list[str]:
    """``prepare_data.py open-images``: the report."""
    return run_source(args, collect)


def collect(args: argparse.Namespace) -> Collected:
    """Read Open Images, the label files in a stream.

    Raises:
        UserError: a file is missing or malformed, classes are unknown or on both sides, or images are missing.
    """
    if args.missing_pictures == "drop" and args.images is None:
        raise UserError("--missing-pictures drop needs --images, the folder to look in")
    files = _find(args)
    place_of = None if args.images is None else _places(args.images)
    classes, notes = _classes(args, files)
    parts: dict[str, LabelledImages] = {}
    missing: list[str] = []
    for part, source in (("train", "train"), ("val", args.val_part)):
        verdicts = read_verdicts(files[_human(source)], {mid: column for column, mid in enumerate(classes.mids)})
        notes += _notes(part, verdicts)
        if args.machine_labels is not None:
            machine = read_verdicts(
                files[_machine(source)],
                {mid: column for column, mid in enumerate(classes.mids)},
                least_confidence=args.machine_labels,
            )
            verdicts, added = verdicts.joined(machine)
            notes.append(f"{part}: {added:,} labels by machines that are {args.machine_labels:g} sure or more")
        images = _images(verdicts, len(classes.labels), keep_all=part == "val")
        if not len(images):
            raise UserError(f"{files[_human(source)]}: says nothing about the seen and unseen classes; get it again")
        strangers = len(verdicts.images) - len(images)
        if strangers:
            notes.append(f"{part}: left out {strangers:,} images with verdicts about other classes only")
        if place_of is not None:
            places = [place_of.get(name) for name in images.file_names]
            before = len(missing)
            images = keep_found(
                images, places, drop=args.missing_pictures == "drop", missing=missing, source=f"{source} labels"
            )
            if len(missing) > before:
                notes.append(f"{part}: left out {len(missing) - before:,} images that are not in {args.images}")
        parts[part] = images
    return Collected(
        "open_images",
        classes.labels,
        parts,
        image_root=None if args.images is None else os.path.abspath(args.images),
        seen=classes.labels[: classes.num_seen],
        unseen=classes.labels[classes.num_seen :],
        texts=classes.texts,
        notes=notes,
        missing_pictures=missing,
    )


def _human(part: str) -> str:
    return f"{part}-annotations-human-imagelabels.csv"


def _machine(part: str) -> str:
    return f"{part}-annotations-machine-imagelabels.csv"


def _find(args: argparse.Namespace) -> dict[str, Path]:
    """The files that are needed, by name, from anywhere below ``--source``."""
    if not args.source.is_dir():
        raise UserError(f"--source {args.source}: no such folder")
    needed = [CLASS_FILES[0], _human("train"), _human(args.val_part)]
    needed += [] if args.seen is not None else [CLASS_FILES[1]]
    needed += [] if args.unseen is not None else UNSEEN_FILES
    needed += [] if args.machine_labels is None else [_machine("train"), _machine(args.val_part)]
    found: dict[str, Path] = {}
    problems = []
    for folder, subfolders, names in os.walk(args.source, followlinks=True):
        subfolders.sort()
        for name in sorted(set(names) & set(needed)):
            first = found.setdefault(name, Path(folder) / name)
            if first.parent != Path(folder):
                problems.append(f"--source {args.source}: {name} is there twice: in {first.parent} and in {folder}")
    absent = [name for name in needed if name not in found]
    if absent:
        problems.append(f"--source {args.source}: has no {', '.join(absent)}; is this the Open Images folder?")
    raise_collected(problems)
    return found


def _places(root: Path) -> Mapping[str, str]:
    """``ImageID.jpg`` -> where it is below ``root``."""
    places: dict[str, str] = {}
    for place in list_images(root):
        places.setdefault(place.rpartition("/")[2], place)
    return places


def _classes(args: argparse.Namespace, files: Mapping[str, Path]) -> tuple[Classes, list[str]]:
    """The classes of both sides, and what a report should say of them."""
    name_of = _read_names_of_mids(files[CLASS_FILES[0]])
    if args.seen is None:
        path = files[CLASS_FILES[1]]
        seen = _mids([line for line in read_lines(path, "--source") if line], name_of, str(path))
    else:
        seen = _mids(read_names(args.seen, "--seen"), name_of, f"--seen {args.seen}")
    if args.unseen is None:
        unseen = _mids(_read_unseen(files), name_of, str(files[UNSEEN_FILES[0]]))
    else:
        unseen = _mids(read_names(args.unseen, "--unseen"), name_of, f"--unseen {args.unseen}")
    both = sorted(set(seen) & set(unseen))
    if both:
        raise UserError(f"--unseen: classes that are seen as well: {name_some(both)}; take them out of one list")
    mids = (*seen, *unseen)
    times = Counter(name_of[mid] for mid in mids)
    labels = tuple(name_of[mid] if times[name_of[mid]] == 1 else f"{name_of[mid]} ({mid})" for mid in mids)
    texts = {label: name_of[mid] for label, mid in zip(labels, mids, strict=True) if label != name_of[mid]}
    notes = []
    for what, published, own, count in zip(
        PUBLISHED, PUBLISHED.values(), (args.seen, args.unseen), (len(seen), len(unseen)), strict=True
    ):
        if own is None:
            notes.append(
                f"{count:,} {what}" + (", as published" if count == published else f"; published: {published:,}")
            )
    if texts:
        notes.append(f"{len(texts):,} classes share their name with another and have their MID behind it")
    return Classes(mids, labels, texts, len(seen)), notes


def _read_names_of_mids(path: Path) -> dict[str, str]:
    """``class-descriptions.csv``: MID -> name. Version 5 begins with a line of column names."""
    name_of: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "--source"), start=1):
        if not line or (number == 1 and line == "LabelName,DisplayName"):
            continue
        try:
            mid, name = next(csv.reader([line], strict=True))  # a line by itself: a quote left open ends there
        except (csv.Error, ValueError):
            mid, name = "", ""
        name = name.strip()
        if not mid.startswith("/") or not name:
            raise UserError(f"{path}, line {number}: not 'MID,name': {line[:120]!r}; get the file again")
        if name_of.setdefault(mid, name) != name:
            raise UserError(f"{path}, line {number}: {mid} is {name!r} here and {name_of[mid]!r} before; get it again")
    return name_of


def _mids(entries: Sequence[str], name_of: Mapping[str, str], source: str) -> list[str]:
    """MIDs of entries that are MIDs or names of one class only."""
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
    """The 400 unseen MIDs: places, from 0, in a list of those that are not trainable."""
    every = read_array_pickle(files[UNSEEN_FILES[0]])
    if not isinstance(every, (list, tuple, np.ndarray)) or not all(isinstance(mid, str) for mid in every):
        raise UserError(f"{files[UNSEEN_FILES[0]]}: holds no list of MIDs; get the file again")
    path = files[UNSEEN_FILES[1]]
    lines = [line for line in read_lines(path, "--source") if line]
    wrong = [
        line for line, times in Counter(lines).items() if times > 1 or not (line.isdecimal() and int(line) < len(every))
    ]
    if wrong:
        raise UserError(
            f"{path}: not places from 0 to {len(every) - 1}, each once: {name_some(wrong)}; get the file again"
        )
    return [str(every[int(line)]) for line in lines]


def _images(verdicts: Verdicts, num_labels: int, keep_all: bool) -> LabelledImages:
    """One row an image, in ascending ImageID.

    Args:
        keep_all: keep those with verdicts about other classes only: the ``all-images`` protocol counts them.
    """
    if not keep_all:
        verdicts = verdicts.without_foreign()
    about_us = verdicts.columns >= 0
    rows, columns, values = (
        torch.from_numpy(array[about_us]) for array in (verdicts.rows, verdicts.columns, verdicts.values)
    )
    unlisted = torch.full((len(verdicts.images),), -1, dtype=torch.int8)
    targets = LabelMatrix.from_entries(rows, columns, values, unlisted=unlisted, num_labels=num_labels)
    names = tuple(f"{number:016x}.jpg" for number in verdicts.images.tolist())
    return LabelledImages(tuple(range(1, len(names) + 1)), names, targets)


def _notes(part: str, verdicts: Verdicts) -> list[str]:
    notes = [f"{part}: {len(verdicts.rows):,} verdicts by people on {len(verdicts.images):,} images"]
    foreign = int((verdicts.columns < 0).sum())
    if foreign:
        notes.append(f"{part}: left out {foreign:,} verdicts about other classes")
    conflicts = verdicts.num_conflicts()
    if conflicts:
        notes.append(f"{part}: {conflicts:,} classes of an image are both present and absent; taken as present")
    return notes
