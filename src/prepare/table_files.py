"""Tables of images and tags: CSV, TSV, JSONL, Parquet, and folders named after tags."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from src.errors import UserError, first_line, name_some
from src.prepare.files import list_images
from src.utils.optional import import_extra

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath", "picture")
TAGS_COLUMNS = ("tags", "tag", "labels", "label", "keywords")
PART_OF_SPLIT = {"train": "train", "val": "val", "validation": "val", "test": "val"}

Cell = str | list[str]


@dataclass(frozen=True)
class Columns:
    """Names of columns. None: path and tags are recognised by their names, split is not used."""

    path: str | None = None
    tags: str | None = None
    split: str | None = None


@dataclass
class Table:
    """Rows of a table; every list is as long as the table.

    Attributes:
        source: the file or folder.
        unit: word for a row in messages.
        numbers: of the rows, from 1.
        paths: of the images, as written.
        tags: a cell per row, either a list of tags or text that may hold several.
        splits: values of the split column, or None without one.
        unused: names of other columns.
    """

    source: Path
    unit: str
    numbers: Sequence[int]
    paths: list[str]
    tags: list[Cell]
    splits: list[str] | None
    unused: list[str]

    def place(self, row: int) -> str:
        """Return the place of a row, to begin a message with."""
        return _place(self.source, self.unit, self.numbers[row])


def _place(source: Path, unit: str, number: int) -> str:
    return f"--source {source}, {unit} {number}"


@dataclass(frozen=True)
class _Raw:
    """Content of a file before its columns are chosen: their names, and the values of each by its index."""

    unit: str
    numbers: Sequence[int]
    names: Sequence[str]
    values: Callable[[int], Sequence[Any]]


def read_table(path: Path, columns: Columns) -> Table:
    """Read a CSV, TSV, JSONL or Parquet file, by its suffix.

    Raises:
        UserError: it cannot be read, is damaged, has no rows, or lacks a column; the message names the line.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"--source {path}: is none of {', '.join(_READERS)}, nor a folder; save the table as CSV")
    raw = reader(path)
    path_at, tags_at, split_at, unused = _find_columns(columns, raw.names, path)
    if not raw.numbers:
        raise UserError(f"--source {path}: has no row of data; write one row per image and its tags")
    paths = _texts(raw, path_at, path, "path")
    splits = None if split_at is None else _texts(raw, split_at, path, "split")
    tags = list(raw.values(tags_at))
    for number, value in zip(raw.numbers, tags, strict=True):
        if not (
            isinstance(value, str | None) or (isinstance(value, list) and all(isinstance(tag, str) for tag in value))
        ):
            place = _place(path, raw.unit, number)
            raise UserError(f"{place}: the tags are {value!r}, neither text nor a list of texts")
    return Table(path, raw.unit, raw.numbers, paths, [value or "" for value in tags], splits, unused)


def _texts(raw: _Raw, column: int, path: Path, what: str) -> list[str]:
    """Return the values of a column of texts; None is empty text."""
    values = raw.values(column)
    for number, value in zip(raw.numbers, values, strict=True):
        if not isinstance(value, str | None):
            raise UserError(f"{_place(path, raw.unit, number)}: the {what} is {value!r}, not text")
    return [value or "" for value in values]


def find_tables(folder: Path) -> list[Path]:
    """Return the files in a folder that :func:`read_table` reads."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS)


def read_folder(folder: Path) -> Table:
    """List the images below a folder; the tags of each are the names of all folders on the way to it.

    If the folders at the top are called train, val, validation or test, and one is train, they are the splits.

    Raises:
        UserError: there is no image.
    """
    paths = list_images(folder, "--source")
    if not paths:
        raise UserError(f"--source {folder}: there is no image in it; give a table, or a folder of folders")
    tags: list[Cell] = [path.split("/")[:-1] for path in paths]
    tops = {next(iter(names), "").casefold() for names in tags}
    splits = None
    if "train" in tops and len(tops) > 1 and tops <= PART_OF_SPLIT.keys():
        splits = [names[0] for names in tags]
        tags = [list(names[1:]) for names in tags]
    return Table(folder, "image", range(1, len(paths) + 1), paths, tags, splits, [])


def _read_separated(path: Path) -> _Raw:
    text = _decode(path)
    delimiter = _delimiter(text) if path.suffix.lower() == ".csv" else "\t"
    (_, names), *rows = _separated_rows(path, text, delimiter)
    for number, cells in rows:
        if len(cells) != len(names):
            raise UserError(
                f"{_place(path, 'line', number)}: has {len(cells)} fields, but there are {len(names)} columns; put "
                f"quotation marks around a cell that has a {delimiter!r} in it"
            )
    return _Raw("line", [number for number, _ in rows], names, lambda column: [cells[column] for _, cells in rows])


def _delimiter(text: str) -> str:
    """Return the separator of a .csv file's columns (in some languages Excel writes semicolons), by its first line."""
    first = text.lstrip().partition("\n")[0]
    return max(",;\t", key=first.count)


