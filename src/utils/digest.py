"""SHA-256 side files: ``model.ckpt.sha256`` beside ``model.ckpt``, in the format of ``sha256sum``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, BinaryIO

from src.errors import UserError
from src.utils.regular import open_regular

SUFFIX = ".sha256"
_BLOCK = 1 << 20  # bytes
_MOST_TEXT = 1 << 20  # bytes of a side file that are read
_LINE = re.compile(rb"[0-9a-f]{64}  .*\n", re.DOTALL)
_DIGEST = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")


def side_file(path: str | Path) -> Path:
    """Return the path of the side file of ``path``."""
    return Path(f"{path}{SUFFIX}")


def side_line(digest: str, path: str | Path) -> bytes:
    """Return the line of a side file, in the very bytes that ``sha256sum`` looks for."""
    return os.fsencode(f"{digest}  {Path(path).name}\n")


def is_side_file(path: Path) -> bool:
    """Return whether a file has the form of a side file."""
    return _LINE.fullmatch(path.read_bytes()) is not None


def file_digest(path: str | Path) -> str:
    """Compute the SHA-256 of a file, in lower-case hexadecimal digits.

    Raises:
        UserError: the file cannot be read.
    """
    with _open(path) as stream:
        return _digest_of(stream, path)


def check_digest(path: str | Path) -> tuple[str, bool | None]:
    """Compare a file with its side file.

    Returns:
        (the file's digest, whether it is one of those in the side file; None without a side file).

    Raises:
        UserError: the file or its side file cannot be read.
    """
    digest = file_digest(path)
    recorded = _recorded(path)
    return digest, None if recorded is None else digest in recorded


def check_named(side: Path, paths: Iterable[Path]) -> None:
    """Compare files with the lines of a side file that name them; files that it does not name are not compared.

    Raises:
        UserError: one differs, or cannot be read.
    """
    with _open(side) as stream:
        lines = [line.split(maxsplit=1) for line in stream.read(_MOST_TEXT).splitlines()]
    recorded = {line[1].lstrip(b"*"): line[0].lower() for line in lines if len(line) == 2}
    for path in paths:
        digest = recorded.get(os.fsencode(path.name))
        if digest is not None and digest != file_digest(path).encode():
            raise UserError(
                f"{path} is not the file that {side.name} names: it belongs to others, or is damaged; copy all again, "
                f"or delete {side.name} if you changed the file yourself"
            )


def open_verified(path: str | Path) -> BinaryIO:
    """Open a file for reading, after comparing it with its side file if there is one: one more pass of the file.

    A file that is replaced together with its side file during the comparison is opened again.

    Raises:
        UserError: the file or its side file cannot be read, or they differ.
    """
    stream = _open(path)
    try:
        if side_file(path).is_file():
            digest, recorded = _digest_of(stream, path), _recorded(path)
            if recorded is not None and digest not in recorded:
                if _is_still(stream, path):
                    raise UserError(
                        f"{path} differs from its side file {side_file(path)}: one of the two is damaged or of another "
                        "version; copy both again, or delete the side file if you changed the file yourself"
                    )
                stream.close()
                return open_verified(path)
            stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _open(path: str | Path) -> BinaryIO:
    try:
        return open_regular(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}; give the path of a file") from error


def _digest_of(stream: BinaryIO, path: str | Path) -> str:
    try:
        return stream_digest(stream)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give the path of a file") from error


def written_digest(stream: IO[Any]) -> str:
    """Compute the SHA-256 of what was written to a file that is still open, and can be read too."""
    stream.flush()
    with open(stream.fileno(), "rb", closefd=False) as written:
        written.seek(0)
        return stream_digest(written)


def stream_digest(stream: BinaryIO) -> str:
    """Compute the SHA-256 of the rest of a stream, in lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _recorded(path: str | Path) -> set[str] | None:
    """Return the digests in the side file of ``path``, in lower case; None without a side file."""
    side = side_file(path)
    if not side.is_file():
        return None
    try:
        with _open(side) as stream:
            text = stream.read(_MOST_TEXT).decode("utf-8", errors="replace")
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None  # another run has just removed it, to replace the file
        raise
    return {digest.lower() for digest in _DIGEST.findall(text)}


def _is_still(stream: BinaryIO, path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except OSError:
        return False
