"""Reading annotations of Pascal VOC's form, as a stream: hostile XML costs no memory and expands nothing."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from src.errors import UserError, first_line
from src.utils.regular import read_regular
from src.utils.strict_xml import RefusedXmlError, strict_parser

_MAX_BYTES = 1 << 26  # VOC's annotations have some kilobytes
_MAX_DEPTH = 64
_MAX_TEXT = 4096  # characters of a name
_DECLARED = re.compile(rb"""<\?xml[^>]{0,100}encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
# Multi-byte encodings of annotation tools, which the parser does not know.
_DECODED = {"gb2312", "gbk", "gb18030", "big5", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949"}
_YES = re.compile(r"true|yes|[+-]?0*[1-9]\d*(\.\d*)?", re.IGNORECASE)  # anything else, as Unspecified, is no mark


class NoAnnotationError(UserError):
    """An XML file of another kind."""


@dataclass
class Annotation:
    """An annotation file.

    Attributes:
        file_name: of the image, as written; empty if there is none.
        objects: name and whether it is marked as difficult, of each object.
    """

    file_name: str = ""
    objects: list[tuple[str, bool]] = field(default_factory=list)


def read_annotation(path: Path) -> Annotation:
    """Read an annotation.

    Raises:
        NoAnnotationError: the root of the file is another element.
        UserError: it cannot be read, is no complete XML, has a document type, which can define entities that grow
            without end (VOC has none), or an object without a name.
    """
    try:
        content = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; copy or unpack it again") from error
    reader = _Reader(path)
    try:
        reader.read(content)
    except UserError:
        raise
    except RefusedXmlError as error:
        raise UserError(f"{path}: is no annotation of VOC: {error}; copy or unpack it again") from error
    except Exception as error:  # expat's, and others for encodings that it does not know
        raise UserError(f"{path}: is not complete XML: {first_line(error)}; copy or unpack it again") from error
    return reader.annotation


class _Reader:
    """Keeps the texts of a few elements: annotation/filename, and name and difficult of annotation/object."""

    _WANTED = (("annotation", "filename"), ("annotation", "object", "name"), ("annotation", "object", "difficult"))

    def __init__(self, path: Path) -> None:
        self.annotation = Annotation()
        self._path = path
        self._open: list[str] = []
        self._text: list[str] | None = None  # of the wanted element that is open
        self._length = 0
        self._object: dict[str, str] = {}

    def read(self, content: bytes) -> None:
        encoding = None
        declared = _DECLARED.match(content)
        if declared is not None:
            with suppress(LookupError):
                if codecs.lookup(declared[1].decode()).name in _DECODED:
                    content, encoding = content.decode(declared[1].decode()).encode(), "utf-8"
        parser = strict_parser(self._start, self._end, self._characters, levels=_MAX_DEPTH, encoding=encoding)
        parser.Parse(content, True)

    def _start(self, name: str, _: object) -> None:
        if not self._open and name != "annotation":
            raise NoAnnotationError(f"{self._path}: is no annotation of VOC, but <{name[:40]}>")
        self._open.append(name)
        if tuple(self._open) in self._WANTED:
            self._text, self._length = [], 0
        elif len(self._open) == 2 and name == "object":
            self._object = {}

    def _characters(self, text: str) -> None:
        if self._text is not None and tuple(self._open) in self._WANTED:
            self._length += len(text)
            if self._length <= _MAX_TEXT:
                self._text.append(text)
            if self._length > _MAX_TEXT and self._open[-1] == "name":
                raise UserError(f"{self._path}: <{self._open[-1]}> holds more than {_MAX_TEXT:,} characters")

    def _end(self, name: str) -> None:
        if self._text is not None and tuple(self._open) in self._WANTED:
            text = " ".join("".join(self._text).split())
            self._text = None
            if name == "filename":
                self.annotation.file_name = self.annotation.file_name or text
            else:
                self._object.setdefault(name, text)
        elif len(self._open) == 2 and name == "object":
            self.annotation.objects.append(self._finished())
        self._open.pop()

    def _finished(self) -> tuple[str, bool]:
        name = self._object.get("name", "")
        if not name:
            raise UserError(f"{self._path}: an object's name is {name!r}; write the class of every object")
        return name, _YES.fullmatch(self._object.get("difficult", "")) is not None
