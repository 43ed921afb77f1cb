"""Tags of images as JSON, CSV and Parquet, written one image at a time, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec

from src.word_vectors.base import import_extra

Format = Literal["json", "csv", "parquet"]

COLUMNS = ("image", "rank", "tag", "score", "probability", "unseen")
ROW_GROUP = 65_536  # rows of a Parquet file that are in memory at once
_SURROGATE = re.compile("[\ud800-\udfff]")


class TagRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tag of an image; its rank is its place in the list. Fields as in :class:`src.inference.tagger.Tag`."""

    label: str
    score: float
    unseen: bool
    probability: float | None = None


class ImageResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tags of an image, best first, and where its annotated form was saved, if it was."""

    image: str
    tags: list[TagRow]
    annotated: str | None = None


class Facts(NamedTuple):
    """What an output says besides the images' tags.

    Attributes:
        model: the checkpoint.
        settings: all that the tags depend on, as JSON can hold it.
        skipped: messages about bad images, by path.
    """

    model: str
    settings: Mapping[str, Any]
    skipped: Mapping[str, str]


def written_name(path: str | Path) -> str:
    r"""A path as the outputs have it: the bytes of a file name that are not UTF-8 become ``\xNN``.

    All three formats hold Unicode text only. Such a name cannot be told from one that has these four characters.

    >>> written_name("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    name = str(path)
    return name if name.isascii() else _SURROGATE.sub(_escaped, name)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


# Writes the tags of the next image.
Add = Callable[[ImageResult], None]


@contextmanager
def json_sink(stream: IO[bytes], facts: Facts) -> Iterator[Add]:
    """A JSON document with a line an image.

    ``{"model", "settings", "results": [{"image", "tags": [{"label", "score", "unseen", "probability"}],
    "annotated"}], "skipped": [message], "skipped_images": [path]}``; an unknown probability and an image that was
    not saved have no key. The lists of bad images are written last, in the same order.
    """
    encode = msgspec.json.Encoder().encode
    start = b'{\n "model": %b,\n "settings": %b,\n "results": ['
    stream.write(start % (encode(facts.model), encode(facts.settings)))
    comma = b""

    def add(result: ImageResult) -> None:
        nonlocal comma
        stream.write(b"%b\n  %b" % (comma, encode(result)))
        comma = b","

    yield add
    lists = (list(facts.skipped.values()), list(facts.skipped))
    stream.write(
        b'\n ],\n "skipped": %b,\n "skipped_images": %b\n}\n'
        % tuple(b"[" + b",".join(b"\n  " + encode(text) for text in texts) + b"\n ]" for texts in lists)
    )


@contextmanager
def csv_sink(stream: IO[bytes], facts: Facts) -> Iterator[Add]:
    """A row a tag, after a row of the names in ``COLUMNS``: RFC 4180 in UTF-8.

    ``unseen`` is ``true`` or ``false``, an unknown probability an empty cell. There is no place for ``facts``, and an
    image without tags has no row. Cells are data and are written as they are, even those that begin with ``=``,
    ``+``, ``-`` or ``@``, which a spreadsheet may take for a formula.
    """
    del facts
    lines = io.StringIO(newline="")
    rows = csv.writer(lines)  # ends lines as RFC 4180 says, and writes floats and None as they are to be read
    rows.writerow(COLUMNS)

    def add(result: ImageResult) -> None:
        rows.writerows(
            (result.image, rank, tag.label, tag.score, tag.probability, "true" if tag.unseen else "false")
            for rank, tag in enumerate(result.tags, start=1)
        )
        hand_over()

    def hand_over() -> None:
        stream.write(lines.getvalue().encode())
        lines.seek(0)
        lines.truncate()

    hand_over()
    yield add


@contextmanager
def parquet_sink(stream: IO[bytes], facts: Facts) -> Iterator[Add]:
    """The rows of the CSV form in row groups of 65,536 or a few more; model and settings in the file's metadata.

    Scores are doubles, which hold every float32 exactly. An image's name and a tag are stored once a row group.

    Raises:
        UserError: pyarrow is not installed.
    """
    arrow, parquet = import_arrow()
    schema = parquet_schema().with_metadata({"model": facts.model, "settings": json.dumps(facts.settings)})
    columns: tuple[list[Any], ...] = tuple([] for _ in COLUMNS)
    images, ranks, labels, scores, probabilities, unseen = columns

    def write_group() -> None:
        arrays = [arrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        writer.write_table(arrow.table(arrays, schema=schema), row_group_size=len(images))
        for values in columns:
            values.clear()

    def add(result: ImageResult) -> None:
        for rank, tag in enumerate(result.tags, start=1):
            images.append(result.image)
            ranks.append(rank)
            labels.append(tag.label)
            scores.append(tag.score)
            probabilities.append(tag.probability)
            unseen.append(tag.unseen)
        if len(images) >= ROW_GROUP:
            write_group()

    with parquet.ParquetWriter(stream, schema, use_dictionary=["image", "tag"]) as writer:
        yield add
        if images:
            write_group()


def parquet_schema() -> Any:
    """The columns of a Parquet output; only the probability may be unknown."""
    arrow, _ = import_arrow()
    types = (arrow.string(), arrow.int32(), arrow.string(), arrow.float64(), arrow.float64(), arrow.bool_())
    return arrow.schema(
        [arrow.field(name, kind, nullable=name == "probability") for name, kind in zip(COLUMNS, types, strict=True)]
    )


def import_arrow() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        UserError: they are not installed; the message says how to do that.
    """
    return import_extra("pyarrow", "pyarrow", "--parquet"), import_extra("pyarrow.parquet", "pyarrow", "--parquet")


SINKS: Mapping[Format, Callable[[IO[bytes], Facts], AbstractContextManager[Add]]] = {
    "json": json_sink,
    "csv": csv_sink,
    "parquet": parquet_sink,
}
