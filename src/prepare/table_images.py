"""Images of a table on disk, each once, however its rows write their paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from src.data.dataset import file_lookup
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
    is_there = file_lookup()
    full_of: dict[str, str] = {}  # as written -> absolute
    for row, path in enumerate(table.paths):
        if path in full_of:
            continue
        written = path.strip()
        if not written:
            raise UserError(f"{table.place(row)}: has no image path; write one, or remove the {table.unit}")
        verbatim, with_slashes = (
            os.path.normpath(os.path.join(folder, name)) for name in (written, written.replace("\\", "/"))
        )
        full_of[path] = with_slashes if is_there(with_slashes) and not is_there(verbatim) else verbatim
    name_of = {full: path for path, full in reversed(full_of.items())}
    whole = sorted(name_of)
    found = {full for full in whole if is_there(full)}
    root = folder
    if not all(full.startswith(os.path.join(folder, "")) for full in found):
        root = os.path.commonpath([os.path.dirname(full) for full in found])
    prefix = os.path.join(root, "")
    number_of = {full: number for number, full in enumerate(whole)}
    return Located(
        folder,
        root,
        tuple(name_of[full] for full in whole),
        tuple(full[len(prefix) :].replace(os.sep, "/") if full in found else None for full in whole),
        [number_of[full_of[path]] for path in table.paths],
    )
