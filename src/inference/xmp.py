"""Add keywords to XMP packets (ISO 16684-1) by inserting text: everything else stays as it is, byte for byte."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from src.utils.strict_xml import RefusedXmlError, strict_parser

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_SUBJECT = f"{_DC} subject"
# Lists of paths that digiKam and Lightroom read instead of dc:subject, where they have written one
_PATH_LISTS = ("http://www.digikam.org/ns/1.0/ TagsList", "http://ns.adobe.com/lightroom/1.0/ hierarchicalSubject")
_LISTS = (f"{_RDF} Bag", f"{_RDF} Seq", f"{_RDF} Alt")
_TAG = re.compile(rb"""<([^\s/>]+)(?:[^>"']|"[^"]*"|'[^']*')*>""")
# Python has more, of which punycode takes the square of the length
_CODECS = re.compile("ascii|utf-|iso8859|cp|koi8|mac|gb|big5|euc_|shift_jis")
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
_MAX_DEPTH = 200

NEW_PACKET = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    b' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    b'  <rdf:Description rdf:about=""/>\n'
    b" </rdf:RDF>\n"
    b"</x:xmpmeta>\n"
    b'<?xpacket end="w"?>\n'
)


class BadPacketError(Exception):
    """An XMP packet to which nothing can be added; the message is the reason."""


def missing(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """Return the new keywords that are not among the old ones. Keywords that differ in case only are one."""
    known = set(map(_key, old))
    added: dict[str, str] = {}
    for keyword in new:
        if _key(keyword) not in known:
            added.setdefault(_key(keyword), keyword)
    return list(added.values())


def with_keywords(packet: bytes, keywords: Sequence[str]) -> bytes:
    """Add keywords to dc:subject, and to the lists of tag paths of digiKam and Lightroom that are there.

    Raises:
        BadPacketError: no well-formed XMP, or its text cannot be kept as it is. A document type is refused, so that no
            entity is expanded or fetched.
    """
    if any(map(_NOT_XML.search, keywords)):
        raise BadPacketError("XML cannot hold a character of the keywords")
    mark, codec, text = _decoded(packet)
    content = text.encode()
    for name in (_SUBJECT, *_PATH_LISTS):
        found = _Packet(name, content)
        known = [re.split("[/|]", item)[-1] if name in _PATH_LISTS else item for item in found.items]
        added = missing(known, keywords)
        if added and (name == _SUBJECT or found.list_at or found.plain_at):
            content = _inserted(content, found, added)
    if not set(map(_key, keywords)) <= set(map(_key, _Packet(_SUBJECT, content).items)):  # an odd structure
        raise BadPacketError("the keywords cannot be written")
    return mark + content.decode().encode(codec, "xmlcharrefreplace")


def _key(keyword: str) -> str:
    """Return what is equal for keywords that differ in case or in the composition of letters only."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", keyword).casefold()).strip()


def _decoded(packet: bytes) -> tuple[bytes, str, str]:
    """Return byte-order mark, codec and text."""
    mark, codec = next(((mark, codec) for mark, codec in _MARKS if packet.startswith(mark)), (b"", "utf-8"))
    if not mark and (declared := re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)", packet)):
        codec = declared[1].decode()
    try:
        if not _CODECS.match(codecs.lookup(codec).name):
            raise BadPacketError(f"{codec} is no encoding of XML")
        text = packet[len(mark) :].decode(codec)
        if text.encode(codec) != packet[len(mark) :]:
            raise BadPacketError(f"its text is not plain {codec}")
    except (LookupError, ValueError) as error:
        raise BadPacketError(f"its text is not {codec}") from error
    return mark, codec, text


@dataclass
class _Element:
    """An element that is open: its name, the place of its start tag, and whether it can only hold text so far."""

    name: str
    start: int
    is_leaf: bool = True
    text: list[str] = field(default_factory=list)


class _Packet:
    """Where the items of a property of a packet are, or would go.

    Attributes:
        items: texts of the items.
        list_at, plain_at, description_at, rdf_at: positions of the start tag and of the end tag, of the first list of
            items, of the property if it holds only text, of the first rdf:Description, and of rdf:RDF. An element like
            <a/> ends at its own end.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.items: list[str] = []
        self.list_at: tuple[int, int] | None = None
        self.plain_at: tuple[int, int] | None = None
        self.description_at: tuple[int, int] | None = None
        self.rdf_at: tuple[int, int] | None = None
        self._name, self._open = name, list[_Element]()
        handlers = (self._start, self._end, self._text)
        self._parser = strict_parser(*handlers, levels=_MAX_DEPTH, encoding="utf-8", separator=" ")
        try:
            self._parser.Parse(content, True)
        except RefusedXmlError as error:
            raise BadPacketError(str(error)) from error
        except expat.ExpatError as error:
            raise BadPacketError(f"not well-formed XML: {error}") from error
        if self.rdf_at is None:
            raise BadPacketError("no XMP: it has no rdf:RDF")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._open:
            self._open[-1].is_leaf = False
        if self._name in attributes and [one.name for one in self._open[-1:]] == [f"{_RDF} RDF"]:
            raise BadPacketError("its keywords are an attribute, which is no list")
        is_leaf = not any(attribute.startswith(_RDF) for attribute in attributes)  # which say what it holds
        self._open.append(_Element(name, self._parser.CurrentByteIndex, is_leaf))

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1].text.append(text)

    def _end(self, name: str) -> None:
        element = self._open.pop()
        place = (element.start, self._parser.CurrentByteIndex)
        above = [one.name for one in reversed(self._open)]
        is_property = above[:2] == [f"{_RDF} Description", f"{_RDF} RDF"]
        if name == f"{_RDF} RDF":
            self.rdf_at = self.rdf_at or place
        elif name == f"{_RDF} Description" and above[:1] == [f"{_RDF} RDF"]:
            self.description_at = self.description_at or place
        elif name == self._name and is_property and element.is_leaf:
            self.plain_at = self.plain_at or place
            self.items += filter(None, ["".join(element.text).strip()])
        elif name == _SUBJECT == self._name and is_property and (self.list_at or (-1,))[0] < element.start:
            raise BadPacketError("its keywords are no list")  # a second property would make it invalid
        elif name in _LISTS and above[:1] == [self._name]:
            self.list_at = self.list_at or place
        elif name == f"{_RDF} li" and above[1:2] == [self._name]:
            self.items.append("".join(element.text))


def _inserted(content: bytes, found: _Packet, keywords: Sequence[str]) -> bytes:
    """Insert items where the packet has a place for them."""
    if found.list_at is not None:
        prefix = _prefix(content, found.list_at[0])
        return _within(content, found.list_at, _items(keywords, prefix))
    if found.plain_at is not None:
        start, end = found.plain_at
        if content[:end].endswith(b"/>"):
            return _within(content, found.plain_at, _bag(_items(keywords)))
        inner = _tag_end(content, start)
        old = b"<rdf:li>%b</rdf:li>" % content[inner:end] if content[inner:end].strip() else b""
        return content[:inner] + _bag(old + _items(keywords)) + content[end:]
    subject = b'<dc:subject xmlns:dc="%b">%b</dc:subject>' % (_DC.encode(), _bag(_items(keywords)))
    if found.description_at is not None:
        return _within(content, found.description_at, subject)
    assert found.rdf_at is not None
    head = b'<rdf:Description xmlns:rdf="%b" rdf:about="">' % _RDF.encode()
    return _within(content, found.rdf_at, head + subject + b"</rdf:Description>")


def _bag(items: bytes) -> bytes:
    return b'<rdf:Bag xmlns:rdf="%b">%b</rdf:Bag>' % (_RDF.encode(), items)


def _items(keywords: Sequence[str], prefix: bytes = b"rdf:") -> bytes:
    return b"".join(b"<%bli>%b</%bli>" % (prefix, escape(keyword).encode(), prefix) for keyword in keywords)


def _prefix(content: bytes, start: int) -> bytes:
    """Return the prefix of the name in a start tag, with its colon."""
    name = _TAG.match(content, start)[1]  # type: ignore[index]
    return name[: name.rfind(b":") + 1]


def _tag_end(content: bytes, start: int) -> int:
    return _TAG.match(content, start).end()  # type: ignore[union-attr]


def _within(content: bytes, place: tuple[int, int], addition: bytes) -> bytes:
    """Insert before the end tag of an element; one like <a/> gets an end tag."""
    start, end = place
    if not (content[:end].endswith(b"/>") and _tag_end(content, start) == end):
        return content[:end] + addition + content[end:]
    name = _TAG.match(content, start)[1]  # type: ignore[index]
    return content[: end - 2] + b">" + addition + b"</%b>" % name + content[end:]
