"""SHA-256 side files: ``model.ckpt.sha256`` beside ``model.ckpt``, in the format of ``sha256sum``.

They reveal a copy that was cut short or a bit that a disk lost; ``sha256sum --check model.ckpt.sha256`` works too.
A save removes the old side file, replaces the checkpoint, then writes the new side file: a run that is killed in
between leaves a good checkpoint without a side file, never one beside a stale digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from src.errors import UserError
from src.utils.files import atomic_write

SUFFIX = ".sha256"
_BLOCK = 1 << 20  # bytes


def side_file(path: str | Path) -> Path:
    """Return the path of the side file of ``path``."""
    return Path(f"{path}{SUFFIX}")


def file_digest(path: str | Path) -> str:
    """Compute the SHA-256 of a file, in lower-case hexadecimal digits.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give the path of a file") from error
    return digest.hexdigest()


def write_digest(path: str | Path) -> str:
    """Write the side file of an existing file and return the digest.

    Raises:
        UserError: the file cannot be read or the side file not written.
    """
    digest = file_digest(path)
    with atomic_write(side_file(path), "w") as stream:
        stream.write(f"{digest}  {Path(path).name}\n")
    return digest


def save_with_digest(path: str | Path, write: Callable[[IO[bytes]], None]) -> None:
    """Replace a file atomically, and write its side file.

    Args:
        path: the file; its folder is made if it does not exist.
        write: function that writes the content to a binary stream.

    Raises:
        UserError: one of the two files cannot be written.
    """
    with atomic_write(path) as stream:
        write(stream)
        stream.flush()
        side_file(path).unlink(missing_ok=True)
    write_digest(path)


def check_digest(path: str | Path) -> tuple[str, bool | None]:
    """Compare a file with its side file.

    Returns:
        (the file's digest, whether the side file holds the same; None without a side file).

    Raises:
        UserError: one of the two files cannot be read, or the side file holds no digest.
    """
    while True:
        before, digest, after = _read_side_file(path), file_digest(path), _read_side_file(path)
        if before == after:  # else a run replaced both files in the meantime
            return digest, None if after is None else after == digest


def _read_side_file(path: str | Path) -> str | None:
    """Return the digest in the side file of ``path``, or None without a side file."""
    side = side_file(path)
    try:
        words = side.read_text(encoding="utf-8", errors="replace").split()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {side}: {error.strerror or error}") from error
    digest = words[0].lower() if words else ""
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise UserError(f"{side} does not start with a SHA-256 digest; delete it, or copy it again with its file")
    return digest