def _separated_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with the line in which they begin."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):  # Excel leaves rows of empty cells at the end
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{_place(path, 'line', number)}: {error}; a cell with quotation marks needs them at both ends, and "
            "twice where they are part of the text"
        ) from error


def _read_json_lines(path: Path) -> _Raw:
    objects: list[dict[str, Any]] = []
    numbers: list[int] = []
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if line.strip():
            try:
                objects.append(decoder.decode(line))
            except (msgspec.DecodeError, RecursionError) as error:
                raise UserError(
                    f"{_place(path, 'line', number)}: is no JSON object: {error}; write one per line, such as "
                    '{"path": "a.jpg", "tags": ["cat", "dog"]}'
                ) from error
            numbers.append(number)
    names = list(dict.fromkeys(name for entry in objects for name in entry))
    return _Raw("line", numbers, names, lambda column: [entry.get(names[column]) for entry in objects])


def _read_parquet(path: Path) -> _Raw:
    pyarrow = import_extra("pyarrow", "pyarrow", f"--source {path}")
    parquet = import_extra("pyarrow.parquet", "pyarrow", f"--source {path}")

    def values(column: int) -> list[Any]:
        try:
            read: list[Any] = file.read(columns=[names[column]]).column(0).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise damaged(error) from error
        return read

    def damaged(error: Exception) -> UserError:
        return UserError(f"--source {path}: cannot be read as Parquet: {first_line(error)}")

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except (OSError, pyarrow.ArrowException) as error:
        raise damaged(error) from error
    return _Raw("row", range(1, file.metadata.num_rows + 1), names, values)


_READERS: dict[str, Callable[[Path], _Raw]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--source {path}: cannot be read: {error.strerror or error}") from error
    if b"\0" in content:
        raise UserError(f"--source {path}: is UTF-16, or no text at all; save it as UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"--source {path}, line {line}: is not UTF-8 text; save the file as UTF-8 (in Excel: CSV UTF-8)"
        ) from error
    if not text.strip():
        raise UserError(f"--source {path}: is empty; write one line per image below a line that names the columns")
    return text


def _find_columns(columns: Columns, names: Sequence[str], source: Path) -> tuple[int, int, int | None, list[str]]:
    """Return the indices of path, tags and split (None: no split), and the names of the other columns."""
    path = _find_column("--path-column", columns.path, PATH_COLUMNS, names, source)
    tags = _find_column("--tags-column", columns.tags, TAGS_COLUMNS, names, source)
    split = None if columns.split is None else _find_column("--split-column", columns.split, (), names, source)
    used = [path, tags] if split is None else [path, tags, split]
    if len(set(used)) < len(used):
        raise UserError(f"--source {source}: one column cannot be several of path, tags and split; name different ones")
    return path, tags, split, [name for column, name in enumerate(names) if column not in used]


def _find_column(flag: str, asked: str | None, known: Sequence[str], names: Sequence[str], source: Path) -> int:
    wanted = known if asked is None else (asked.strip().casefold(),)
    found = [column for column, name in enumerate(names) if name.strip().casefold() in wanted]
    if len(found) > 1:  # the spelling decides, where one is given
        found = [column for column in found if names[column] == asked] or found
    if len(found) == 1:
        return found[0]
    there = name_some([repr(name) for name in (names[column] for column in found or range(len(names)))], 20)
    if found:
        raise UserError(f"{flag}: {source} has several such columns ({there}); name one of them, or rename the others")
    lacks = f"has no column {' or '.join(known)}" if asked is None else "has no such column"
    raise UserError(
        f"{flag}{'' if asked is None else ' ' + asked}: {source} {lacks}; its columns are {there} (in CSV and TSV the "
        "first line names them); name one of these"
    )
