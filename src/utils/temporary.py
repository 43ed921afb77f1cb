"""Temporary files beside the files that they replace, which tell a living writer from a dead one.

The name is short, so that it fits wherever the target's name does. The writer holds a lock on the file: what is not
locked was left by a run that was killed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from src.errors import UserError
from src.utils.locks import is_same_file, open_locked, try_lock
from src.utils.regular import UNFOLLOWED

_PREFIX, _SUFFIX = ".sdl-", ".tmp"
_NAME = re.compile(r"\.sdl-[a-z0-9_]{8}\.tmp")
_swept: set[Path] = set()
_PATIENCE = 60.0  # seconds to wait for another run, which only renames its files
_POLL = 0.02  # seconds
_OLD = 24 * 3600.0  # seconds without a change, after which a file counts as dead where there are no locks


@contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[int, str]]:
    """Make a temporary file in a folder, private to its owner, to be renamed before the block ends.

    It is removed if the block ends with an exception. The block closes the descriptor. The first file in a folder
    sweeps what killed runs left there.

    Yields:
        (descriptor, path).

    Raises:
        OSError: on entering: it cannot be created.
    """
    if folder not in _swept:
        _swept.add(folder)
        sweep_temporary(folder)
    while True:
        descriptor, path = tempfile.mkstemp(dir=folder, prefix=_PREFIX, suffix=_SUFFIX)
        if try_lock(descriptor) is not False and is_same_file(descriptor, path):
            break
        os.close(descriptor)  # a sweeper was faster than the lock
    # The lock lasts until all copies of the descriptor are closed; Windows, without locks, renames no open file
    lock = None if sys.platform == "win32" else os.dup(descriptor)
    try:
        yield descriptor, path
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def turn_to_write(path: str | Path) -> Iterator[None]:
    """Let no other process replace an output during the block, which renames files that belong together.

    Waits for the others. The lock is on a file beside the output that looks like a temporary one: what a killed run
    leaves of it is swept. Where there are no locks (:func:`src.utils.locks.try_lock`), nobody is kept out.

    Raises:
        OSError: nothing can be written beside the output.
        UserError: another process keeps its turn for a minute.
    """
    if sys.platform == "win32":
        yield
        return
    target = Path(os.path.realpath(path))
    place = target.with_name(f"{_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}{_SUFFIX}")
    end = time.monotonic() + _PATIENCE
    while (descriptor := open_locked(place)) is None:
        if time.monotonic() > end:
            raise UserError(f"cannot write {path}: another run is writing it (it holds {place}); try again later")
        time.sleep(_POLL)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(place)  # before the lock is let go: whoever waits for it sees that the file is another
        os.close(descriptor)


def sweep_temporary(folder: str | Path) -> None:
    """Remove the temporary files in a folder whose writers are dead; all else stays, also what cannot be removed."""
    try:
        names = [entry.name for entry in os.scandir(folder) if _NAME.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            _remove_dead(os.path.join(folder, name))


def _remove_dead(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | UNFOLLOWED)
    try:
        facts = os.fstat(descriptor)
        locked = try_lock(descriptor)
        if locked is None:
            locked = time.time() - facts.st_mtime > _OLD
        if locked and stat.S_ISREG(facts.st_mode) and is_same_file(descriptor, path):
            os.unlink(path)
    finally:
        os.close(descriptor)
