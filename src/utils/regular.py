"""Reading files that others made, only where they are regular: a FIFO waits for its writer, a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

# Neither wait for the other end of a FIFO nor follow a link; Windows lacks some of these
UNWAITING = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
UNFOLLOWED = UNWAITING | getattr(os, "O_NOFOLLOW", 0)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotRegularError(OSError):
    """Something else than a regular file has the name; ``strerror`` says what."""

    def __init__(self, path: str | Path, mode: int) -> None:
        self.kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        super().__init__(errno.EINVAL, f"it is {self.kind}", os.fspath(path))


def open_regular(path: str | Path, *, follow_links: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        NotRegularError: it is something else.
        OSError: it cannot be opened.
    """
    mode = os.stat(path, follow_symlinks=follow_links).st_mode
    if not stat.S_ISREG(mode):
        raise NotRegularError(path, mode)
    return os.fdopen(os.open(path, os.O_RDONLY | (UNWAITING if follow_links else UNFOLLOWED)), "rb")


def read_regular(path: str | Path, most: int) -> bytes:
    """Read a regular file of at most ``most`` bytes.

    Raises:
        OSError: it is larger, something else, or cannot be read.
    """
    with open_regular(path) as stream:
        if (size := os.fstat(stream.fileno()).st_size) > most:
            raise OSError(errno.EINVAL, f"it has {size:,} bytes, more than {most:,}", os.fspath(path))
        return stream.read()
