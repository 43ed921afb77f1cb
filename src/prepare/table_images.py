"""Finding the images that a table lists."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.data.dataset import file_lookup
from src.errors import UserError
from src.prepare.files import list_images
from src.prepare.image_names import ImageNames
from src.prepare.table_files import Table


@dataclass(frozen=True)
class Located:
    """The N images of a table, each once, sorted by path.

    Attributes:
        base: the folder that relative paths are relative to.
        root: the image folder to record: ``base``, or the folder that holds all images if some are outside of it.
        names: [N], as first written.
        places: [N], relative to ``root``; None where there is no such file.
        image_of_row: index of the image of each row of the table.
        doubtful: name -> the files that it could mean, for images without a place.
        searched: what was searched, for the message about images that are not there.
        notes: lines for the report.
    """

    base: str
    root: str
    names: tuple[str, ...]
    places: tuple[str | None, ...]
    image_of_row: list[int]
    doubtful: dict[str, str] = field(default_factory=dict)
    searched: str = ""
    notes: list[str] = field(default_factory=list)


def locate(table: Table, base: Path) -> Located:
    """Find the images of a table.

    A path is taken as it stands; with backslashes, with slashes too. Paths that lead to no file are looked up among the
    images below the folder, by the ends of their paths: those of other machines, or names without their folder. Images
    are identified by their normalised path.

    Args:
        table: rows with the paths.
        base: folder that relative paths are relative to.

    Raises:
        UserError: the folder is not there, or a row has no path.
    """
    folder = os.path.abspath(base)
    if not os.path.isdir(folder):
        raise UserError(f"--images {base}: no such folder")
    is_there = file_lookup()
    full_of: dict[str, str] = {}  # as written -> absolute
    for row, path in enumerate(table.paths):
        if path not in full_of:
            full_of[path] = _as_written(path.strip(), folder, is_there, table, row)
    absent = [path for path, full in full_of.items() if not is_there(full)]
    doubtful: dict[str, str] = {}
    searched, notes = "", list[str]()
    if absent:
        index = ImageNames(list_images(Path(folder)).names, folder)
        found = index.find([*(path for path in full_of if path not in set(absent)), *absent])
        full_of |= {path: os.path.join(folder, found.place_of[path]) for path in absent if path in found.place_of}
        doubtful, searched, notes = found.doubtful, index.searched, found.notes(absent, str(table.source))
    name_of = {full: path for path, full in reversed(full_of.items())}
    whole = sorted(name_of)
    there = {full for full in whole if is_there(full)}
    root = folder
    if not all(full.startswith(os.path.join(folder, "")) for full in there):
        root = os.path.commonpath([os.path.dirname(full) for full in there])
    number_of = {full: number for number, full in enumerate(whole)}
    return Located(
        folder,
        root,
        tuple(name_of[full] for full in whole),
        _places(whole, there, root),
        [number_of[full_of[path]] for path in table.paths],
        doubtful,
        searched,
        notes,
    )


def _as_written(path: str, folder: str, is_there: Callable[[str], bool], table: Table, row: int) -> str:
    """Return the absolute path that a row means, whether there is such a file or not."""
    if not path:
        raise UserError(f"{table.place(row)}: has no image path; write one, or remove the {table.unit}")
    verbatim, with_slashes = (os.path.normpath(os.path.join(folder, name)) for name in (path, path.replace("\\", "/")))
    return with_slashes if is_there(with_slashes) and not is_there(verbatim) else verbatim


def _places(whole: Sequence[str], there: Collection[str], root: str) -> tuple[str | None, ...]:
    prefix = os.path.join(root, "")
    return tuple(full[len(prefix) :].replace(os.sep, "/") if full in there else None for full in whole)
