"""Results on disk the moment that they are known, until a run ends; and one run at a time on an output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from src.errors import UserError
from src.inference.formats import ImageResult


class Entry(msgspec.Struct, omit_defaults=True):
    """A line of a journal: one of these.

    Attributes:
        settings: the first line; what the tags depend on.
        begun: what finished outputs held is written down whole, and new results follow.
        result: the tags of an image.
        skipped: a bad image and the message about it.
    """

    settings: dict[str, Any] | None = None
    begun: bool = False
    result: ImageResult | None = None
    skipped: tuple[str, str] | None = None


class Journal:
    """An append-only file of JSON lines. Each is handed to the system as a whole: a killed process loses none.

    A line that was cut (a full disk, a system that went down) is removed when the journal is opened again.

    Args:
        path: the file; it is made if there is none.
        empty: drop what is in it.

    Attributes:
        settings: of the run that began it.
        begun: whether it may hold results that are nowhere else.
        done: the images that it has tags of.
        skipped: messages about bad images, by path, in the order of the last try.

    Raises:
        UserError: it cannot be opened, or is damaged before its last line.
    """

    def __init__(self, path: Path, *, empty: bool = False) -> None:
        self.path = path
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  # until close
        except OSError as error:
            raise UserError(
                f"{path}, the journal of the results, cannot be opened: {error.strerror or error}; choose another "
                "place for the outputs"
            ) from error
        try:
            self._clear()
            if empty:
                self._file.truncate(0)
            self._replay()
        except BaseException:
            self._file.close()
            raise

    def _clear(self) -> None:
        self.settings: dict[str, Any] = {}
        self.begun = False
        self.done: set[str] = set()
        self.skipped: dict[str, str] = {}
        self._size = 0

    def _replay(self) -> None:
        decode = msgspec.json.Decoder(Entry).decode
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    entry = decode(line if line.endswith(b"\n") else b"")
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    if lines.read(1):
                        raise UserError(
                            f"{self.path}, the journal of an earlier run, is damaged in line {number} ({error}); give "
                            "--overwrite to start anew"
                        ) from error
                    break
                self._take(entry)
                self._size += len(line)
        self._file.truncate(self._size)

    def _take(self, entry: Entry) -> None:
        if entry.result is not None:
            self.done.add(entry.result.image)
            self.skipped.pop(entry.result.image, None)
        elif entry.skipped is not None:
            image, message = entry.skipped
            self.skipped.pop(image, None)
            self.skipped[image] = message
        elif entry.settings is not None:
            self.settings = entry.settings
        else:
            self.begun = True

    def begin(self, settings: Mapping[str, Any], earlier: Iterable[Entry]) -> None:
        """Start anew: with these settings, and what finished outputs held. Until its end a kill loses nothing."""
        self._clear()
        self._file.truncate(0)
        self.append(Entry(settings=dict(settings)))
        for entry in earlier:
            self.append(entry)
        self.append(Entry(begun=True))

    def append(self, entry: Entry) -> None:
        """Write an entry.

        Raises:
            UserError: the disk is full, say; what was written before is safe.
        """
        line = msgspec.json.encode(entry) + b"\n"
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise self._failure(error) from error
        self._size += len(line)
        self._take(entry)

    def results(self) -> Iterator[ImageResult]:
        """The images and their tags, in the order of writing."""
        decode = msgspec.json.Decoder(Entry).decode
        with self.path.open("rb") as lines:
            for line in lines:
                entry = decode(line)
                if entry.result is not None:
                    yield entry.result

    def sync(self) -> None:
        """Wait until all is on the disk itself.

        Raises:
            UserError: it cannot be.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path}, the journal of the results, cannot be written: {error.strerror or error}; mend that, and "
            "go on with --resume: what it holds is kept"
        )


@contextmanager
def locked(path: Path, flag: str) -> Iterator[None]:
    """Keep other runs from writing ``path``, the value of ``flag``.

    The lock belongs to this process, not to those it starts, and ends with it, however that ends: the file
    ``.NAME.lock`` that a killed run leaves behind holds up nobody.

    Raises:
        UserError: another process holds the lock, or the file cannot be made.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        descriptor = _open_locked(lock)
    except BlockingIOError as error:
        raise UserError(
            f"{flag} {path}: another run is writing it ({error}); wait until that has ended, or give another file"
        ) from error
    except OSError as error:
        raise UserError(
            f"{flag} {path}: {lock.name} beside it cannot be locked: {error.strerror or error}; choose another place"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _open_locked(lock: Path) -> int:
    """A descriptor of the locked file. BlockingIOError names the process that holds the lock."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _take_lock(descriptor):
                holder = os.read(descriptor, 32).decode("ascii", "replace")
                raise BlockingIOError(f"process {holder or 'unknown'}")
            # Its last holder may have deleted it after it was opened here: what is locked then stops nobody
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                    os.truncate(descriptor, 0)
                    os.write(descriptor, str(os.getpid()).encode())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _take_lock(descriptor: int) -> bool:
        """Lock a byte far behind the content, which stays readable."""
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _take_lock(descriptor: int) -> bool:
        """A POSIX record lock: children do not inherit it, so none that outlives its parent holds it."""
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # either, by the system
            return False
        return True
