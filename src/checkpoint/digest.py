"""Side files: ``model.ckpt.sha256`` beside ``model.ckpt`` says which bytes the file should hold.

A side file is what ``sha256sum`` prints, so that ``sha256sum --check model.ckpt.sha256`` works without this project. A
copy that was cut short, or a bit that a disk lost, then shows before the file is used. Who replaces such a file in
another way than :func:`save_with_digest` writes its side file anew (:func:`write_digest`) or deletes it.

The two files cannot be replaced in one instant, and a run may be killed at any point between. So a replacement goes in
three steps, each of them atomic:

1. the side file lists the digest of the file that stands and of the one that comes, as comments (``#``);
2. the file is replaced;
3. the side file says the new digest alone.

Whoever is killed after step 1 or 2 leaves a file that one of the two comments describes: :func:`check_digest` finds it
whole, and ``sha256sum --check``, which skips comments, says that there is nothing to check. Neither ever calls a good
file broken. Where no side file was there before, step 1 is left out, since the digest of the file that stands is not
known: until step 3 there is none.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import IO

from src.errors import UserError
from src.utils.files import atomic_write

SUFFIX = ".sha256"
# A line of sha256sum ("\" in front where the name is escaped; "*" for binary mode), or that line as a comment.
_LINE = re.compile(rb"^(?:# )?\\?([0-9a-fA-F]{64}) [ *].", re.MULTILINE)
_BLOCK = 1 << 20  # bytes


def side_file(path: str | Path) -> Path:
    """Where the digest of ``path`` stands."""
    path = Path(path)
    return path.with_name(path.name + SUFFIX)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal digits.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return _digest_of(stream)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give the path of a file") from error


def write_digest(path: str | Path) -> str:
    """Write the side file of a file that stands already, atomically: its digest.

    Raises:
        UserError: the file cannot be read or the side file not written.
    """
    digest = file_digest(path)
    _write_side_file(Path(path), [digest])
    return digest


def check_digest(path: str | Path, digest: str | None = None) -> bool | None:
    """Whether a file holds what its side file says: one of the digests in it, see above.

    The side file is read before the file and again after it: a run that replaces both meanwhile is no damage.

    Args:
        path: the file.
        digest: its :func:`file_digest`, where the caller has just computed it.

    Returns:
        True, False, or None where there is no side file.

    Raises:
        UserError: the file cannot be read, or the side file is none.
    """
    listed = _listed_digests(Path(path))
    digest = digest or file_digest(path)
    if listed and digest in listed:
        return True
    listed = _listed_digests(Path(path))
    if listed is None:
        return None
    if not listed:
        raise UserError(f"{side_file(path)} holds no line of sha256sum; delete it, or get it again with its file")
    return digest in listed


def save_with_digest(path: str | Path, write: Callable[[IO[bytes]], None]) -> str:
    """Replace a file and its side file; killed at any point, it leaves none that looks broken (see above).

    Args:
        path: the file; its folder is made if it does not exist.
        write: writes the content to the binary stream that it is given.

    Returns:
        The digest.

    Raises:
        UserError: one of them cannot be written. Where it is the first, both are as they were, or the side file lists
            one digest more.
    """
    path = Path(path)
    with atomic_write(path, "w+b") as stream:
        write(stream)
        stream.flush()
        stream.seek(0)
        digest = _digest_of(stream)
        listed = _listed_digests(path)
        if listed:
            _write_side_file(path, {*listed, digest})
            _sync_folder(path.parent)  # a power cut must not keep a later step and lose an earlier one
    _sync_folder(path.parent)
    _write_side_file(path, [digest])
    return digest


def _digest_of(stream: IO[bytes]) -> str:
    """SHA-256 from here to the end of the stream."""
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _listed_digests(path: Path) -> set[str] | None:
    """What the side file of ``path`` lists; None where there is no side file.

    The name in it is not looked at: files are renamed together with their side files.

    Raises:
        UserError: the side file cannot be read.
    """
    side = side_file(path)
    try:
        content = side.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {side}: {error.strerror or error}") from error
    return {match.decode().lower() for match in _LINE.findall(content)}


def _write_side_file(path: Path, digests: Collection[str]) -> None:
    """One digest as ``sha256sum`` writes it; several as comments."""
    name = os.fsencode(path.name)
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != name else b""
    lines = [mark + digest.encode() + b"  " + escaped + b"\n" for digest in sorted(digests)]
    with atomic_write(side_file(path)) as stream:
        stream.writelines(lines if len(lines) == 1 else [b"# " + line for line in lines])


def _sync_folder(folder: Path) -> None:
    """Bring the renamings in a folder to disk, where the system can do that for a folder."""
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
