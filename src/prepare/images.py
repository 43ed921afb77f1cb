"""Finding images on disk, however people have laid them out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from src.data.images import SUFFIXES
from src.data.labels import LabelledImages
from src.errors import UserError, name_some


def list_images(root: Path, flag: str = "--images") -> list[str]:
    """All image files below ``root`` (by their suffix, in either case), sorted, relative to it, with ``/``.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{flag} {root}: no such folder")
    found = []
    with tqdm(desc=f"images in {root.name}", unit="file", disable=None, leave=False) as bar:
        for folder, subfolders, names in os.walk(root, followlinks=True):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            relative = os.path.relpath(folder, root)
            prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
            found += [prefix + name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
            bar.update(len(names))
    return sorted(found)


def keep_found(
    images: LabelledImages,
    places: Sequence[str | None],
    *,
    drop: bool,
    missing: list[str],
    source: str,
    flag: str = "--images",
) -> LabelledImages:
    """The images that are on disk, under the names they have there.

    Args:
        images: N of them.
        places: [N], where each is below the image folder; None where it is not there.
        drop: leave out those that are not there, which is otherwise an error.
        missing: the names of those left out are added here.
        source: what lists them, for the message.
        flag: what says where they are, for the message.

    Raises:
        UserError: images are missing and may not be left out, or all are.
    """
    absent = [name for name, place in zip(images.file_names, places, strict=True) if place is None]
    if absent and (not drop or len(absent) == len(images)):
        raise UserError(
            f"{flag}: {len(absent):,} of the {len(images):,} images of {source} are not there "
            f"({name_some(absent, 3)}); give the folder that holds them"
            + ("" if drop or len(absent) == len(images) else ", or --missing-pictures drop to leave them out")
        )
    missing += absent
    kept = [row for row, place in enumerate(places) if place is not None]
    found = images.rows(torch.tensor(kept, dtype=torch.int64))
    return LabelledImages(found.image_ids, tuple(place for place in places if place is not None), found.targets)
