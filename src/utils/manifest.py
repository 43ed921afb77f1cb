"""Records which files of a folder this program wrote, so that it replaces and removes no others.

A folder that the program fills holds ``.sdl-manifest.jsonl``: one JSON line per file written, with its name in the
folder and the SHA-256 of its content, appended before the file appears. A file is this program's while its content is
one that was recorded for its name: a file that the user put there, or edited since, is the user's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from src.errors import UserError, name_some
from src.utils.digest import stream_digest
from src.utils.files import noting
from src.utils.locks import open_journal, open_locked
from src.utils.regular import open_regular
from src.utils.temporary import sweep_temporary

NAME = ".sdl-manifest.jsonl"
_MAX_LINE = 1 << 16  # bytes; longer ones were not written by this program


class _Entry(NamedTuple):
    name: str
    digest: str


class Manifest:
    """The files that this program wrote into a folder.

    A manifest may come from a stranger: names that lead out of the folder, also through links, are no files of this
    program, whatever it says.

    Args:
        folder: need not exist; nothing is written until the first :meth:`record`.
        name: of the manifest.

    Raises:
        UserError: the manifest cannot be read.
    """

    def __init__(self, folder: str | Path, name: str = NAME) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.path = self.folder / name
        self._journal: int | None = None
        self._read()

    def _read(self) -> None:
        self._digests: dict[str, set[str]] = {}
        if os.path.lexists(self.path):
            with _reported(self.path):
                for entry in _entries(self.path):
                    self._digests.setdefault(entry.name, set()).add(entry.digest)

    def owns(self, path: str | Path) -> bool:
        """Return whether a file of the folder has a content that this program wrote under its name."""
        return self._owns(self._name(path))

    def knows(self, path: str | Path) -> bool:
        """Return whether this program ever wrote a file of this name here, whatever is there now."""
        return self._name(path) in self._digests

    def files(self) -> list[Path]:
        """Return the files that this program wrote and nobody changed since, sorted."""
        return sorted(self.folder / name for name in self._digests if self._owns(name))

    def folders(self) -> list[Path]:
        """Return the folders below this one that this program ever wrote files into, inner ones first."""
        parents = {parent for name in self._digests for parent in PurePosixPath(name).parents if parent.parts}
        return [self.folder / parent for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True)]

    def foreign(self, paths: Iterable[str | Path]) -> list[Path]:
        """Return those of some paths at which something lies that is not this program's."""
        return [Path(path) for path in paths if os.path.lexists(path) and not self.owns(path)]

    def refuse_foreign(self, paths: Iterable[str | Path], flag: str) -> None:
        """Check that nothing but this program's files lies at some paths, and no file or link on the way to them.

        Raises:
            UserError: something else does; the message begins with ``flag``.
        """
        targets = sorted(map(Path, paths))
        ways = {parent for path in targets for parent in path.parents if self.folder in parent.parents}
        foreign = [*self.foreign(targets), *(way for way in sorted(ways) if way.is_symlink() or way.is_file())]
        if foreign:
            inner = self.folder in foreign[0].parents
            names = [os.path.relpath(path, self.folder) if inner else path.name for path in foreign]
            raise UserError(
                f"{flag} {self.folder}: {name_some(names)} would be replaced, but is not, or is no longer, what this "
                "program wrote; move it away, or choose another folder"
            )

    def record(self, path: str | Path, digest: str) -> None:
        """Note that a file with a content, given by its :func:`digest_of`, is about to appear in the folder.

        Raises:
            UserError: the path is not in the folder, or the manifest cannot be written.
        """
        name = self._name(path)
        if not _is_inside(name):
            raise UserError(f"{path} is not in {self.folder}, whose files are recorded")
        if digest in self._digests.get(name, ()):
            return
        line = json.dumps({"name": name, "sha256": digest}).encode() + b"\n"
        with _reported(self.path):
            journal = open_journal(self.path) if self._journal is None else self._journal
            try:
                if os.fstat(journal).st_size and os.lseek(journal, -1, os.SEEK_END) and os.read(journal, 1) != b"\n":
                    line = b"\n" + line  # a killed run left half a line
                if os.write(journal, line) != len(line):
                    raise OSError("the disk is full")
            finally:
                if journal != self._journal:
                    os.close(journal)
        self._digests.setdefault(name, set()).add(digest)

    def remove(self, path: str | Path) -> bool:
        """Remove a file if it is this program's; returns whether it was.

        Raises:
            UserError: it cannot be removed.
        """
        if not self.owns(path):
            return False
        with _reported(Path(path)):
            os.unlink(self.folder / self._name(path))
        return True

    @contextmanager
    def recording(self) -> Iterator[Manifest]:
        """Record all files that :func:`src.utils.files.atomic_write` writes below the folder during the block.

        Temporary files that killed runs left in the folder are removed.
        """
        sweep_temporary(self.folder)
        with noting(self.folder, lambda temporary, target: self.record(target, digest_of(temporary))):
            yield self

    @contextmanager
    def lock(self, flag: str) -> Iterator[Manifest]:
        """Keep other runs out of the folder during the block, and record the files as :meth:`recording`.

        The folder is made if needed. Processes that are forked do not hold the lock.

        Raises:
            UserError: another run holds the lock, or the manifest cannot be written; the message begins with ``flag``.
        """
        with _reported(self.path, f"{flag} {self.folder}: "):
            self.folder.mkdir(parents=True, exist_ok=True)
            journal = open_locked(self.path)
        if journal is None:
            raise UserError(
                f"{flag} {self.folder}: another run is writing this folder; wait until it has ended, or choose another "
                "folder"
            )
        self._journal = journal
        _held.add(journal)
        try:
            self._read()  # what a run wrote that has just ended
            with self.recording():
                yield self
        finally:
            self._journal = None
            if journal in _held:
                if not os.fstat(journal).st_size:
                    with suppress(OSError):
                        os.unlink(self.path)
                _held.discard(journal)
                os.close(journal)

    def _name(self, path: str | Path) -> str:
        """Return a path relative to the folder, with slashes; links in the path to the folder are resolved."""
        path = Path(path)
        real = Path(os.path.realpath(path.parent)) / path.name
        return Path(os.path.relpath(real, self.folder)).as_posix()

    def _owns(self, name: str) -> bool:
        path = self.folder / name
        if name not in self._digests or os.path.realpath(path) != str(path):  # a link leads to it
            return False
        with suppress(OSError):
            return digest_of(path) in self._digests[name]
        return False


def digest_of(path: str | Path) -> str:
    """Compute the SHA-256 of a regular file, in lower-case hexadecimal digits; a link is not followed.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path, follow_links=False) as stream:
        return stream_digest(stream)


def _entries(path: Path) -> Iterator[_Entry]:
    """Yield the entries of a manifest; lines that were cut or damaged are passed over."""
    with open_regular(path, follow_links=False) as lines:
        while line := lines.readline(_MAX_LINE):
            with suppress(ValueError, RecursionError, KeyError, TypeError):
                entry = json.loads(line)
                name, digest = entry["name"], entry["sha256"]
                if isinstance(name, str) and isinstance(digest, str) and _is_inside(name):
                    yield _Entry(name, digest)


def _is_inside(name: str) -> bool:
    """Return whether a name stays in the folder that it is relative to."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and not any(letter in name for letter in ("\\", ":", "\0") if os.name == "nt" or letter == "\0")
    )


@contextmanager
def _reported(path: Path, prefix: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{prefix}cannot use {path}: {error.strerror or error}; choose another folder") from error


_held: set[int] = set()  # locked descriptors


def _let_go() -> None:
    """Close the locks in a forked child, which may outlive a killed run."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
