"""Bytes of a file of word vectors, plain or compressed, read in blocks from front to back."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from src.errors import UserError, first_line, name_some
from src.word_vectors.unpacking import ZIP, ExpansionError, check_member, detect_packing, is_content, unpacked

BLOCK = 1 << 22  # bytes that are read at once
SAMPLE = 1 << 20  # bytes from the start that show the format; more than any line of numbers
BAR_DELAY = 3.0  # seconds before a progress bar appears


class ByteFile:
    """A file, or the content of a ``.gz``, ``.bz2`` or ``.xz`` file or of one member of a ``.zip`` archive.

    Attributes:
        path: the file on disk.
        flag: the flag that named it.
        name: its name for people, with the member of an archive.
        where: start of error messages: flag and path.
        packing: how it is packed, or ``""``, detected from the first bytes.
    """

    def __init__(self, path: Path, flag: str, member: str | None = None) -> None:
        self.path, self.flag = path, flag
        self.name = path.name if member is None else f"{path.name}/{member}"
        self.where = f"{flag} {path if member is None else path / member}"
        with self._damage_named(), open(path, "rb") as raw:
            start = raw.read(16)
        if not start:
            raise UserError(f"{self.where}: the file is empty; get it again")
        self.packing = detect_packing(start)
        if member is not None and self.packing != ZIP:
            raise UserError(f"{self.where}: no such file or folder ({path} is a file, and no .zip archive)")
        self._member = self._choose_member(member) if self.packing == ZIP else ""

    def _choose_member(self, member: str | None) -> str:
        """Return the name of the archive's only file, or the wanted one."""
        with self._damage_named(), zipfile.ZipFile(self.path) as archive:
            every = archive.namelist()
        names = list(filter(is_content, every))
        if member is None and len(names) == 1:
            return names[0]
        if member is None or member.endswith("/") or member not in every:
            raise UserError(
                f"{self.where}: the archive holds {len(names)} files ({name_some(names, 20)}); name one of them as "
                f"{self.path}/MEMBER"
            )
        return member

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Name the file in whatever a module raises about it: they have many exceptions, and not all are documented."""
        try:
            yield
        except UserError:
            raise
        except EOFError as error:
            raise UserError(f"{self.where}: ends in the middle; get the file again") from error
        except ExpansionError as error:
            raise UserError(f"{self.where}: is no file of word vectors: {error}") from error
        except Exception as error:
            if isinstance(error, OSError) and error.strerror:
                raise UserError(f"{self.where}: cannot be read: {error.strerror}") from error
            raise UserError(f"{self.where}: is damaged: {first_line(error)}; get the file again") from error

    @contextmanager
    def _open(self) -> Iterator[tuple[Iterator[bytes], int, Callable[[], int]]]:
        """Open the file: (blocks of unpacked bytes, total of the progress, function of the current progress)."""
        with self._damage_named(), open(self.path, "rb") as raw:
            size = self.path.stat().st_size
            if self.packing == ZIP:
                with zipfile.ZipFile(raw) as archive:
                    member = archive.getinfo(self._member)
                    check_member(member, size, self.where)
                    with archive.open(member) as stream:
                        yield iter(lambda: stream.read(BLOCK), b""), member.file_size, stream.tell
            elif self.packing:
                yield unpacked(raw, self.packing, BLOCK), size, raw.tell
            else:
                yield iter(lambda: raw.read(BLOCK), b""), size, raw.tell

    @cached_property
    def sample(self) -> bytes:
        """Return the first :data:`SAMPLE` unpacked bytes, or all of a smaller file."""
        sample = bytearray()
        with self._open() as (blocks, _, _):
            for block in blocks:
                sample += block
                if len(sample) >= SAMPLE:
                    break
        return bytes(sample[:SAMPLE])

    def blocks(self) -> Iterator[bytes]:
        """Yield the unpacked bytes in blocks, with a progress bar on a terminal if it takes longer.

        Raises:
            UserError: the file cannot be read or unpacked.
        """
        look = {"unit": "B", "unit_scale": True, "disable": None, "leave": False, "delay": BAR_DELAY}
        with self._open() as (blocks, total, position), tqdm(total=total, desc=self.name, **look) as bar:
            for block in blocks:
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
