"""Record the tags of a run image by image, make JSON, CSV and Parquet of them when it ends, and resume stopped runs.

The record is an append-only file of JSON lines and the truth; the other outputs are made from it. A killed run loses
at most the line being written.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from src.config.infer_outputs import OutputOptions
from src.errors import UserError, first_line, name_some
from src.inference.formats import WRITERS, ImageResult, RunFacts
from src.text import printable
from src.utils.files import atomic_write
from src.utils.locks import open_locked
from src.utils.streams import is_stream

_BLOCK = 1 << 20  # bytes


class Line(msgspec.Struct, omit_defaults=True):
    """A line of a record, of which one field is set.

    Attributes:
        settings: what the tags depend on; the first line.
        result: the tags of an image.
        skipped: path of an unreadable image, and the message about it.
        finished: the outputs were written from the lines above.
    """

    settings: dict[str, Any] | None = None
    result: ImageResult | None = None
    skipped: tuple[str, str] | None = None
    finished: bool = False


class Record:
    """A record, open for appending and locked against other runs until it is closed.

    Lines about settings and unreadable images wait in memory for the next image with tags: a run that fails before
    its first one leaves an earlier record as it was.

    Args:
        path: the file; created if it does not exist. None: a temporary file, for outputs that are devices.
        discard: ignore what it holds.

    Attributes:
        settings: of the run that started it; None while it is empty.
        done: images that have tags, as :func:`printable` writes them.
        skipped: messages about unreadable images, by path, in the order of the last attempt.
        finished: whether the outputs were written since the last result.

    Raises:
        UserError: another run has the file open, it cannot be opened, or it is damaged before its last line.
    """

    def __init__(self, path: Path | None, *, discard: bool = False) -> None:
        self.path = path
        self._clear()
        self._file = io.FileIO(_open(path), "a+")
        try:
            if not discard:
                self._replay()
        except UserError:
            self.close()
            raise

    @property
    def remedy(self) -> str:
        """Say what a user does whose disk is full."""
        if self.path is None:
            return "make room, and repeat the command"
        return f"make room, and continue with --resume: the {len(self.done):,} images are kept in {self.path}"

    def _clear(self) -> None:
        self.settings: dict[str, Any] | None = None
        self.done: set[str] = set()
        self.skipped: dict[str, str] = {}
        self.finished = False
        self._starts_over = False
        self._waiting = b""

    def _replay(self) -> None:
        """Read the lines; a last one that was cut is removed from the file."""
        size = 0
        for number, text in enumerate(self._lines(), start=1):
            if not text.endswith(b"\n"):
                self._file.truncate(size)
                return
            try:
                self._take(msgspec.json.decode(text, type=Line))
            except Exception as error:  # of msgspec, or text that is not UTF-8
                raise UserError(
                    f"{self.path}, the record of an earlier run, is damaged in line {number} ({first_line(error)}); "
                    "give --overwrite to start over"
                ) from error
            size += len(text)

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines of the file, with their ends; appending to it meanwhile does no harm."""
        place, rest = 0, b""
        while self._file.seek(place) == place and (block := self._file.read(_BLOCK)):
            place += len(block)
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
        if rest:
            yield rest

    def _take(self, line: Line) -> None:
        self.finished = line.finished
        if line.settings is not None:
            self.settings = line.settings
        if line.result is not None:
            self.done.add(line.result.image)
            self.skipped.pop(line.result.image, None)
        if line.skipped is not None:
            image, message = line.skipped
            self.skipped.pop(image, None)
            self.skipped[image] = message

    def _append(self, line: Line) -> None:
        self._take(line)
        self._waiting += msgspec.json.encode(line) + b"\n"

    def start(self, settings: Mapping[str, Any]) -> None:
        """Drop all lines and begin with the settings."""
        self._clear()
        self._starts_over = True
        self._append(Line(settings=dict(settings)))

    def write(self, result: ImageResult) -> None:
        """Write the tags of an image; a :class:`UserError` if the disk is full, for example."""
        annotated = None if result.annotated is None else printable(result.annotated)
        self._append(Line(result=ImageResult(printable(result.image), result.tags, annotated)))
        self.flush()

    def skip(self, image: str, message: str) -> None:
        """Note that an image is unreadable; replaces an earlier message about it."""
        self._append(Line(skipped=(printable(image), printable(message))))

    def finish(self) -> None:
        """Note that the outputs were written; see :meth:`write`."""
        self._append(Line(finished=True))
        self.flush()

    def flush(self) -> None:
        """Write the waiting lines in one call.

        Raises:
            UserError: the disk is full, for example; the lines before them are safe.
        """
        try:
            if self._starts_over:
                self._file.truncate(0)
                self._starts_over = False
            self._file.seek(0, os.SEEK_END)
            if self._file.write(self._waiting) != len(self._waiting):
                raise OSError("the disk is full")
        except OSError as error:
            raise UserError(
                f"{self.path or 'a temporary file'}, the record of the run, cannot be written: "
                f"{error.strerror or error}; {self.remedy}"
            ) from error
        self._waiting = b""

    def results(self) -> Iterator[ImageResult]:
        """Yield the tags of each image, in the order of writing."""
        decode = msgspec.json.Decoder(Line).decode
        return (line.result for line in map(decode, self._lines()) if line.result is not None)

    def close(self) -> None:
        """Close the file, and delete it if it is empty."""
        if self.path is not None and os.fstat(self._file.fileno()).st_size == 0:
            self.path.unlink(missing_ok=True)  # while it is locked
        self._file.close()


