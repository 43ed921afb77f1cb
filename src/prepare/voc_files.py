"""The files of Pascal VOC: folders of a year, lists of images, and annotations."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.prepare.voc_xml import read_annotation
from src.utils.files import read_lines

_IMAGE_ID = {2007: re.compile(r"\d{6}"), 2012: re.compile(r"20\d\d_\d{6}")}
LISTS = Path("ImageSets", "Main")
LIST_NAMES = ("train", "val", "trainval", "test")
_DEPTH = 3  # VOCtrainval_06-Nov-2007/VOCdevkit/VOC2007


@dataclass(frozen=True)
class ImageList:
    """A list of ImageSets/Main.

    Attributes:
        year: of the challenge.
        name: ``train``, ``val``, ``trainval`` or ``test``.
        folder: holds ImageSets, Annotations and JPEGImages.
        ids: the listed images, each once.
        num_repeated: lines left out because they repeat an earlier one.
    """

    year: int
    name: str
    folder: Path
    ids: tuple[str, ...]
    num_repeated: int

    def __str__(self) -> str:
        return f"VOC{self.year} {self.name}"

    def annotation(self, image_id: str) -> Path:
        """Return the annotation file of an image."""
        return self.folder / "Annotations" / f"{image_id}.xml"


def folders_with_lists(source: Path) -> list[Path]:
    """Find the folders in ``source`` that hold ImageSets/Main.

    Raises:
        UserError: there is no folder ``source``.
    """
    if not source.is_dir():
        raise UserError(f"--source {source}: no such folder")
    lists = [path for depth in range(_DEPTH + 1) for path in sorted(source.glob("*/" * depth + str(LISTS)))]
    return [path.parent.parent for path in lists]


def has_ids_of_voc(folders: Sequence[Path]) -> bool:
    """Return whether the lists of these folders name images as VOC does, for the most part."""
    lines = [
        line
        for folder in folders
        for name in LIST_NAMES
        if has_list([folder], name)
        for line in read_lines(folder / LISTS / f"{name}.txt", "--source")
    ]
    of_voc = sum(any(form.fullmatch(line) for form in _IMAGE_ID.values()) for line in lines)
    return 2 * of_voc >= len(lines)


def folders_of_years(source: Path) -> dict[int, list[Path]]:
    """Return the folders with lists by the year in their name or in the next name above.

    Raises:
        UserError: there is none, or no name tells its year.
    """
    found: dict[int, list[Path]] = {}
    for folder in folders_with_lists(source):
        whole = Path(os.path.abspath(folder))
        years = (re.search("2007|2012", named.name) for named in (whole, *whole.parents))
        year = next((match[0] for match in years if match), None)
        if year is None:
            raise UserError(f"--source {folder}: its name tells no year; rename the folder to VOC2007 or VOC2012")
        found.setdefault(int(year), []).append(folder)
    if not found:
        raise UserError(f"--source {source}: no folder in it has ImageSets/Main; give VOCdevkit, VOC2007 or VOC2012")
    return found


def has_list(folders: Sequence[Path], name: str) -> bool:
    """Return whether one of the folders of a year has that list."""
    return any((folder / LISTS / f"{name}.txt").is_file() for folder in folders)


def read_list(year: int, name: str, folders: Sequence[Path], flag: str) -> ImageList:
    """Read the list ``name`` of a year, which one of its folders holds; ``flag`` asked for it.

    Raises:
        UserError: no folder has the list, or several have it, or it is empty, or a line is no image id of that year.
    """
    holders = [folder for folder in folders if has_list([folder], name)]
    if not holders:
        raise UserError(
            f"{flag} {name}: {folders[0]} has no ImageSets/Main/{name}.txt; unpack the archive that has it into the "
            "same folder, or choose another set"
        )
    if len(holders) > 1:
        raise UserError(f"{flag} {name}: VOC{year} has two such lists, in {holders[0]} and {holders[1]}; remove one")
    path = holders[0] / LISTS / f"{name}.txt"
    lines = read_lines(path, "--source")
    for number, line in enumerate(lines, start=1):
        if line and not _IMAGE_ID[year].fullmatch(line):
            raise UserError(
                f"--source {path}, line {number}: {line!r} is no image id of VOC{year}; copy or unpack the file again"
            )
    listed = [line for line in lines if line]
    if not listed:
        raise UserError(f"--source {path}: lists no image; copy or unpack the file again")
    ids = tuple(dict.fromkeys(listed))
    return ImageList(year, name, holders[0], ids, len(listed) - len(ids))


class ForeignClassError(UserError):
    """An object of a class that is none of VOC's."""


def read_objects(path: Path, classes: Mapping[str, int]) -> list[tuple[int, bool]]:
    """Read the objects of an annotation file, as (class, whether it is difficult).

    Args:
        path: an XML file.
        classes: name -> number.

    Raises:
        ForeignClassError: an object is of another class.
        UserError: as :func:`src.prepare.voc_xml.read_annotation`.
    """
    objects = read_annotation(path).objects
    for name, _ in objects:
        if name not in classes:
            raise ForeignClassError(
                f"{path}: an object's name is {name[:80]!r}, which is none of VOC's {len(classes)} classes; for "
                "annotations with classes of your own, give --classes own"
            )
    return [(classes[name], difficult) for name, difficult in objects]
