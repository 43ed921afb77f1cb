"""Write tags for photo managers: XMP dc:subject and IPTC keywords in image copies, or XMP files beside the images."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from mimetypes import guess_type
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
_OF_SUFFIX = re.compile(rb"""SidecarForExtension(?:\s*=\s*["']|>)\s*([A-Za-z0-9]+)""")
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
    """Adds tags to the XMP file beside each image, ``photo.jpg.xmp``; the image itself is not touched.

    Adobe's programs name that file ``photo.xmp``. Where there is only such a file, the new one begins as its copy, as
    programs that know both read ``photo.jpg.xmp`` alone. ``photo.xmp`` itself is never written to: it may be that of
    a raw file.
    """

    def __init__(self) -> None:
        self._listed: tuple[Path, Counter[str]] = (Path(), Counter())

    def write(self, image: Path, tags: Sequence[str], name: str | None = None) -> Path:
        """Make the XMP file of an image, or add keywords to the one that is there; ``name`` is not used.

        Whatever else it holds stays as it is, byte for byte. The file appears complete or not at all.

        Raises:
            KeywordsError: the file is damaged or no XMP, or cannot be written; it stays as it is.
            UserError: the disk is full.
        """
        del name  # that of a copy
        target = _sidecar_of(image)
        begin = target if os.path.lexists(target) else self._of_stem(image)
        with _reported(image, f"{(begin or target).name} cannot take keywords"):
            old = NEW_PACKET if begin is None else _old_packet(begin, is_written=begin == target)
            if begin not in (None, target) and not _is_for(old, image.suffix):
                old = NEW_PACKET
            new = with_keywords(old, tags)
            if new != old or not target.exists():
                with atomic_write(target) as stream:
                    stream.write(new)
        return target

    def _of_stem(self, image: Path) -> Path | None:
        """Return ``photo.xmp``, if it can be that of no other image or raw file."""
        found = [path for path in map(image.with_suffix, (".xmp", ".XMP")) if os.path.isfile(path)]
        if not found:
            return None
        if self._listed[0] != image.parent:
            self._listed = (image.parent, Counter(map(_stem, filter(_may_be_image, os.listdir(image.parent)))))
        return found[0] if self._listed[1][_stem(image.name)] <= 1 else None


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].casefold()


def _may_be_image(name: str) -> bool:
    """Return whether a file can be an image, a raw file or a video: its suffix is not known to be of something else."""
    kind = guess_type(name)[0]
    return not name.casefold().endswith(".xmp") and (kind is None or kind.startswith(("image/", "video/")))


def _is_for(packet: bytes, suffix: str) -> bool:
    """Return whether a packet does not say that it is of a file with another suffix, as Adobe's of raw files do."""
    named = _OF_SUFFIX.search(packet)
    return named is None or named[1].decode().casefold() == suffix[1:].casefold()


def _sidecar_of(image: Path) -> Path:
    """Return the path of an image's XMP file; one that exists may end in capitals."""
    names = [image.with_name(f"{image.name}{suffix}") for suffix in (".xmp", ".XMP")]
    return next((path for path in names if os.path.lexists(path)), names[0])


def _old_packet(path: Path, *, is_written: bool) -> bytes:
    content = read_regular(path, _MAX_SIDECAR)
    if is_written and not os.access(path, os.W_OK):  # which a renamed file would not need
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
