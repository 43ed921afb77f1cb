"""Finished outputs read back, one image at a time, so that a run can go on from them."""

from __future__ import annotations

import csv
import itertools
import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from src.errors import UserError
from src.inference.formats import COLUMNS, ROW_GROUP, Format, ImageResult, TagRow, import_arrow, parquet_schema
from src.word_vectors.base import first_line


class Finished(NamedTuple):
    """What a finished output holds.

    Attributes:
        settings: what its tags depend on; None where the format has no place for them.
        results: its images; reading on raises UserError where the file is damaged.
        skipped: messages about bad images, by path.
    """

    settings: dict[str, Any] | None
    results: Iterator[ImageResult]
    skipped: dict[str, str]


class _Document(msgspec.Struct):
    results: list[msgspec.Raw]  # views of the mapped file: 100 bytes an image
    settings: dict[str, Any] | None = None
    skipped: list[str] = []
    skipped_images: list[str] = []


def read_json_output(path: Path) -> Finished:
    """Read back what :func:`src.inference.formats.json_sink` wrote, in any layout.

    Raises:
        UserError: the file is something else, or from before settings were recorded.
    """
    try:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # ValueError if the file is empty
        document = msgspec.json.decode(content, type=_Document)
    except (OSError, ValueError) as error:
        raise _unusable("json", path, f"is no whole document of tags ({first_line(error)})") from error
    if document.settings is None or len(document.skipped) != len(document.skipped_images):
        raise _unusable("json", path, "does not say with which settings it was made")
    skipped = dict(zip(document.skipped_images, document.skipped, strict=True))
    return Finished(document.settings, _decoded(document.results, path), skipped)


def _decoded(results: list[msgspec.Raw], path: Path) -> Iterator[ImageResult]:
    decoder = msgspec.json.Decoder(ImageResult)
    for number, result in enumerate(results, start=1):
        try:
            yield decoder.decode(result)
        except msgspec.DecodeError as error:
            raise _unusable("json", path, f"result {number} is none ({first_line(error)})") from error


def read_csv_output(path: Path) -> Finished:
    """Read back what :func:`src.inference.formats.csv_sink` wrote; a byte-order mark is allowed."""
    return Finished(None, _grouped(_csv_rows(path), "csv", path), {})


_Row = tuple[str, int, TagRow]


def _csv_rows(path: Path) -> Iterator[_Row]:
    truth = {"true": True, "false": False}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            try:
                if tuple(next(rows, ())) != COLUMNS:
                    raise ValueError(f"the header must be {','.join(COLUMNS)}")
                for image, rank, label, score, probability, unseen in rows:
                    known = float(probability) if probability else None
                    yield image, int(rank), TagRow(label, float(score), truth[unseen], known)
            except (ValueError, KeyError, csv.Error) as error:
                raise _unusable("csv", path, f"no row of tags in line {rows.line_num}: {first_line(error)}") from error
    except OSError as error:
        raise _unusable("csv", path, f"cannot be read ({first_line(error)})") from error


def read_parquet_output(path: Path) -> Finished:
    """Read back what :func:`src.inference.formats.parquet_sink` wrote.

    Raises:
        UserError: pyarrow is not installed, or the file is something else.
    """
    _, parquet = import_arrow()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise _unusable("parquet", path, f"is no whole Parquet file ({first_line(error)})") from error
    facts = file.schema_arrow.metadata or {}
    if b"settings" not in facts or not file.schema_arrow.equals(parquet_schema()):
        file.close(force=True)
        raise _unusable("parquet", path, "has other columns, or does not say with which settings it was made")
    return Finished(json.loads(facts[b"settings"]), _grouped(_parquet_rows(file, path), "parquet", path), {})


def _parquet_rows(file: Any, path: Path) -> Iterator[_Row]:
    try:
        with file:
            for batch in file.iter_batches(ROW_GROUP):
                columns = (column.to_pylist() for column in batch.columns)
                for image, rank, label, score, probability, unseen in zip(*columns, strict=True):
                    yield image, rank, TagRow(label, score, unseen, probability)
    except (OSError, ValueError) as error:
        raise _unusable("parquet", path, f"is damaged ({first_line(error)})") from error


def _grouped(rows: Iterable[_Row], form: Format, path: Path) -> Iterator[ImageResult]:
    """Rows of one image after another -> images. Sorted otherwise, an image would come back in pieces."""
    for image, group in itertools.groupby(rows, key=lambda row: row[0]):
        ranks, tags = zip(*((rank, tag) for _, rank, tag in group), strict=True)
        if ranks != tuple(range(1, len(ranks) + 1)):
            raise _unusable(form, path, f"the rows of {image} are not together, in the order of their ranks")
        yield ImageResult(image, list(tags))


def _unusable(form: Format, path: Path, problem: str) -> UserError:
    return UserError(
        f"--resume --{form} {path}: {problem}; give another file, or --overwrite instead of --resume to write it anew"
    )


# Those that hold the most come first: only JSON has images without tags, and CSV has no settings.
READERS: Mapping[Format, Callable[[Path], Finished]] = {
    "json": read_json_output,
    "parquet": read_parquet_output,
    "csv": read_csv_output,
}
