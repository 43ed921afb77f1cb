"""Parsing XML that others made, as a stream: no document type, so that no entity is expanded or fetched."""

from __future__ import annotations

from collections.abc import Callable
from xml.parsers import expat


class RefusedXmlError(Exception):
    """XML of a form that no photograph's metadata or annotation needs; the message says which."""


def strict_parser(
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
    *,
    levels: int,
    encoding: str | None = None,
    separator: str | None = None,
) -> expat.XMLParserType:
    """Make a parser; ``parser.Parse(content, True)`` calls the three functions.

    Args:
        start: gets the name and the attributes of each element.
        end: gets its name.
        text: gets pieces of text.
        levels: how deep elements may be nested.
        encoding: of the content; None: that which it declares.
        separator: between the namespace and the name of an element; None: names are as written.

    Raises:
        RefusedXmlError: on parsing: the content has a document type, or is nested deeper.
        expat.ExpatError: on parsing: it is not well-formed.
    """
    depth = 0

    def enter(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > levels:
            raise RefusedXmlError(f"its elements are nested more than {levels} deep")
        start(name, attributes)

    def leave(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(name)

    def refuse(*_: object) -> None:
        raise RefusedXmlError("it has a document type")

    parser = expat.ParserCreate(encoding, separator)
    parser.buffer_text = True
    parser.StartElementHandler = enter
    parser.EndElementHandler = leave
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    return parser
