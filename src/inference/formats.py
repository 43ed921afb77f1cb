"""Write the tags of many images as JSON, CSV and Parquet, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from src.choices import OutputFormat
from src.utils.optional import import_extra

COLUMNS = ("image", "rank", "tag", "score", "probability", "unseen")
ROW_GROUP = 65_536  # rows of a Parquet file that are in memory at once


class TagRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tag of an image; its rank is its place in the list. Fields as in :class:`src.inference.tagger.Tag`."""

    label: str
    score: float
    unseen: bool
    probability: float | None = None


class ImageResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tags of an image, best first, and the path of its annotated copy, if one was saved."""

    image: str
    tags: list[TagRow]
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


def printable(name: str | Path) -> str:
    r"""Return a name as Unicode text: bytes of a file name that are not UTF-8 become ``\xNN``.

    All three formats hold Unicode text only. Such a name cannot be told from one that has these four characters.

    >>> printable("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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
    for result in results:
        rows.writerows(
            (result.image, rank, tag.label, tag.score, tag.probability, "true" if tag.unseen else "false")
            for rank, tag in enumerate(result.tags, start=1)
        )
    text.detach()  # flushes, and leaves the stream open


def write_parquet(stream: IO[bytes], facts: RunFacts, results: Iterable[ImageResult]) -> None:
    """Write the rows of the CSV form in row groups of about 65,536; model and settings are in the file's metadata.

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
    rows: list[tuple[Any, ...]] = []

    def write_group() -> None:
        columns = zip(*rows, strict=True)
        arrays = [arrow.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        writer.write_table(arrow.table(arrays, schema=schema), row_group_size=len(rows))
        rows.clear()

    with parquet.ParquetWriter(stream, schema, use_dictionary=["image", "tag"]) as writer:
        for result in results:
            rows.extend(
                (result.image, rank, tag.label, tag.score, tag.probability, tag.unseen)
                for rank, tag in enumerate(result.tags, start=1)
            )
            if len(rows) >= ROW_GROUP:
                write_group()
        if rows:
            write_group()


def import_arrow() -> tuple[Any, Any]:
    """Import ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        UserError: they are not installed; the message gives the command to install them.
    """
    return import_extra("pyarrow", "pyarrow", "--parquet"), import_extra("pyarrow.parquet", "pyarrow", "--parquet")


WRITERS: Mapping[OutputFormat, Callable[[IO[bytes], RunFacts, Iterable[ImageResult]], None]] = {
    "json": write_json,
    "csv": write_csv,
    "parquet": write_parquet,
}
