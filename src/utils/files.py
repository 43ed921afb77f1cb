"""Read and write files; writing goes to a temporary name, is flushed to disk and renamed over the target."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from src.errors import UserError


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces ``path`` if the block ends without an exception.

    A killed or failed run leaves the previous file untouched.

    Args:
        path: the file to write; its folder is created if missing.
        mode: ``"wb"`` or ``"w"`` (UTF-8).

    Raises:
        UserError: the folder cannot be created or written to, the disk is full, or ``path`` is a folder.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose an output folder that is writable"
        ) from error
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        make_readable(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        # torch.save raises a RuntimeError of its own from an OSError of the stream
        failure = error.__context__ if isinstance(error, RuntimeError) else error
        # A broken pipe is that of the standard output, to which the block may print
        if isinstance(failure, OSError) and not isinstance(failure, BrokenPipeError):
            raise UserError(f"cannot write {path}: {failure.strerror or failure}") from error
        raise


def check_writable(path: str | Path, flag: str) -> None:
    """Check before a long run that ``path``, the value of ``flag``, can be written; an existing file stays as it is.

    Raises:
        UserError: it is a folder, or its folder cannot be created or written to.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; give the path of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written: {error.strerror or error}; choose another place") from error


def make_readable(path: str | Path, folder: bool = False) -> None:
    """Give a file or folder from :mod:`tempfile`, which is private to its owner, the usual mode."""
    mask = os.umask(0)  # the only way to read it
    os.umask(mask)
    os.chmod(path, (0o777 if folder else 0o666) & ~mask)


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically.

    Raises:
        ValueError: it contains NaN or infinity, which JSON does not have.
        UserError: the file cannot be written.
    """
    with atomic_write(path, "w") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


def read_text(path: str | Path, flag: str) -> str:
    """Read a UTF-8 text file; a byte-order mark is left out.

    Raises:
        UserError: the file cannot be read or is not UTF-8; the message begins with ``flag``.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be read: {error.strerror or error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{flag} {path}, line {line}: not UTF-8 text; save the file as UTF-8 (in Excel: CSV UTF-8)"
        ) from error


def read_lines(path: str | Path, flag: str) -> list[str]:
    """Read the stripped lines of a UTF-8 text file, without blank lines at the end.

    Raises:
        UserError: as :func:`read_text`.
    """
    text = read_text(path, flag)
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
