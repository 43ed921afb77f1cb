"""Reading JSON files as they occur: hundreds of megabytes, with a byte-order mark, with the NaN of Python's writer."""

from __future__ import annotations

import codecs
import json
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from src.errors import UserError, first_line

_T = TypeVar("_T")

_BOM = codecs.BOM_UTF8
_ARCHIVES = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_PLACE = re.compile(r" \(byte (\d+)\)$")
# What is not JSON, but written by Python's json: matched outside of strings, many strings at a time. The limits bound
# the memory of the regular expression.
_TOKENS = re.compile(rb'(?:[^"NI]+|"[^"\\]*(?:\\.[^"\\]*){0,1000}"){1,500}|(NaN|Infinity)|[NI]', re.DOTALL)
# An escape in a string; the group is half of a surrogate pair whose other half is absent.
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def read_json(path: str | Path) -> Any:
    """Read a JSON file of any form; see :func:`read_json_as`."""
    return read_json_as(path, Any, "JSON file")


def read_json_as(path: str | Path, form: type[_T], what: str, *, expected: str = "") -> _T:
    """Read a JSON file into a type; other keys are skipped without using memory.

    UTF-8 with or without a byte-order mark, UTF-16 and UTF-32 are read. ``NaN`` and ``Infinity``, which JSON lacks and
    Python's json writes, are accepted where nothing is read, as are halves of surrogate pairs. Of a repeated key the
    last one counts, as everywhere.

    Args:
        path: the file.
        form: a ``msgspec.Struct``, or another type that msgspec decodes.
        what: name of the kind of file, for error messages.
        expected: description of its form, for the message about another one.

    Raises:
        UserError: the file is missing, no text, not JSON, nested too deeply, or of another form; the message says
            where.
    """
    try:
        content = _read(Path(path))
        return decode_json(content, form)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except msgspec.ValidationError as error:
        more = f"; expected {expected}" if expected else ""
        raise UserError(f"{path} is no {what}: {first_line(error)}{more}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, _first_not_utf8(content)) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; is it a JSON file? If so, save it as UTF-8") from error
    except msgspec.DecodeError as error:
        raise UserError(_describe(str(path), content, str(error))) from error
    except RecursionError as error:
        raise UserError(f"{path} is no {what}: its lists and objects are nested too deeply") from error
    except MemoryError as error:
        raise UserError(f"{path} is too large for the memory") from error


def _read(path: Path) -> bytearray:
    """Return the content of a file, once in memory, as UTF-8."""
    with open(path, "rb") as stream:
        content = bytearray(os.fstat(stream.fileno()).st_size)
        del content[stream.readinto(content) :]
        content += stream.read()  # of a pipe, which has no size
    encoding = json.detect_encoding(bytes(content[:4]))
    if not encoding.startswith("utf-8"):
        try:
            return bytearray(content.decode(encoding).encode())
        except UnicodeError as error:
            raise UserError(f"{path} is no JSON file: it is neither UTF-8 nor {encoding.upper()} text") from error
    return content


def decode_json(content: bytearray, form: type[_T]) -> _T:
    """Decode JSON, after a repair in place where it is needed; raise what msgspec raises."""
    text = memoryview(content)[len(_BOM) if content.startswith(_BOM) else 0 :]
    try:
        return msgspec.json.decode(text, type=form)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if not _repair(content):
            raise
    return msgspec.json.decode(text, type=form)


def _repair(content: bytearray) -> bool:
    """Replace what Python's json writes and reads beyond JSON, in place; return whether there was any.

    NaN and infinity become an empty object, which no file has in place of a value; half of a surrogate
    pair becomes the replacement character. Lengths do not change, so places in messages stay right.
    """
    repaired = False
    if re.search(rb"NaN|Infinity", content):
        at = 0
        while match := _TOKENS.match(content, at):
            at = match.end()
            if match[1]:
                start = match.start() - (content[match.start() - 1 : match.start()] == b"-")
                content[start:at] = b"{}".ljust(at - start)
                repaired = True
    if re.search(rb"\\u[dD][89a-fA-F]", content):
        for match in _ESCAPES.finditer(content):
            if match[1]:
                content[slice(*match.span(1))] = b"fffd"
                repaired = True
    return repaired


def _describe(path: str, content: bytearray, message: str) -> str:
    """Return the message about a file that is not JSON."""
    if content.startswith(_ARCHIVES):
        return f"{path} is a compressed file, not JSON; unpack it and give the file that was in it"
    if not content.strip():
        return f"{path} is empty, not whole JSON; copy or download it again"
    if "truncated" in message:
        return f"{path} is not whole JSON: it ends too early ({message}); copy or download it again"
    place = _PLACE.search(message)
    if place is None:
        return f"{path} is not JSON: {message}"
    at = int(place[1]) + (len(_BOM) if content.startswith(_BOM) else 0)
    line, column = content.count(b"\n", 0, at) + 1, at - content.rfind(b"\n", 0, at)
    reason = message[: place.start()].removeprefix("JSON is malformed: ")
    shown = content[at : at + 20].decode(errors="replace")
    return f"{path}, line {line}, column {column}: not JSON: {reason} at {shown!r}; mend it there"


def _first_not_utf8(content: bytearray) -> int:
    """Return the position of the first byte that is not UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(content)
