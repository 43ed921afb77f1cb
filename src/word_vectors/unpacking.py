"""Streams of unpacked bytes: gzip, bzip2, xz and the members of zip archives, with bounded memory and expansion."""

from __future__ import annotations

import bz2
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Protocol

from src.errors import UserError

GZIP, BZIP2, XZ, ZIP = "gzip", "bzip2", "xz", "zip"

_STARTS = {
    GZIP: re.compile(rb"\x1f\x8b\x08"),
    BZIP2: re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    XZ: re.compile(rb"\xfd7zXZ\0"),
    ZIP: re.compile(rb"PK(?:\x03\x04|\x05\x06)"),
}
_LONGEST_START = 10  # bytes
_CHUNK = 1 << 15  # packed bytes that are read at once
_XZ_MEMORY = 256 << 20  # bytes; the strongest preset, -9, needs 65 million
_MOST_EXPANSION = 200  # fold; text of numbers shrinks to a third, and to a hundredth where nearly all are zero
_FREE_BYTES = 64 << 20  # unpacked bytes to which no limit applies
# Names of what macOS, Windows, and file servers add to folders
_OF_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class ExpansionError(ValueError):
    """The packed data grows so much that it can be no word vectors."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decompressor with the interface of those of bz2 and lzma, which keep what they did not use."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_MAKERS: dict[str, Callable[[], _Decompressor]] = {
    GZIP: _Gunzip,
    BZIP2: bz2.BZ2Decompressor,
    XZ: lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}


def detect_packing(start: bytes) -> str:
    """Return how a file is packed, by its first bytes; ``""`` if it is not."""
    return next((packing for packing, pattern in _STARTS.items() if pattern.match(start)), "")


def unpacked(raw: IO[bytes], packing: str, size: int) -> Iterator[bytes]:
    """Yield the unpacked bytes of a stream of one or more packed parts, at most ``size`` at once.

    What follows the last part and is none (padding) is left out.

    Raises:
        EOFError: the stream ends within a part.
        ExpansionError: it grows beyond all measure.
        OSError, zlib.error, lzma.LZMAError: it is damaged.
    """
    written = 0
    chunk = raw.read(_CHUNK)
    while detect_packing(chunk) == packing:
        decompressor = _MAKERS[packing]()
        while not decompressor.eof:
            block = decompressor.decompress(chunk, size)
            written += len(block)
            check_expansion(raw.tell(), written)
            if block:
                yield block
            # A full block may have been cut off by its limit, with more to come from what was read already
            chunk = b"" if len(block) == size or decompressor.eof else raw.read(_CHUNK)
            if not chunk and len(block) < size and not decompressor.eof:
                raise EOFError
        chunk = decompressor.unused_data.lstrip(b"\0")
        chunk += raw.read(_CHUNK) if len(chunk) < _LONGEST_START else b""


def check_expansion(packed: int, written: int) -> None:
    """Raise :class:`ExpansionError` if so many unpacked bytes from so many packed ones can be no word vectors."""
    if written > max(_FREE_BYTES, _MOST_EXPANSION * packed):
        raise ExpansionError(f"{packed:,} packed bytes give more than {written:,}, which no word vectors do")


def is_content(member: str) -> bool:
    """Return whether a member of an archive is a file that somebody put there, not a system's own beside it."""
    *folders, name = member.replace("\\", "/").split("/")
    hidden = name.startswith(".") or name.casefold() in _OF_SYSTEMS
    return bool(name) and not hidden and not _OF_SYSTEMS & set(map(str.casefold, folders))


def check_member(member: zipfile.ZipInfo, size: int, where: str) -> None:
    """Refuse a member of an archive of ``size`` bytes that cannot be streamed with bounded memory.

    Raises:
        UserError: it has a password or is packed by a rare method.
        ExpansionError: it grows beyond all measure.
    """
    if member.flag_bits & 1:
        raise UserError(f"{where}: the archive has a password; unpack it first")
    if member.compress_type not in _ZIP_METHODS:
        raise UserError(f"{where}: the archive is packed by a method that is not read; unpack it first")
    check_expansion(min(member.compress_size, size), member.file_size)
