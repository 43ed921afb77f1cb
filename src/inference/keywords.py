"""Write tags into the metadata of image copies, for photo managers: XMP dc:subject and IPTC keywords."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.errors import UserError
from src.utils.files import atomic_write
from src.utils.optional import import_extra

_SUBJECT = "Xmp.dc.subject"
_KEYWORDS = "Iptc.Application2.Keywords"
_CHARACTER_SET = "Iptc.Envelope.CharacterSet"
_UTF8 = "\x1b%G"  # escape sequence of UTF-8 (IPTC-IIM 1:90)
_MAX_IPTC_BYTES = 64  # per keyword (IPTC-IIM 2:25); XMP has no limit


class KeywordsError(Exception):
    """An image cannot hold keywords; the message names it and the reason."""


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
            KeywordsError: the image's format holds no keywords, or its metadata is damaged.
            UserError: the copy would overwrite the image, or cannot be written.
        """
        target = self.folder / (name or image.name)
        if target.exists() and target.samefile(image):
            raise UserError(f"--write_keywords {self.folder}: would overwrite {image}; choose another folder")
        try:
            content = self._with_keywords(image.read_bytes(), tags)
        except OSError as error:
            raise UserError(f"--write_keywords {image}: cannot be read: {error.strerror or error}") from error
        except RuntimeError as error:  # pyexiv2 raises this for every error of Exiv2
            raise KeywordsError(f"{image}: cannot hold keywords: {error}") from error
        with atomic_write(target) as stream:
            stream.write(content)
        shutil.copystat(image, target)
        return target

    def _with_keywords(self, content: bytes, tags: Sequence[str]) -> bytes:
        with self._exiv2.ImageData(content) as metadata:
            subject, iptc = metadata.read_xmp().get(_SUBJECT, []), metadata.read_iptc()
            metadata.modify_xmp({_SUBJECT: _joined(subject, tags)})
            if iptc.get(_CHARACTER_SET) == _UTF8 or _is_ascii(iptc):  # else other texts would be read as UTF-8
                short = [tag for tag in tags if len(tag.encode()) <= _MAX_IPTC_BYTES]
                metadata.modify_iptc({_CHARACTER_SET: _UTF8, _KEYWORDS: _joined(iptc.get(_KEYWORDS, []), short)})
            return bytes(metadata.get_bytes())


def _is_ascii(iptc: Mapping[str, str | list[str]]) -> bool:
    return all("".join(texts).isascii() for texts in iptc.values())


def _joined(old: Sequence[str] | str, new: Sequence[str]) -> list[str]:
    """Join without repetition, old ones first. Exiv2 returns a single keyword as a string."""
    return list(dict.fromkeys([*([old] if isinstance(old, str) else old), *new]))
