"""Tables of images and tags: CSV, TSV, JSONL, Parquet, and folders named after tags; and their images on disk."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from src.config.sources import TableSettings
from src.data.dataset import file_lookup
from src.errors import UserError, first_line, name_some
from src.prepare.files import list_images
from src.utils.files import read_text
from src.utils.optional import import_extra

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath", "picture")
TAGS_COLUMNS = ("tags", "tag", "labels", "label", "keywords")
PART_OF_SPLIT = {"train": "train", "val": "val", "validation": "val", "test": "val"}

Cell = str | list[str]


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
        notes: lines for the report.
    """

    source: Path
    unit: str
    numbers: Sequence[int]
    paths: list[str]
    tags: list[Cell]
    splits: list[str] | None
    unused: list[str]
    notes: list[str]

    def place(self, row: int) -> str:
        """Return the place of a row, to begin a message with."""
        return f"--source {self.source}, {self.unit} {self.numbers[row]}"


class _Raw(NamedTuple):
    """Content of a file before its columns are chosen: their names, and the values of each by its index."""

    unit: str
    numbers: Sequence[int]
    names: Sequence[str]
    values: Callable[[int], Sequence[Any]]


def read_table(settings: TableSettings) -> Table:
    """Read a CSV, TSV, JSONL or Parquet file, by its suffix.

    Raises:
        UserError: it cannot be read, is damaged, has no rows, or lacks a column; the message names the line.
    """
    path = settings.source
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"--source {path}: is none of {', '.join(_READERS)}, nor a folder; save the table as CSV")
    raw = reader(path)
    used = [
        _find_column("--path-column", settings.path_column, PATH_COLUMNS, raw.names, path),
        _find_column("--tags-column", settings.tags_column, TAGS_COLUMNS, raw.names, path),
    ]
    if settings.split_column is not None:
        used.append(_find_column("--split-column", settings.split_column, (), raw.names, path))
    if len(set(used)) < len(used):
        raise UserError(f"--source {path}: one column cannot be several of path, tags and split; name different ones")
    if not raw.numbers:
        raise UserError(f"--source {path}: has no row of data; write one row per image and its tags")
    unused = [name for column, name in enumerate(raw.names) if column not in used]
    paths, tags, *splits = (
        _cells(raw, column, path, what) for column, what in zip(used, ("path", "tags", "split"), strict=False)
    )
    return Table(path, raw.unit, raw.numbers, paths, tags, splits[0] if splits else None, unused, [])


def _find_column(flag: str, asked: str | None, known: Sequence[str], names: Sequence[str], source: Path) -> int:
    wanted = known if asked is None else (asked.strip().casefold(),)
    found = [column for column, name in enumerate(names) if name.strip().casefold() in wanted]
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


def _cells(raw: _Raw, column: int, path: Path, what: str) -> list[Any]:
    """Return the values of a column of texts or, for tags, lists of texts; None is empty text."""
    values = raw.values(column)
    for number, value in zip(raw.numbers, values, strict=True):
        is_list = what == "tags" and isinstance(value, list) and all(isinstance(tag, str) for tag in value)
        if not (is_list or isinstance(value, str | None)):
            wanted = "text or a list of texts" if what == "tags" else "text"
            raise UserError(f"--source {path}, {raw.unit} {number}: {what} {value!r} is not {wanted}")
    return [value or "" for value in values]


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
    tags: list[Cell] = [path.split("/")[:-1] for path in paths]
    tops = {next(iter(names), "").casefold() for names in tags}
    splits = None
    if "train" in tops and len(tops) > 1 and tops <= PART_OF_SPLIT.keys():
        splits = [names[0] for names in tags]
        tags = [list(names[1:]) for names in tags]
    return Table(folder, "image", range(1, len(paths) + 1), paths, tags, splits, [], notes)


def _read_separated(path: Path) -> _Raw:
    """Read CSV or TSV; in some languages Excel separates the columns of CSV by semicolons."""
    text = _text(path)
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count) if path.suffix.lower() == ".csv" else "\t"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    number = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):  # Excel leaves rows of empty cells at the end
                rows.append((number, cells))
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"--source {path}, line {number}: {error}; a cell with quotation marks needs them at both ends, and "
            "twice where they are part of the text"
        ) from error
    (_, names), *rows = rows
    for number, cells in rows:
        if len(cells) != len(names):
            raise UserError(
                f"--source {path}, line {number}: has {len(cells)} fields, but there are {len(names)} columns; put "
                f"quotation marks around a cell that has a {delimiter!r} in it"
            )
    return _Raw("line", [number for number, _ in rows], names, lambda column: [cells[column] for _, cells in rows])


def _read_json_lines(path: Path) -> _Raw:
    objects: dict[int, dict[str, Any]] = {}
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                objects[number] = decoder.decode(line)
            except (msgspec.DecodeError, RecursionError) as error:
                raise UserError(
                    f"--source {path}, line {number}: is no JSON object: {error}; write one per line, such as "
                    '{"path": "a.jpg", "tags": ["cat", "dog"]}'
                ) from error
    names = list(dict.fromkeys(name for entry in objects.values() for name in entry))
    return _Raw("line", list(objects), names, lambda column: [entry.get(names[column]) for entry in objects.values()])


def _read_parquet(path: Path) -> _Raw:
    pyarrow = import_extra("pyarrow", "pyarrow", f"--source {path}")
    parquet = import_extra("pyarrow.parquet", "pyarrow", f"--source {path}")

    @contextmanager
    def readable() -> Iterator[None]:
        try:
            yield
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"--source {path}: cannot be read as Parquet: {first_line(error)}") from error

    def column_of(index: int) -> list[Any]:
        with readable():
            return file.read(columns=[names[index]]).column(0).to_pylist()

    with readable():
        file = parquet.ParquetFile(path)
    names = file.schema_arrow.names  # only the columns that are used are read: others may hold whole images
    return _Raw("row", range(1, file.metadata.num_rows + 1), names, column_of)


_READERS: dict[str, Callable[[Path], _Raw]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def _text(path: Path) -> str:
    text = read_text(path, "--source")
    if not text.strip():
        raise UserError(f"--source {path}: is empty; write one line per image below a line that names the columns")
    return text


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
