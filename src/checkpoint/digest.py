"""Write files together with their SHA-256 side files (:mod:`src.utils.digest`).

A save removes the old side file before it replaces the checkpoint, and writes the new one last: a run that is killed
in between leaves a good checkpoint without a side file, never one beside a stale digest. Of two runs that save to one
file at the same time, one waits until both files of the other are in place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from src.errors import UserError
from src.utils.digest import file_digest, side_file, side_line, written_digest
from src.utils.files import atomic_write
from src.utils.streams import is_stream
from src.utils.temporary import turn_to_write


def write_digest(path: str | Path) -> str:
    """Write the side file of an existing file and return the digest.

    Raises:
        UserError: the file cannot be read or the side file not written.
    """
    digest = file_digest(path)
    with atomic_write(side_file(path)) as stream:
        stream.write(side_line(digest, path))
    return digest


@contextmanager
def unchanged(path: str | Path) -> Iterator[str]:
    """Yield the digest of a file that the block reads in its own way.

    Raises:
        UserError: the file cannot be read, or another program replaced it during the block.
    """
    digest = file_digest(path)
    yield digest
    if file_digest(path) != digest:
        raise UserError(f"{path} was replaced while it was read; run this again when no other run writes to it")


def save_with_digest(path: str | Path, content: object) -> None:
    """Save with ``torch.save``, replacing the file atomically, and write its side file; a device has none.

    Raises:
        UserError: one of the two files cannot be written.
    """
    import torch  # it takes a second to import, and verify needs no PyTorch

    if is_stream(path):
        with atomic_write(path) as stream:
            torch.save(content, stream)
        return
    with ExitStack() as turn, atomic_write(side_file(path)) as side, atomic_write(path) as stream:
        torch.save(content, stream)
        side.write(side_line(written_digest(stream), path))
        turn.enter_context(turn_to_write(path))  # until both files are renamed: the checkpoint, then its side file
        Path(os.path.realpath(side_file(path))).unlink(missing_ok=True)
