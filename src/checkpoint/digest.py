"""SHA-256 side files: ``model.ckpt.sha256`` beside ``model.ckpt``, in the format of ``sha256sum``.

A save removes the old side file before it replaces the checkpoint: a run that is killed in between leaves a good
checkpoint without a side file, never one beside a stale digest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

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


def save_with_digest(path: str | Path, content: object) -> None:
    """Save with ``torch.save``, replacing the file atomically, and write its side file.

    Raises:
        UserError: one of the two files cannot be written.
    """
    import torch  # it takes a second to import, and verify needs no PyTorch

    with atomic_write(path) as stream:
        torch.save(content, stream)
        stream.flush()
        side_file(path).unlink(missing_ok=True)
    write_digest(path)


def check_digest(path: str | Path) -> tuple[str, bool | None]:
    """Compare a file with its side file.

    Returns:
        (the file's digest, whether the side file starts with it; None without a side file).

    Raises:
        UserError: the file cannot be read.
    """
    digest = file_digest(path)
    try:
        recorded = side_file(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return digest, None
    return digest, recorded.lower().startswith(digest)
