"""Bytes of a file of word vectors, plain or compressed, read in blocks from front to back."""

from __future__ import annotations

import gzip
import mmap
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, cast

from tqdm import tqdm

from src.errors import UserError, name_some

BLOCK = 1 << 22  # bytes that are read at once
SAMPLE = 1 << 20  # bytes from the start that show the format; more than any line of numbers
BAR_DELAY = 3.0  # seconds before a progress bar appears

# zipfile raises RuntimeError for archives with a password or of a method it does not know
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError)


class ByteFile:
    """A file, or the content of a ``.gz`` file or of one member of a ``.zip`` archive.

    Attributes:
        path: the file on disk.
        flag: the flag that named it.
        name: its name for people, with the member of an archive.
        where: start of error messages: flag and path.
        packing: ``""``, ``"gzip"`` or ``"zip"``, detected from the first bytes.
    """

    def __init__(self, path: Path, flag: str, member: str | None = None) -> None:
        self.path, self.flag = path, flag
        self.name = path.name if member is None else f"{path.name}/{member}"
        self.where = f"{flag} {path if member is None else path / member}"
        with self._damage_named(), open(path, "rb") as raw:
            start = raw.read(4)
        if not start:
            raise UserError(f"{self.where}: the file is empty; get it again")
        is_zip = start in (b"PK\x03\x04", b"PK\x05\x06")
        self.packing = "gzip" if start.startswith(b"\x1f\x8b") else "zip" if is_zip else ""
        if member is not None and not is_zip:
            raise UserError(f"{self.where}: no such file or folder ({path} is a file, and no .zip archive)")
        self._member = self._choose_member(member) if is_zip else ""

    def _choose_member(self, member: str | None) -> str:
        """Return the name of the archive's only file, or the wanted one."""
        with self._damage_named(), zipfile.ZipFile(self.path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        if member is None and len(names) == 1:
            return names[0]
        if member is None or member not in names:
            raise UserError(
                f"{self.where}: the archive holds {len(names)} files ({name_some(names, 20)}); name one of them as "
                f"{self.path}/MEMBER"
            )
        return member

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise UserError(f"{self.where}: cannot be read: {error}; get the file again") from error

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], int, Callable[[], int]]]:
        """Open the file: (stream of unpacked bytes, total of the progress, function of the current progress)."""
        with self._damage_named(), open(self.path, "rb") as raw:
            size = self.path.stat().st_size
            if self.packing == "gzip":
                with gzip.open(raw) as unpacked:
                    yield cast(IO[bytes], unpacked), size, raw.tell
            elif self.packing == "zip":
                with zipfile.ZipFile(raw) as archive, archive.open(self._member) as unpacked:
                    yield unpacked, archive.getinfo(self._member).file_size, unpacked.tell
            else:
                yield raw, size, raw.tell

    @cached_property
    def sample(self) -> bytes:
        """Return the first :data:`SAMPLE` unpacked bytes, or all of a smaller file."""
        with self._open() as (stream, _, _):
            return stream.read(SAMPLE)

    def blocks(self) -> Iterator[bytes]:
        """Yield the unpacked bytes in blocks, with a progress bar on a terminal if it takes longer.

        Raises:
            UserError: the file cannot be read or unpacked.
        """
        look = {"unit": "B", "unit_scale": True, "disable": None, "leave": False, "delay": BAR_DELAY}
        with self._open() as (stream, total, position), tqdm(total=total, desc=self.name, **look) as bar:
            while block := stream.read(BLOCK):
                bar.update(position() - bar.n)
                yield block

    def mapped(self, what: str) -> mmap.mmap:
        """Map the whole file into memory, so that only the pages in use are read.

        Raises:
            UserError: the file is packed, which rules out random access; ``what`` names its content.
        """
        if self.packing:
            raise UserError(f"{self.where}: {what} needs random access; unpack it first")
        with self._damage_named(), open(self.path, "rb") as raw:
            return mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
