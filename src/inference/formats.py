"""Write the tags of many images as JSON, CSV and Parquet, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from src.options import OutputFormat
from src.tags import Tag
from src.utils.optional import import_extra

COLUMNS = ("image", "rank", "tag", "score", "probability", "unseen")
_LONG_LINE = 1 << 20  # bytes that are looked at to recognise a file
ROW_GROUP = 65_536  # rows of a Parquet file that are in memory at once


class ImageResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tags of an image, best first, and the path of its annotated copy, if one was saved."""

    image: str
    tags: list[Tag]
    annotated: str | None = None


class RunFacts(NamedTuple):
    """Facts about a run that its outputs record besides the tags.

    Attributes:
        model: path of the checkpoint.
        settings: everything that the tags depend on, as JSON can hold it.
        skipped: messages about unreadable images, by path.
    """

    model: str
    settings: Mapping[str, Any]
    skipped: Mapping[str, str]


def write_json(stream: IO[bytes], facts: RunFacts, results: Iterable[ImageResult]) -> None:
    """Write a JSON document with one line per image.

    ``{"model", "settings", "results": [{"image", "tags": [{"label", "score", "unseen", "probability"}],
    "annotated"}], "skipped": [message], "skipped_images": [path]}``. Keys without a value (``probability`` without a
    calibration, ``annotated``) are left out. The two lists of unreadable images have the same order.
    """
    encode = msgspec.json.encode
    stream.write(b'{\n "model": %b,\n "settings": %b,\n "results": [' % (encode(facts.model), encode(facts.settings)))
    comma = b""
    for result in results:
        stream.write(b"%b\n  %b" % (comma, encode(result)))
        comma = b","
    lists = (facts.skipped.values(), facts.skipped.keys())
    stream.write(
        b'\n ],\n "skipped": %b,\n "skipped_images": %b\n}\n'
        % tuple(b"[" + b",".join(b"\n  " + encode(text) for text in texts) + b"\n ]" for texts in lists)
    )


def write_csv(stream: IO[bytes], facts: RunFacts, results: Iterable[ImageResult]) -> None:
    """Write one row per tag below a header of ``COLUMNS``: RFC 4180 in UTF-8.

    ``unseen`` is ``true`` or ``false``, an unknown probability an empty cell. The format has no place for ``facts``,
    and an image without tags has no row. Cells are written as they are, even those that begin with ``=``, ``+``, ``-``
    or ``@``, which a spreadsheet may take for a formula.
    """
    del facts
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    rows.writerows((*row, "true" if unseen else "false") for *row, unseen in _rows(results))
    text.detach()  # flushes, and leaves the stream open


def write_parquet(stream: IO[bytes], facts: RunFacts, results: Iterable[ImageResult]) -> None:
    """Write the rows of the CSV form in row groups of 65,536; model and settings are in the file's metadata.

    Scores are doubles, which hold every float32 exactly. Within a row group each image name and tag is stored once.

    Raises:
        UserError: pyarrow is not installed.
    """
    arrow, parquet = import_arrow()
    types = (arrow.string(), arrow.int32(), arrow.string(), arrow.float64(), arrow.float64(), arrow.bool_())
    schema = arrow.schema(
        [arrow.field(name, kind, nullable=name == "probability") for name, kind in zip(COLUMNS, types, strict=True)],
        metadata={"model": facts.model, "settings": json.dumps(facts.settings)},
    )
    rows = _rows(results)
    with parquet.ParquetWriter(stream, schema, use_dictionary=["image", "tag"]) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            columns = zip(zip(*group, strict=True), types, strict=True)
            arrays = [arrow.array(column, kind) for column, kind in columns]
            writer.write_table(arrow.table(arrays, schema=schema), row_group_size=len(group))


def _rows(results: Iterable[ImageResult]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of ``COLUMNS`` for every tag."""
    for result in results:
        for rank, tag in enumerate(result.tags, start=1):
            yield result.image, rank, tag.label, tag.score, tag.probability, tag.unseen


def import_arrow() -> tuple[Any, Any]:
    """Import ``pyarrow`` and ``pyarrow.parquet``; a :class:`UserError` says how to install them."""
    return import_extra("pyarrow", "pyarrow", "--parquet"), import_extra("pyarrow.parquet", "pyarrow", "--parquet")


WRITERS: Mapping[OutputFormat, Callable[[IO[bytes], RunFacts, Iterable[ImageResult]], None]] = {
    "json": write_json,
    "csv": write_csv,
    "parquet": write_parquet,
}


def _is_json(path: Path) -> bool:
    with path.open("rb") as stream:
        lines = [stream.readline(_LONG_LINE) for _ in range(4)]
    starts = (b"{", b' "model": "', b' "settings": {', b' "results": [')
    return all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def _is_csv(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.readline(_LONG_LINE).rstrip(b"\r\n") == ",".join(COLUMNS).encode()


def _is_parquet(path: Path) -> bool:
    _, parquet = import_arrow()
    schema = parquet.read_schema(path)
    return tuple(schema.names) == COLUMNS and {b"model", b"settings"} <= (schema.metadata or {}).keys()


# Whether a file was written by the function above; exceptions of readers mean that it was not
IS_OWN: Mapping[OutputFormat, Callable[[Path], bool]] = {"json": _is_json, "csv": _is_csv, "parquet": _is_parquet}
