"""The formats of tables: CSV, TSV, JSONL and Parquet, before their columns are chosen."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from src.errors import UserError, first_line
from src.utils.files import read_text
from src.utils.json_files import decode_json
from src.utils.optional import import_extra

_MAX_CELL = 1 << 24  # characters; longer ones come from a quotation mark that is not closed
# A column of Parquet may unfold to so many times the size of the file: more is an attack on the memory.
_MAX_UNFOLDED, _LEAST_UNFOLDED = 50, 32 << 20
_EXCEL_HINT = re.compile(r"sep=([,;|\t])\s*\n")  # a first line that tells Excel the separator


class RawTable(NamedTuple):
    """Content of a file before its columns are chosen.

    Attributes:
        unit: word for a row in messages.
        numbers: of the rows, from 1.
        names: of the columns.
        values: index of a column -> its values.
        plain: indexes of the columns of texts, numbers and truth values.
    """

    unit: str
    numbers: Sequence[int]
    names: Sequence[str]
    values: Callable[[int], Sequence[Any]]
    plain: Collection[int]


def read_raw(path: Path) -> RawTable:
    """Read a table of the format that the suffix tells.

    Raises:
        UserError: it is of no known format, cannot be read, is damaged, or has no row; the message names the line.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"--source {path}: is none of {', '.join(_READERS)}, nor a folder; save the table as CSV")
    raw = reader(path)
    if not raw.numbers:
        raise UserError(f"--source {path}: has no row of data; write one row per image and its tags")
    return raw


def _read_separated(path: Path) -> RawTable:
    """Read CSV or TSV; in some languages Excel separates the columns of CSV by semicolons."""
    text, number = _text(path), 1
    hint = _EXCEL_HINT.match(text)
    if hint:
        text, number = text[hint.end() :], 2
    first = text.lstrip().partition("\n")[0]
    delimiter = hint[1] if hint else "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[tuple[int, list[str]]] = []
    before = number
    try:
        for cells in reader:
            if any(map(str.strip, cells)):  # Excel leaves rows of empty cells at the end
                rows.append((number, cells))
            number = reader.line_num + before
    except csv.Error as error:
        raise UserError(
            f"--source {path}, line {number}: {error}; a cell with quotation marks needs them at both ends, and "
            "twice where they are part of the text"
        ) from error
    if not rows:
        raise UserError(
            f"--source {path}: holds separators only; write one line per image below a line of column names"
        )
    (_, names), *rows = rows
    for number, cells in rows:
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(names):
            raise UserError(
                f"--source {path}, line {number}: has {len(cells)} fields, but there are {len(names)} columns; put "
                f"quotation marks around a cell that has a {delimiter!r} in it"
            )
    return RawTable(
        "line",
        [number for number, _ in rows],
        names,
        lambda column: [cells[column] for _, cells in rows],
        range(len(names)),
    )


def _read_json_lines(path: Path) -> RawTable:
    objects: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                objects[number] = decode_json(bytearray(line.encode()), dict[str, Any])
            except Exception as error:  # for instance msgspec's, of nesting, or of a lone surrogate
                raise UserError(
                    f"--source {path}, line {number}: is no JSON object: {first_line(error)}; write one per line, "
                    'such as {"path": "a.jpg", "tags": ["cat", "dog"]}'
                ) from error
    names = list(dict.fromkeys(name for entry in objects.values() for name in entry))
    return RawTable(
        "line",
        list(objects),
        names,
        lambda column: [entry.get(names[column]) for entry in objects.values()],
        range(len(names)),
    )


def _read_parquet(path: Path) -> RawTable:
    types = import_extra("pyarrow", "pyarrow", f"--source {path}").types
    parquet = import_extra("pyarrow.parquet", "pyarrow", f"--source {path}")

    @contextmanager
    def readable() -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # pyarrow raises its own, and Python's of many kinds, for damaged files
            raise UserError(f"--source {path}: cannot be read as Parquet: {first_line(error)}") from error

    def column_of(index: int) -> list[Any]:
        values: list[Any] = []
        with readable():
            size, limit = 0, max(_LEAST_UNFOLDED, _MAX_UNFOLDED * path.stat().st_size)
            for batch in file.iter_batches(batch_size=1 << 14, columns=[names[index]], use_threads=False):
                size += batch.nbytes
                if size > limit:
                    raise UserError(
                        f"--source {path}: column {names[index]!r} unfolds to more than {limit >> 20:,} MB, far beyond "
                        "the size of the file; save it as CSV if that is right"
                    )
                values += batch.column(0).to_pylist()
            if len(values) != num_rows:
                raise UserError(f"--source {path}: column {names[index]!r} has {len(values):,} of {num_rows:,} rows")
        return values

    def is_plain(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        tests = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string)
        return any(test(kind) for test in tests)

    with readable():
        file = parquet.ParquetFile(path)
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        names = list(schema.names)  # only the columns that are needed are read: others may hold whole images
        repeated = len(set(names)) < len(names)
        plain = [index for index, field in enumerate(schema) if is_plain(field.type)]
    if repeated:
        raise UserError(f"--source {path}: has several columns of one name; rename them")
    return RawTable("row", range(1, num_rows + 1), names, column_of, plain)


_READERS: dict[str, Callable[[Path], RawTable]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".txt": _read_separated,  # what Excel calls Unicode text
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def _text(path: Path) -> str:
    text = read_text(path, "--source")
    if not text.strip():
        raise UserError(f"--source {path}: is empty; write one line per image below a line that names the columns")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"--source {path}, line {line}: holds a NUL character, as no text does; save the table as CSV")
    return text
