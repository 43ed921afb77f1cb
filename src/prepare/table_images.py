"""Images of a table on disk, each once, however its rows write their paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
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
    """

    base: str
    root: str
    names: tuple[str, ...]
    places: tuple[str | None, ...]
    image_of_row: list[int]


def locate(table: Table, base: Path) -> Located:
    """Find the images of a table.

    A path with backslashes is also tried with slashes. Images are identified by their normalised path.

    Args:
        table: rows with the paths.
        base: folder that relative paths are relative to.

    Raises:
        UserError: the folder is not there, or a row has no path.
    """
    folder = os.path.abspath(base)
    if not os.path.isdir(folder):
        raise UserError(f"--images {base}: no such folder")
    full_of: dict[str, str] = {}  # as written -> absolute
    there: dict[str, bool] = {}  # absolute -> whether it is a file
    listing: dict[str, set[str]] = {}

    def is_there(full: str) -> bool:
        if full not in there:
            above, name = os.path.split(full)
            if above not in listing:
                listing[above] = _files_in(above)
            there[full] = name in listing[above]
        return there[full]

    for row, path in enumerate(table.paths):
        if path in full_of:
            continue
        written = path.strip()
        if not written:
            raise UserError(f"{table.place(row)}: has no image path; write one, or remove the {table.unit}")
        full_of[path] = os.path.normpath(os.path.join(folder, written))
        if not is_there(full_of[path]) and "\\" in written:
            with_slashes = os.path.normpath(os.path.join(folder, written.replace("\\", "/")))
            if is_there(with_slashes):
                full_of[path] = with_slashes
    name_of = {full: path for path, full in reversed(full_of.items())}
    whole = sorted(name_of)
    root, prefix = folder, os.path.join(folder, "")
    found = [full for full in whole if there[full]]
    if not all(full.startswith(prefix) for full in found):
        root = os.path.commonpath([os.path.dirname(full) for full in found])
        prefix = os.path.join(root, "")
    places = tuple(full[len(prefix) :].replace(os.sep, "/") if there[full] else None for full in whole)
    number_of = {full: number for number, full in enumerate(whole)}
    image_of_row = [number_of[full_of[path]] for path in table.paths]
    return Located(folder, root, tuple(name_of[full] for full in whole), places, image_of_row)


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir()}
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a zero byte
        return set()
    except OSError as error:
        raise UserError(f"--images: {folder} cannot be listed: {error.strerror or error}") from error
