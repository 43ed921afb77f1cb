"""Writing files whole or not at all: a temporary name beside the target, flushed to disk, then renamed over it."""

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
    """Open a temporary file that replaces ``path`` only if the block ends without an exception.

    A killed or failed run leaves the previous ``path`` untouched.

    Args:
        path: the file to write; its folder is made if it does not exist.
        mode: ``"wb"`` or ``"w"`` (UTF-8).

    Raises:
        UserError: the folder cannot be made or written to, the disk is full, or ``path`` is a folder.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose an output folder that you may write to"
        ) from error
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        # torch.save hides what went wrong with the stream behind a RuntimeError of its own
        failure = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(failure, OSError):
            raise UserError(f"cannot write {path}: {failure.strerror or failure}") from error
        raise


def check_writable(path: str | Path, flag: str) -> None:
    """Make sure before a long run that ``path``, the value of ``flag``, can be written in the end; it stays as it is.

    Raises:
        UserError: it is a folder, or its folder cannot be made or written to.
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


def _umask() -> int:
    """The process's file mode mask (mkstemp makes files that only the owner may read)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically.

    NaN and infinity, which JSON has no word for, raise ``ValueError``.
    """
    with atomic_write(path, "w") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a UTF-8 JSON file (a byte-order mark is allowed).

    Raises:
        UserError: the file is missing, not UTF-8 or not JSON; the message says where it breaks.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); is it a JSON file?") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not whole JSON: {error.msg} at line {error.lineno}, column {error.colno}; copy or "
            "download it again"
        ) from error
