"""Fonts for tags in any script."""

from __future__ import annotations

import functools
import os
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from src.text import on_screen, shortened
from src.utils.plotting import font_manager, ft2font

_OWN = "DejaVu Sans"  # comes with matplotlib
_BOXES = ("Last Resort", "LastResort")  # fonts that draw every character as a box
_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_reported: set[str] = set()


def drawable(text: str) -> tuple[str, list[str]]:
    """Return text as it can be drawn on one line, and the font families that together have its characters.

    A character that no installed font has is spelt by its code, and one line on standard error says which package
    brings it.
    """
    name = on_screen(text)
    missing = frozenset(name) - _own_letters()
    if not missing:
        return name, [_OWN]
    families, lacking = _cover(missing)
    if seen := {letter for letter in lacking if not _is_mark(letter)}:
        _report(name, seen)
    spelt = [_spelt(letter) if letter in lacking or _is_mark(letter) else letter for letter in name]
    return " ".join("".join(spelt).split()) if lacking else name, [_OWN, *families]


def drawn_width(text: str) -> int:
    """Count the columns that text takes: letters of East Asian scripts are twice as wide as others."""
    letters = (letter for letter in text if not unicodedata.combining(letter))
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in letters)


def _spelt(letter: str) -> str:
    return "" if _is_mark(letter) else f" U+{ord(letter):04X} "


def _is_mark(letter: str) -> bool:
    """Return whether it only changes its neighbours: joiners, and selectors of emoji."""
    return unicodedata.category(letter) == "Cf" or 0xFE00 <= ord(letter) <= 0xFE0F


def _report(name: str, letters: set[str]) -> None:
    if letters <= _reported:
        return
    _reported.update(letters)
    some = "".join(sorted(letters)[:8])
    print(
        f"no installed font has the characters {some} of the tag {shortened(name, 60)}: the drawing spells their "
        f"codes; install {', '.join(sorted(set(map(_package, letters))))} (Debian, Ubuntu) or another font with them",
        file=sys.stderr,
    )


def _package(letter: str) -> str:
    """Return the Debian package of a font for a character."""
    script = unicodedata.name(letter, "").split(" ")[0]
    if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH"):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(letter).startswith("S") else "fonts-noto-core"


@functools.lru_cache(maxsize=1)
def _own_letters() -> frozenset[str]:
    font = ft2font.FT2Font(font_manager.findfont(_OWN))
    return frozenset(map(chr, font.get_charmap()))


@functools.lru_cache(maxsize=4096)
def _cover(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Choose installed fonts that have the letters, as few as possible; also returns the letters that none has."""
    families = []
    while letters:
        found = [(len(has), -place, family, has) for place, (family, has) in enumerate(_having(letters)) if has]
        if not found:
            break
        _, _, family, has = max(found)
        families.append(family)
        letters -= has
    return tuple(families), letters


def _having(letters: frozenset[str]) -> Iterable[tuple[str, frozenset[str]]]:
    for entry in _installed():
        yield entry.name, _drawn_by(entry.fname, letters)


def _drawn_by(file: str, letters: frozenset[str]) -> frozenset[str]:
    """Return the letters that a font draws; none if it is damaged or consists of bitmaps, as fonts of colour emoji."""
    try:
        font = ft2font.FT2Font(file)
        if not font.scalable:
            return frozenset()
        has = frozenset(letter for letter in letters if font.get_char_index(ord(letter)))
        if has:
            font.set_size(12, 100)
            font.load_char(ord(min(has)))
    except Exception:  # noqa: BLE001 -- FreeType reads what is installed
        return frozenset()
    return has


@functools.lru_cache(maxsize=1)
def _installed() -> list[Any]:
    """List the regular fonts of the machine, those without serifs and Noto's first."""
    manager = font_manager.fontManager
    known = {os.path.realpath(entry.fname) for entry in manager.ttflist}
    folders = [os.path.expanduser(folder) for folder in _FOLDERS]
    for file in font_manager.findSystemFonts(folders):  # matplotlib's own list is as old as its cache
        if os.path.realpath(file) not in known:
            with suppress(Exception):  # a damaged font
                manager.addfont(file)
    fonts = [entry for entry in manager.ttflist if not entry.name.startswith(_BOXES) and entry.style == "normal"]
    return sorted(fonts, key=lambda entry: ("Sans" not in entry.name, "Noto" not in entry.name, entry.weight != 400))
