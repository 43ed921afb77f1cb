"""Write files together with their SHA-256 side files (:mod:`src.utils.digest`).

A save removes the old side file before it replaces the checkpoint: a run that is killed in between leaves a good
checkpoint without a side file, never one beside a stale digest.
"""

from __future__ import annotations

import os
from pathlib import Path

from src.utils.digest import file_digest, side_file
from src.utils.files import atomic_write
from src.utils.streams import is_stream


def write_digest(path: str | Path) -> str:
    """Write the side file of an existing file and return the digest.

    Raises:
        UserError: the file cannot be read or the side file not written.
    """
    digest = file_digest(path)
    with atomic_write(side_file(path)) as stream:
        stream.write(os.fsencode(f"{digest}  {Path(path).name}\n"))  # sha256sum looks for these very bytes
    return digest


def save_with_digest(path: str | Path, content: object) -> None:
    """Save with ``torch.save``, replacing the file atomically, and write its side file; a device has none.

    Raises:
        UserError: one of the two files cannot be written.
    """
    import torch  # it takes a second to import, and verify needs no PyTorch

    with atomic_write(path) as stream:
        torch.save(content, stream)
        stream.flush()
        if not is_stream(path):
            side_file(path).unlink(missing_ok=True)
    if not is_stream(path):
        write_digest(path)
