"""Write tags for photo managers: XMP dc:subject and IPTC keywords in image copies, or XMP files beside the images."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.errors import UserError, first_line
from src.inference.xmp import NEW_PACKET, missing, with_keywords
from src.utils.files import atomic_write, full_disk
from src.utils.optional import import_extra
from src.utils.regular import read_regular

_SUBJECT = "Xmp.dc.subject"
_KEYWORDS = "Iptc.Application2.Keywords"
_CHARACTER_SET = "Iptc.Envelope.CharacterSet"
_UTF8 = "\x1b%G"  # escape sequence of UTF-8 (IPTC-IIM 1:90)
_MAX_SIDECAR = 64 << 20  # bytes
_MAX_IPTC_BYTES = 64  # per keyword (IPTC-IIM 2:25); XMP has no limit


class KeywordsError(Exception):
    """The keywords of an image cannot be written; the message names it and the reason."""


class KeywordWriter:
    """Copies images to a folder and adds tags to the copies' keywords; pixels and other metadata do not change.

    Args:
        folder: folder of the copies; must not be that of an image.

    Raises:
        UserError: pyexiv2 is not installed, or the folder cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self._exiv2 = import_extra("pyexiv2", "pyexiv2", f"--write_keywords {folder}")
        self._exiv2.set_log_level(4)  # mute: errors are raised as well
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--write_keywords {folder}: cannot be made: {error.strerror or error}") from error

    def write(self, image: Path, tags: Sequence[str], name: str | None = None) -> Path:
        """Copy an image and add keywords; the copy appears complete or not at all.

        Args:
            image: path of the image.
            tags: keywords to add to existing ones, without repetition.
            name: file name of the copy; None keeps the image's.

        Raises:
            KeywordsError: the image's format holds no keywords, its metadata is damaged, or the copy cannot be written.
            UserError: the copy would overwrite the image, or the disk is full.
        """
        target = self.folder / (name or image.name)
        with _reported(image, "cannot hold keywords"):
            if target.exists() and target.samefile(image):
                raise UserError(f"--write_keywords {self.folder}: would overwrite {image}; choose another folder")
            content = self._with_keywords(image.read_bytes(), tags)
            with atomic_write(target) as stream:
                stream.write(content)
            shutil.copystat(image, target)
        return target

    def _with_keywords(self, content: bytes, tags: Sequence[str]) -> bytes:
        with self._exiv2.ImageData(content) as metadata:
            subject, iptc = metadata.read_xmp().get(_SUBJECT, []), _iptc(metadata)
            metadata.modify_xmp({_SUBJECT: _joined(subject, tags)})
            if iptc is not None:
                short = [tag for tag in tags if len(tag.encode()) <= _MAX_IPTC_BYTES]
                keywords = _joined(iptc.get(_KEYWORDS, []), short)
                metadata.modify_iptc({_CHARACTER_SET: _UTF8, _KEYWORDS: keywords})
            return bytes(metadata.get_bytes())


class SidecarWriter:
    """Adds tags to the XMP file beside each image, ``photo.jpg.xmp``; the image itself is not touched."""

    def write(self, image: Path, tags: Sequence[str], name: str | None = None) -> Path:
        """Make the XMP file of an image, or add keywords to the one that is there; ``name`` is not used.

        Whatever else it holds stays as it is, byte for byte. The file appears complete or not at all.

        Raises:
            KeywordsError: the file is damaged or no XMP, or cannot be written; it stays as it is.
            UserError: the disk is full.
        """
        del name  # that of a copy
        target = _sidecar_of(image)
        with _reported(image, f"{target.name} cannot take keywords"):
            old = _old_packet(target) if os.path.lexists(target) else NEW_PACKET
            new = with_keywords(old, tags)
            if new != old or not target.exists():
                with atomic_write(target) as stream:
                    stream.write(new)
        return target


def _sidecar_of(image: Path) -> Path:
    """Return the path of an image's XMP file; one that exists may end in capitals."""
    names = [image.with_name(f"{image.name}{suffix}") for suffix in (".xmp", ".XMP")]
    return next((path for path in names if os.path.lexists(path)), names[0])


def _old_packet(path: Path) -> bytes:
    content = read_regular(path, _MAX_SIDECAR)
    if not os.access(path, os.W_OK):  # which a renamed file would not need
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return content


@contextmanager
def _reported(image: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises about an image into :class:`KeywordsError`."""
    try:
        yield
    except UserError as error:
        if not isinstance(error.__cause__, OSError) or full_disk(error) is not None:
            raise
        raise KeywordsError(f"{image}: {error}") from error
    except OSError as error:
        raise KeywordsError(f"{image}: {what}: {error.strerror or first_line(error)}") from error
    except Exception as error:
        raise KeywordsError(f"{image}: {what}: {first_line(error)}") from error


def _iptc(metadata: Any) -> Mapping[str, str | list[str]] | None:
    """Return the IPTC of an image; None if its texts are in another character set than UTF-8.

    Such texts stay as they are, and keywords go to XMP only: declared to be UTF-8 they would be garbled.
    """
    iptc: Mapping[str, str | list[str]] = metadata.read_iptc(encoding="latin-1")  # which decodes any bytes
    if all("".join(texts).isascii() for texts in iptc.values()):
        return iptc
    if iptc.get(_CHARACTER_SET) != _UTF8:
        return None
    try:
        iptc = metadata.read_iptc()
    except UnicodeDecodeError:
        return None
    return iptc


def _joined(old: Sequence[str] | str, new: Sequence[str]) -> list[str]:
    """Add keywords to old ones; Exiv2 returns a single one as a string."""
    keywords = [old] if isinstance(old, str) else list(old)
    return keywords + missing(keywords, new)
