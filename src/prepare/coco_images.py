"""Finding COCO's images under the names that either release gives them, in any sub-folders.

The releases of 2014 and 2017 share images and ids, not names: ``COCO_val2014_000000000042.jpg`` of one is
``000000000042.jpg`` of the other, which may lie in another folder too. The id is unique over train and val.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.data.labels import LabelledImages
from src.prepare.image_names import EXACT, FoundImages, ImageNames, tidy

_NUMBER = re.compile(r"(?<!\d)(\d{12})(\.[^./]*)?$")


def number_in(file_name: str) -> int | None:
    """Return the twelve-digit number at the end of the stem, as in COCO's file names; None if there is none."""
    return _number_and_type(file_name)[0]


def _number_and_type(file_name: str) -> tuple[int | None, str]:
    """Return the number at the end of the stem and the type by the suffix; ``.jpeg`` is ``.jpg``."""
    match = _NUMBER.search(file_name)
    if match is None:
        return None, ""
    suffix = (match[2] or "").rstrip().lower()
    return int(match[1]), ".jpg" if suffix == ".jpeg" else suffix


def identity(image_id: int | str, file_name: str) -> int | str:
    """Return a key that is equal for two entries of the same image.

    It is the id if the file name contains it, as in COCO. Ids of other data may restart in each file, so there it is
    the path of the file, however it is spelt.
    """
    number = number_in(file_name)
    return number if number is not None and str(number) == str(image_id) else tidy(file_name)


class CocoImages:
    """Image files below a folder, by name and by COCO's id."""

    def __init__(self, files: Sequence[str], root: Path) -> None:
        """Index ``files``: sorted, relative to ``root``, with ``/``."""
        self.names = ImageNames(files, root)
        self._by_number: dict[tuple[int | None, str], list[str]] = {}
        for file in files:
            key = _number_and_type(file)
            if key[0] is not None:
                self._by_number.setdefault(key, []).append(file)

    def locate(self, parts: Mapping[str, LabelledImages]) -> tuple[FoundImages, list[str]]:
        """Find the images of all parts, by name; else, if the name holds the image's id, by that id.

        An id is looked up among files of the same type: segmentation masks in PNG files carry the ids of the
        photographs. Of several files with an image's id the one with the exact name is taken, or else the first.

        Returns:
            The places, and what to report.
        """
        found = self.names.find(name for images in parts.values() for name in images.file_names)
        notes: list[str] = []
        for part, images in parts.items():
            num_repeated = num_by_id = 0
            for image_id, listed in zip(images.image_ids, images.file_names, strict=True):
                key = _number_and_type(listed)
                if key[0] is None or str(key[0]) != str(image_id):
                    continue
                same_id = self._by_number.get(key, [])
                num_repeated += len(same_id) > 1
                if listed not in found.place_of and same_id:
                    name = tidy(listed).rpartition("/")[2]
                    place = next((file for file in same_id if file.rpartition("/")[2] == name), same_id[0])
                    found.add(listed, place, EXACT)
                    num_by_id += 1
            notes += found.notes(images.file_names, part)
            if num_by_id:
                notes.append(f"{part}: found {num_by_id:,} images by the id in their name")
            if num_repeated:
                notes.append(
                    f"{part}: {num_repeated:,} images have several files of their id; took the one of their exact "
                    "name, or else the first"
                )
        return found, notes
