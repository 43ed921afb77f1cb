"""Tables of a user's own images: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from src.config.sources import TableSettings
from src.prepare.table_files import read_table
from src.prepare.table_tags import split_cells
from tests.fuzz.harness import Target

_CSV = b'path,tags\na.jpg,"sea, sand"\nb.jpg,"[""boat""]"\n'
_ONE_HOT = b"filename, sea, boat\na.jpg, 1, 0\nb.jpg, 0, 1\n"
_ROWS = [{"path": "a.jpg", "tags": ["sea", "sand"]}, {"path": "b.jpg", "tags": "boat"}]


def _read(path: Path) -> object:
    table = read_table(TableSettings(source=path))
    return table, split_cells(table.tags, "auto", table.place)


def _lines(rows: object) -> bytes:
    return "\n".join(json.dumps(row) for row in (rows if isinstance(rows, list) else [rows])).encode()


def _parquet(columns: object) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def targets() -> tuple[Target, ...]:
    """Return the readers of tables."""
    columns = {"path": ["a.jpg", "b.jpg"], "tags": [["sea", "sand"], ["boat"]]}
    return (
        Target("csv", "t.csv", (_CSV, _ONE_HOT), _read),
        Target("tsv", "t.tsv", (_CSV.replace(b",", b"\t"),), _read),
        Target("json-lines", "t.jsonl", (_ROWS,), _read, _lines),
        Target("json-lines-bytes", "t.jsonl", (_lines(_ROWS),), _read),
        Target("parquet", "t.parquet", (columns,), _read, _parquet),
        Target("parquet-bytes", "t.parquet", (_parquet(columns),), _read),
    )
