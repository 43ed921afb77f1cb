"""Locks that keep two runs apart, held on open files and gone with the process that holds them."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from src.errors import UserError
from src.utils.regular import UNFOLLOWED

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file against other processes until it is closed; does not wait.

    Returns:
        True; False if another process holds the lock; None where there are no locks (Windows, some network file
        systems): runs are not kept apart there.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def open_journal(path: Path) -> int:
    """Open a file for reading and appending, creating it if needed; a link is never followed.

    A journal lies under a name that the user did not choose: whatever else lies there is not ours to write to.

    Returns:
        The descriptor; children that are forked do not keep it.

    Raises:
        OSError: the file cannot be opened.
        UserError: there is a link, FIFO, device or folder of that name.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | UNFOLLOWED, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise _no_file(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(path)
    return descriptor


def open_locked(path: Path) -> int | None:
    """Open a journal as :func:`open_journal`, and lock it until it is closed; None if another process has locked it."""
    while True:
        descriptor = open_journal(path)
        try:
            locked = try_lock(descriptor)
            if locked is False:
                os.close(descriptor)
                return None
            if is_same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it before it let go


def is_same_file(descriptor: int, path: str | Path) -> bool:
    """Return whether an open file is still the one of that name."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    return False


def _no_file(path: Path) -> UserError:
    return UserError(f"{path}: a link, or something else than a file, is where this program keeps its notes; remove it")
