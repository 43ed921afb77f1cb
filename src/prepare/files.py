"""Finding the files of a data set, and reading lists of names."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from src.data.images import SUFFIXES
from src.data.labels import LabelledImages
from src.data.split import columns_of
from src.errors import UserError, name_some, raise_collected
from src.utils.files import read_lines


def read_names(path: Path, flag: str) -> list[str]:
    """Read a list of names, one per line; blank lines are left out.

    Raises:
        UserError: the file cannot be read, is empty, or repeats a name.
    """
    names = [line for line in read_lines(path, flag) if line]
    if not names:
        raise UserError(f"{flag} {path}: names nothing; give one name per line")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{flag} {path}: named more than once: {name_some(repeated)}")
    return names


def read_label_names(path: Path, flag: str, labels: Sequence[str]) -> list[str]:
    """Read a list of labels as :func:`read_names` does.

    Raises:
        UserError: as ``read_names``, or a name is no label.
    """
    names = read_names(path, flag)
    columns_of(names, labels, f"{flag} {path}")
    return names


def _walk(root: Path, flag: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below ``root``, relative to it, with its files; links are followed, hidden folders skipped."""
    if not root.is_dir():
        raise UserError(f"{flag} {root}: no such folder")
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield os.path.relpath(folder, root), sorted(names)


def list_files(root: Path, suffixes: Collection[str], flag: str = "--source") -> dict[str, list[Path]]:
    """Find files below ``root`` by suffix: name in lower case (copies differ in case and nesting) -> paths.

    Raises:
        UserError: there is no such folder.
    """
    found: dict[str, list[Path]] = {}
    for folder, names in _walk(root, flag):
        for name in names:
            if os.path.splitext(name)[1].lower() in suffixes and (root / folder / name).is_file():
                found.setdefault(name.lower(), []).append(root / folder / name)
    return found


def pick_files(listed: Mapping[str, list[Path]], names: Iterable[str], where: str, remedy: str) -> dict[str, Path]:
    """Return the file of each of these names; of several with the same content the first.

    Args:
        listed: see :func:`list_files`.
        names: in any case.
        where: flag and folder, for messages.
        remedy: what to do about missing files, for messages.

    Raises:
        UserError: files are missing, or different ones have the same name: all are listed.
    """
    files, absent, problems = {}, [], []
    for name in names:
        if name.lower() not in listed:
            absent.append(name)
            continue
        files[name], *others = listed[name.lower()]
        problems += [
            f"{where}: {files[name]} and {other} have the same name and different content; remove one of them"
            for other in others
            if not filecmp.cmp(files[name], other, shallow=False)
        ]
    if absent:
        problems.append(f"{where}: {len(absent)} files are missing: {name_some(absent, 12)}; {remedy}")
    raise_collected(problems)
    return files


def list_images(root: Path, flag: str = "--images") -> list[str]:
    """List all image files below ``root`` (by suffix, in either case), sorted, relative to it, with ``/``.

    Raises:
        UserError: there is no such folder.
    """
    found = []
    with tqdm(desc=f"images in {root.name}", unit="file", disable=None, leave=False) as bar:
        for folder, names in _walk(root, flag):
            prefix = "" if folder == "." else folder.replace(os.sep, "/") + "/"
            found += [prefix + name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
            bar.update(len(names))
    return sorted(found)


def images_below(images: Path | None, missing_pictures: str) -> list[str] | None:
    """List the image files below ``--images``; None without that flag.

    Raises:
        UserError: there is no such folder, or ``--missing-pictures drop`` has no folder to look in.
    """
    if images is not None:
        return list_images(images)
    if missing_pictures == "drop":
        raise UserError("--missing-pictures drop needs --images, the folder to look in")
    return None


class ImageFilter:
    """Keep the images that are on disk, under the names that they have there.

    Args:
        missing_pictures: ``error``, or ``drop`` to leave out images that are not there.
        where: flag and folder, for messages.

    Attributes:
        missing: names of the images that were left out.
        notes: lines for the report.
    """

    def __init__(self, missing_pictures: str, where: str) -> None:
        self._drop, self._where = missing_pictures == "drop", where
        self.missing: list[str] = []
        self.notes: list[str] = []

    def keep(self, images: LabelledImages, places: Sequence[str | None], source: str) -> LabelledImages:
        """Return the images that have a place.

        Args:
            images: N of them.
            places: [N], relative to the image folder; None where the image is not there.
            source: name of the list, for messages.

        Raises:
            UserError: images are missing and may not be left out, or all are.
        """
        absent = [name for name, place in zip(images.file_names, places, strict=True) if place is None]
        if absent and (not self._drop or len(absent) == len(images)):
            remedy = "" if len(absent) == len(images) else ", or --missing-pictures drop to leave them out"
            raise UserError(
                f"{self._where}: {len(absent):,} of the {len(images):,} images of {source} are not there "
                f"({name_some(absent, 3)}); give the folder that holds them{remedy}"
            )
        if absent:
            self.notes.append(
                f"left out {len(absent):,} images of {source} that are not on disk, listed in missing_pictures.txt"
            )
        self.missing += absent
        kept = torch.tensor([row for row, place in enumerate(places) if place is not None], dtype=torch.int64)
        found = images.rows(kept)
        return LabelledImages(found.image_ids, tuple(place for place in places if place is not None), found.targets)
