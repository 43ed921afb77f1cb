"""Outputs that are written to and never replaced: devices, FIFOs, and files that are open already."""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import IO, Any

from src.errors import UserError
from src.text import text_options

_BLOCK = 1 << 20  # bytes
_MAX_LINKS = 40  # more form a circle, for the system too


def is_stream(path: str | Path) -> bool:
    """Return whether a path stands for a device, a FIFO, a socket, or an open file such as ``/dev/stdout``."""
    if descriptor_of(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def descriptor_of(path: str | Path) -> int | None:
    """Return the number of the open file that ``/dev/stdout``, ``/dev/fd/3`` or a link to one stands for, or None."""
    path, folder = os.fspath(path), os.path.realpath("/dev/fd")
    for _ in range(_MAX_LINKS):
        parent, name = os.path.split(os.path.abspath(path))
        if name.isdecimal() and os.path.realpath(parent) == folder:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(parent, os.readlink(path))
    return None


@contextmanager
def write_through(path: Path, mode: str) -> Iterator[IO[Any]]:
    """Collect what is written in a temporary file, and copy it to a stream when the block ends without an exception.

    So a reader gets all or nothing, and the block may seek. A FIFO waits for its reader.

    Args:
        path: see :func:`is_stream`.
        mode: ``"wb"`` or ``"w"`` (UTF-8).

    Raises:
        OSError: the stream cannot be opened, or the disk is full.
        UserError: a FIFO's reader ended too early.
        BrokenPipeError: so did that of the standard output.
    """
    with tempfile.TemporaryFile(f"{mode}+", **text_options(mode)) as stream:
        yield stream
        stream.flush()
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        with open(stream.fileno(), "rb", closefd=False) as source, _open(path) as sink:
            try:
                while block := source.read(_BLOCK):
                    view = memoryview(block)
                    while view:
                        view = view[sink.write(view) :]
            except BrokenPipeError as error:
                if descriptor_of(path) is not None:
                    raise  # as for anything else that is printed
                raise UserError(f"cannot write {path}: its reader ended before everything was written") from error


@contextmanager
def messages_beside(outputs: Mapping[str, Path]) -> Iterator[None]:
    """Print to standard error during the block if an output, flag -> path, is the standard output."""
    with redirect_stdout(sys.stderr) if 1 in map(descriptor_of, outputs.values()) else nullcontext():
        yield


def _open(path: Path) -> io.FileIO:
    number = descriptor_of(path)
    if number is None:
        return io.FileIO(os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0)), "wb")
    for printed in (sys.stdout, sys.stderr):
        if printed is not None:
            printed.flush()  # what was printed before comes first
    return io.FileIO(os.dup(number), "wb")  # opening the path instead would empty a file or write over its beginning
