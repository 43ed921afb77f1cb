"""Text from outside (names of files, tags, messages of libraries) as it goes to files and to the terminal."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path
from typing import Any

PRINTABLE = "printable"  # error handler of streams: what an encoding does not hold is written as printable() does
_SURROGATE = re.compile("[\ud800-\udfff]")
_JOINERS = "\u200c\u200d"  # Persian words and emoji are spelt with them
_UNSEEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, surrogate, line and paragraph separator


def printable(name: str | Path) -> str:
    r"""Return a name as Unicode text, which all outputs hold: bytes of a file name that are not UTF-8 become ``\xNN``.

    >>> printable("caf\udce9.jpg"), printable("\ud83d")
    ('caf\\xe9.jpg', '\\ud83d')
    """
    return _SURROGATE.sub(lambda match: _surrogate(ord(match[0])), str(name))


def printable_json(text: str) -> str:
    r"""Return JSON whose strings are printable.

    >>> printable_json('["caf\udce9"]')
    '["caf\\\\xe9"]'
    """
    return _SURROGATE.sub(lambda match: printable(match[0]).replace("\\", "\\\\"), text)


def text_options(mode: str) -> dict[str, Any]:
    """Return the keywords of ``open`` for writing in a mode such as ``"wb"`` or ``"w"``: our text files are UTF-8."""
    return {} if "b" in mode else {"encoding": "utf-8", "errors": PRINTABLE}


def on_screen(text: object) -> str:
    r"""Return text for the terminal, on one line: characters that steer it or reorder text become escapes.

    These are control characters (line feeds too), and format characters such as those that override the direction of
    writing.

    >>> on_screen("a\x1b[31m\nb\u202ec"), on_screen("日本 caf\udce9")
    ('a\\x1b[31m\\nb\\u202ec', '日本 caf\\xe9')
    """
    name = printable(str(text))
    if name.isascii() and name.isprintable():
        return name
    return "".join(_escape(letter) if _steers(letter) else letter for letter in name)


def on_stream(text: str) -> str:
    """Like :func:`on_screen` for what is printed as a whole: line feeds, tabs and returns of progress bars stay."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(letter if letter in "\n\t\r" else on_screen(letter) for letter in text)


def on_lines(message: object) -> str:
    """Like :func:`on_screen` for a message whose further lines are indented by two blanks; only these stay lines."""
    return "\n  ".join(on_screen(line) for line in str(message).split("\n  "))


def shortened(text: str, length: int) -> str:
    """Cut text to a number of letters, and show that it was cut.

    >>> shortened("a b c", 9), shortened("a" * 20, 9)
    ('a b c', 'aaaaa ...')
    """
    return text if len(text) <= length else f"{text[: length - 4].rstrip()} ..."


def _surrogate(code: int) -> str:
    """Spell a lone surrogate: Python reads a byte that is not UTF-8 as U+DC00 plus its value."""
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _steers(letter: str) -> bool:
    return letter not in _JOINERS and unicodedata.category(letter) in _UNSEEN_CATEGORIES


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _escape_lost(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = printable(error.object[error.start : error.end])
    return lost.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(PRINTABLE, _escape_lost)
