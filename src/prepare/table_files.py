"""Tables of images and tags, and folders named after tags: which columns mean what."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.config.sources import TableSettings
from src.errors import UserError, name_some
from src.prepare.files import list_images
from src.prepare.table_formats import RawTable, read_raw
from src.prepare.table_one_hot import FlagColumn, check_one_hot, is_tag_name, judge, one_hot_tags

# Usual names of the column of paths, and names that are taken where there is none of the others.
PATH_COLUMNS = (
    "path", "file", "filename", "image", "image_path", "file_path", "picture", "img", "img_path", "image_name",
    "img_name", "fname", "photo",
)  # fmt: skip
FALLBACK_PATH_COLUMNS = ("name", "image_id", "id")
TAGS_COLUMNS = ("tags", "tag", "labels", "label", "keywords")
PART_OF_SPLIT = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "val"}

Cell = str | list[str]


@dataclass
class Table:
    """Rows of a table; every list is as long as the table.

    Attributes:
        source: the file or folder.
        unit: word for a row in messages.
        numbers: of the rows, from 1, or names of the files that they are.
        paths: of the images, as written.
        tags: a cell per row, either a list of tags or text that may hold several.
        splits: values of the split column, or None without one.
        unused: names of other columns.
        notes: lines for the report.
        unknown: of each row, tags of which the table says that they are unknown; empty: of none.
    """

    source: Path
    unit: str
    numbers: Sequence[int | str]
    paths: list[str]
    tags: list[Cell]
    splits: list[str] | None
    unused: list[str]
    notes: list[str]
    unknown: list[list[str]] = field(default_factory=list)

    def place(self, row: int) -> str:
        """Return the place of a row, to begin a message with."""
        return f"--source {self.source}, {self.unit} {self.numbers[row]}"


def read_table(settings: TableSettings) -> Table:
    """Read a CSV, TSV, JSONL or Parquet file, by its suffix.

    Raises:
        UserError: it cannot be read, is damaged, has no rows, or lacks a column; or it is not clear which columns hold
            the tags. The message names the line.
    """
    path = settings.source
    raw = read_raw(path)
    split = None
    if settings.split_column is not None:
        split = _find_column("--split-column", settings.split_column, raw, path)
    flags = _flag_columns(raw, settings, split)
    image = _path_column(raw, settings, flags)
    one_hot = _one_hot_columns(raw, settings, flags, image)
    tags = None if one_hot else _find_column("--tags-column", settings.tags_column, raw, path, TAGS_COLUMNS)
    used = [column for column in (image, tags, split) if column is not None]
    if len(set(used)) < len(used) or image in one_hot or split in one_hot:
        raise UserError(f"--source {path}: one column cannot be several of path, tags and split; name different ones")
    paths = _cells(raw, image, path, "path")
    splits = None if split is None else _cells(raw, split, path, "split")
    known = {*used, *one_hot}
    unused = [name for column, name in enumerate(raw.names) if column not in known]
    if tags is not None:
        return Table(path, raw.unit, raw.numbers, paths, _cells(raw, tags, path, "tags"), splits, unused, [])
    columns = {raw.names[column].strip(): flags[column] for column in one_hot}
    if len(columns) < len(one_hot):
        raise UserError(f"--source {path}: two columns of tags have the same name; rename one of them")
    present, unknown, notes = one_hot_tags(columns, len(raw.numbers))
    return Table(path, raw.unit, raw.numbers, paths, list(present), splits, unused, notes, unknown)


def _path_column(raw: RawTable, settings: TableSettings, flags: dict[int, FlagColumn]) -> int:
    """Find the column of paths; one of 0 and 1 is none, whatever its name."""
    one_hot = {column for column, judged in flags.items() if judged.varies}
    names = {_plain(name) for column, name in enumerate(raw.names) if column not in one_hot}
    known = PATH_COLUMNS if names & set(map(_plain, PATH_COLUMNS)) else (*PATH_COLUMNS, *FALLBACK_PATH_COLUMNS)
    return _find_column("--path-column", settings.path_column, raw, settings.source, known, one_hot)


def _flag_columns(raw: RawTable, settings: TableSettings, split: int | None) -> dict[int, FlagColumn]:
    """Judge all columns that could be tags with 0 and 1; none if the flags name the column of tags."""
    if settings.tags_column is not None:
        return {}
    named = _column_numbers(raw, settings) if settings.tag_columns not in (None, ["all"]) else None
    candidates = [column for column in raw.plain if column != split] if named is None else named
    return {column: judge(raw.values(column)) for column in candidates}


def _column_numbers(raw: RawTable, settings: TableSettings) -> list[int]:
    columns_of: dict[str, list[int]] = defaultdict(list)  # thousands of names are not compared with each other
    for column, name in enumerate(raw.names):
        columns_of[name.strip().casefold()].append(column)
    found: dict[int, None] = {}
    for name in settings.tag_columns or []:
        columns = columns_of.get(name.strip().casefold(), [])
        found[columns[0] if len(columns) == 1 else _find_column("--tag-columns", name, raw, settings.source)] = None
    return list(found)


def _one_hot_columns(raw: RawTable, settings: TableSettings, flags: dict[int, FlagColumn], image: int) -> list[int]:
    """Return the columns that are tags with 0 and 1; none if a column of tags is to be used instead.

    Raises:
        UserError: both are possible, or a value is neither 0 nor 1.
    """
    source = f"--source {settings.source}"
    if settings.tag_columns not in (None, ["all"]):
        check_one_hot({raw.names[column]: judged for column, judged in flags.items()}, raw, source)
        return list(flags)
    possible = {
        column: judged for column, judged in flags.items() if column != image and is_tag_name(raw.names[column])
    }
    one_hot = [column for column, judged in possible.items() if judged.is_one_hot]
    of_tags = [name for name in raw.names if _plain(name) in TAGS_COLUMNS]
    if settings.tag_columns is None and of_tags:
        varying = [
            raw.names[column] for column in one_hot if possible[column].varies and raw.names[column] not in of_tags
        ]
        if len(varying) > 1:
            raise UserError(
                f"{source}: has a column {of_tags[0]!r} and columns of 0 and 1 ({name_some(varying, 5)}), so the tags "
                f"could be in either; give --tags-column {of_tags[0]}, or --tag-columns and the names of the others"
            )
        return []
    slips = {raw.names[column]: judged for column, judged in possible.items() if judged.is_mostly_flags}
    if one_hot:
        check_one_hot(slips, raw, source)
    elif settings.tag_columns is not None:
        raise UserError(f"--tag-columns all: {settings.source} has no column of 0 and 1; name the columns of tags")
    return one_hot


def _find_column(
    flag: str,
    asked: str | None,
    raw: RawTable,
    source: Path,
    known: Sequence[str] = (),
    without: Collection[int] = (),
) -> int:
    """Return the column of the name that was asked for, or of one of the known names, except for some columns."""
    names = raw.names
    if asked is None:
        wanted = set(map(_plain, known))
        found = [column for column, name in enumerate(names) if _plain(name) in wanted]
    else:
        found = [column for column, name in enumerate(names) if name.strip().casefold() == asked.strip().casefold()]
    if asked is None:
        found = [column for column in found if column not in without]
    if len(found) > 1:  # the spelling decides, where one is given
        found = [column for column in found if names[column] == asked] or found
    if len(found) == 1:
        return found[0]
    if found:
        shown = name_some([repr(names[column]) for column in found])
        raise UserError(f"{flag}: {source} has several such columns ({shown}); name one, or rename the others")
    shown, given = name_some(list(map(repr, names)), 20), "" if asked is None else f" {asked}"
    hint = "" if asked else f"none of them is called {' or '.join(known)}; "
    raise UserError(
        f"{flag}{given}: {source} has no such column; its columns are {shown} (in CSV and TSV the first line names "
        f"them); {hint}name one of these"
    )


def _plain(name: str) -> str:
    """Return a column name without case, blanks, ``_`` and ``-``."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def _cells(raw: RawTable, column: int, path: Path, what: str) -> list[Any]:
    """Return the values of a column of texts or, for tags, lists of texts; None is empty text."""
    values = raw.values(column)
    if len(values) != len(raw.numbers):  # a damaged Parquet file
        raise UserError(
            f"--source {path}: is damaged: {len(values):,} values of {what} in {len(raw.numbers):,} rows; copy it again"
        )
    for number, value in zip(raw.numbers, values, strict=True):
        is_list = what == "tags" and isinstance(value, list) and all(isinstance(tag, str) for tag in value)
        if not (is_list or isinstance(value, str | None)):
            wanted = "text or a list of texts" if what == "tags" else "text"
            raise UserError(f"--source {path}, {raw.unit} {number}: {what} {repr(value)[:80]} is not {wanted}")
    return [value or "" for value in values]


def splits_of_folders(paths: Sequence[str]) -> list[str] | None:
    """Return the top folder of each path if these are the split: called train, val, valid, validation or test."""
    tops = [path.split("/")[0] if "/" in path else "" for path in paths]
    names = {top.casefold() for top in tops}
    return tops if "train" in names and len(names) > 1 and names <= PART_OF_SPLIT.keys() else None


def read_folder(folder: Path) -> Table:
    """List the images below a folder; the tags of each are the names of all folders on the way to it.

    If the folders at the top are called train, val, validation or test, and one is train, they are the splits.

    Raises:
        UserError: there is no image.
    """
    paths, notes = list_images(folder, "--source")
    if not paths:
        raise UserError(
            "; ".join([f"--source {folder}: there is no image in it; give a table, or a folder of folders", *notes])
        )
    splits = splits_of_folders(paths)
    tags: list[Cell] = [path.split("/")[(0 if splits is None else 1) : -1] for path in paths]
    return Table(folder, "image", range(1, len(paths) + 1), paths, tags, splits, [], notes)
