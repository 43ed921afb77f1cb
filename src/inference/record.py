"""The record of a tagging run: an append-only file of JSON lines, written image by image.

It is the truth; the other outputs are made from it when a run ends. A killed run loses at most the line being written.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from src.errors import UserError
from src.inference.formats import ImageResult


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

    Args:
        path: the file; created if it does not exist.
        discard: drop what it holds.

    Attributes:
        settings: of the run that started it; None while it is empty.
        done: images that have tags.
        skipped: messages about unreadable images, by path, in the order of the last attempt.
        finished: whether the outputs were written since the last result.

    Raises:
        UserError: another run has the file open, it cannot be opened, or it is damaged before its last line.
    """

    def __init__(self, path: Path, *, discard: bool = False) -> None:
        self.path = path
        self._clear()
        try:
            self._file = io.FileIO(path, "a+")
        except OSError as error:
            raise UserError(
                f"{path}, the record of the run, cannot be opened: {error.strerror or error}; choose another place for "
                "the outputs"
            ) from error
        try:
            _lock(self._file.fileno())
            if discard:
                self._file.truncate(0)
            self._replay()
        except BlockingIOError as error:
            self.close()
            raise UserError(
                f"{path}: another run is writing this record; wait until it has ended, or give other outputs"
            ) from error
        except BaseException:
            self.close()
            raise

    def _clear(self) -> None:
        self.settings: dict[str, Any] | None = None
        self.done: set[str] = set()
        self.skipped: dict[str, str] = {}
        self.finished = False

    def _replay(self) -> None:
        """Read the lines; a last one that was cut is removed from the file."""
        size = 0
        for number, text in enumerate(self._lines(), start=1):
            if not text.endswith(b"\n"):
                self._file.truncate(size)
                return
            try:
                self._take(msgspec.json.decode(text, type=Line))
            except msgspec.DecodeError as error:
                raise UserError(
                    f"{self.path}, the record of an earlier run, is damaged in line {number} ({error}); give "
                    "--overwrite to start over"
                ) from error
            size += len(text)

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as lines:
            yield from lines

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

    def start(self, settings: Mapping[str, Any]) -> None:
        """Drop all lines and write the first one."""
        self._clear()
        self._file.truncate(0)
        self.append(Line(settings=dict(settings)))

    def append(self, line: Line) -> None:
        """Write a line in one call.

        Raises:
            UserError: the disk is full, for example; the lines above are safe.
        """
        text = msgspec.json.encode(line) + b"\n"
        try:
            written = self._file.write(text)
            if written != len(text):
                raise OSError("the disk is full")
        except OSError as error:
            raise UserError(
                f"{self.path}, the record of the run, cannot be written: {error.strerror or error}; make room, and "
                "continue with --resume: the images that it holds are kept"
            ) from error
        self._take(line)

    def results(self) -> Iterator[ImageResult]:
        """Yield the tags of each image, in the order of writing."""
        decode = msgspec.json.Decoder(Line).decode
        return (line.result for line in map(decode, self._lines()) if line.result is not None)

    def close(self) -> None:
        """Close the file, and delete it if it is empty."""
        empty = os.fstat(self._file.fileno()).st_size == 0
        self._file.close()
        if empty:
            self.path.unlink(missing_ok=True)


def _lock(descriptor: int) -> None:
    """Lock an open file against other processes; Windows has no such lock, and two runs are not kept apart there.

    Raises:
        BlockingIOError: another process has locked it.
    """
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
