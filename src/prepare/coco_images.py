"""Finding COCO's images under the names that either release gives them, in any sub-folders.

The releases of 2014 and 2017 share images and ids, not names: ``COCO_val2014_000000000042.jpg`` of one is
``000000000042.jpg`` of the other, which may lie in another folder too. The id is unique over train and val.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from src.data.labels import LabelledImages
from src.errors import UserError, name_some

_NUMBER = re.compile(r"(?<!\d)\d{12}$")


def number_in(file_name: str) -> int | None:
    """Return the twelve-digit number at the end of the stem, as in COCO's file names; None if there is none."""
    match = _NUMBER.search(os.path.splitext(file_name)[0])
    return None if match is None else int(match[0])


def identity(image_id: int | str, file_name: str) -> int | str:
    """Return a key that is equal for two entries of the same image.

    It is the id if the file name contains it, as in COCO. Ids of other data may restart in each file, so there it is
    the file name.
    """
    number = number_in(file_name)
    return number if number is not None and str(number) == str(image_id) else file_name


class ImageIndex:
    """Image files below a folder, by name and by COCO's id."""

    def __init__(self, files: Sequence[str]) -> None:
        """Index ``files``: sorted, relative to the folder, with ``/``."""
        self._by_name: dict[str, list[str]] = {}
        self._by_number: dict[tuple[int | None, str], list[str]] = {}
        for file in files:
            self._by_name.setdefault(file.rpartition("/")[2], []).append(file)
            self._by_number.setdefault((number_in(file), _type_of(file)), []).append(file)

    def locate(self, images: LabelledImages, source: str, where: str) -> tuple[list[str | None], int]:
        """Find the images.

        By the exact path or name in any sub-folder; else, if the name holds the image's id, by that id among files of
        the same type (segmentation masks in PNG files carry the ids of the photographs). Of several files with an
        image's id the one with the exact name is taken, or else the first.

        Args:
            images: N of them.
            source: name of the label file, for messages.
            where: flag and image folder, for messages.

        Returns:
            The places, [N], None where there is none; and how many images have several files with their id.

        Raises:
            UserError: a name that is not COCO's is that of several files, none of them at that very place.
        """
        places: list[str | None] = []
        ambiguous: list[str] = []
        num_repeated = 0
        for image_id, listed in zip(images.image_ids, images.file_names, strict=True):
            name = listed.replace("\\", "/")
            key = identity(image_id, listed)
            same_id = self._by_number.get((key, _type_of(name)), []) if isinstance(key, int) else []
            same_name = self._by_name.get(name.rpartition("/")[2], [])
            exact = [name] if name in same_name else [file for file in same_name if file.endswith(f"/{name}")]
            num_repeated += len(same_id) > 1
            if len(exact) > 1 and not isinstance(key, int):
                ambiguous.append(f"{listed}: {', '.join(exact[:2])}")
            places.append(next(iter(exact or same_id), None))
        if ambiguous:
            raise UserError(
                f"{where}: {len(ambiguous):,} file names of {source} are those of several images "
                f"({name_some(ambiguous, 2)}); write the sub-folder into each file_name, or give a folder that holds "
                "each name once"
            )
        return places, num_repeated


def _type_of(file_name: str) -> str:
    suffix = os.path.splitext(file_name)[1].lower()
    return ".jpg" if suffix == ".jpeg" else suffix