def _open(path: Path | None) -> int:
    """Open and lock a record; see :class:`Record` for the errors."""
    try:
        if path is None:
            with tempfile.TemporaryFile() as file:
                return os.dup(file.fileno())
        descriptor = open_locked(path)
    except OSError as error:
        raise UserError(
            f"{path or 'a temporary file'}, the record of the run, cannot be opened: {error.strerror or error}; choose "
            "another place for the outputs"
        ) from error
    if descriptor is None:
        raise UserError(f"{path}: another run is writing this record; wait until it has ended, or give other outputs")
    return descriptor


def record_path(output: Path) -> Path:
    """Return the path of an output's record: ``tags.json`` -> ``tags.json.record.jsonl``."""
    return output.with_name(f"{output.name}.record.jsonl")


def is_record(path: Path) -> bool:
    """Return whether a file begins as a record does; raises an error of the decoder for most others."""
    with path.open("rb") as stream:
        return msgspec.json.decode(stream.readline(), type=Line).settings is not None


@contextmanager
def open_results(options: OutputOptions, *, model: str, settings: Mapping[str, Any]) -> Iterator[Record]:
    """Open the record that the tags of each image are written to.

    It lies beside the first output that is a file. When the block ends without an exception, all outputs are made from
    it under temporary names and then renamed; until then existing outputs stay whole. The record stays, so that
    finished runs can be resumed too.

    Args:
        options: at least one output, and whether to resume or overwrite.
        model: path of the checkpoint, recorded but not compared.
        settings: everything that the tags depend on; must be representable in JSON.

    Raises:
        UserError: on entering: another run is writing the record; it is of an interrupted run, and ``options`` neither
            resumes nor overwrites; what is to be resumed is damaged, was made with other settings, or has no record.
            On leaving: an output cannot be written.
    """
    settings = json.loads(json.dumps(settings, allow_nan=False))  # as they will be read back
    outputs = [path for path in options.results.values() if not is_stream(path)]
    if options.resume and not outputs:
        raise UserError("--resume: a device has no record beside it; give a file as --json, --csv or --parquet")
    found = [path for path in map(record_path, outputs) if path.exists()]
    if len(found) > 1 and not options.overwrite:
        raise UserError(
            f"{' and '.join(map(str, found))} are records of two runs; give the output of one of them, or --overwrite "
            "to start over"
        )
    existing = next((path for path in outputs if path.exists()), None)
    if options.resume and existing is not None and not found:
        raise UserError(
            f"--resume: {existing} exists, but not {record_path(existing)}, the record of the run that wrote it; leave "
            "--resume out to write the output anew"
        )
    path = next(iter([*found, *map(record_path, outputs)]), None)
    record = Record(path, discard=options.overwrite)
    try:
        if options.resume and record.settings is not None:
            _check_settings(record, settings)
        elif record.done and not record.finished:
            raise UserError(
                f"{path} holds {len(record.done):,} images of a run that was interrupted; give --resume to continue "
                "it, or --overwrite to start over"
            )
        else:
            record.start(settings)
        yield record
        record.flush()
        _write_outputs(options, RunFacts(printable(model), settings, record.skipped), record)
        record.finish()
        for other in found[1:]:  # of runs whose outputs have just been replaced
            other.unlink()
    finally:
        record.close()


def _check_settings(record: Record, now: Mapping[str, Any]) -> None:
    """Raise a :class:`UserError` if the settings differ from those of the record."""
    then = record.settings or {}
    changed = [
        f"{name}: {json.dumps(then.get(name))} then, {json.dumps(now.get(name))} now"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"--resume: {record.path} was made with other settings ({name_some(changed)}); give those, or other "
            "outputs, or --overwrite instead of --resume to start over"
        )


def _write_outputs(options: OutputOptions, facts: RunFacts, record: Record) -> None:
    try:
        with ExitStack() as stack:  # renames the outputs when it unwinds, after all of them were written
            for form, path in options.results.items():
                stream = stack.enter_context(atomic_write(path))
                WRITERS[form](stream, facts, record.results())
                stream.flush()
                os.fsync(stream.fileno())  # a full disk shows here, before any output is replaced
    except UserError as error:
        raise UserError(f"{error}; {record.remedy}") from error
