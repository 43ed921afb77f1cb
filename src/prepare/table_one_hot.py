"""Tags in columns of their own, one per tag, with 0 and 1 (one-hot tables)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from src.errors import UserError, name_some
from src.prepare.table_formats import RawTable

PRESENT, ABSENT, UNKNOWN, EMPTY = 1, 0, -1, None
# Truth values as spreadsheets of many languages write them, and yes and no. Left out are words of two letters that are
# codes of languages and countries too, but for ja, si and no.
_TRUE = (
    "true t wahr vrai verdadero vero verdadeiro waar prawda sant sann sand tosi pravda igaz истина істина doğru "
    "αληθησ αληθής adevărat cert istina tõene patiess 真 참 "
    "yes y on ja j oui si sí sì sim tak ano áno igen kyllä evet да так ναι はい 是 예 네 "
    "x ✓ ✔ ☑ ☒ ✅ 🗸"
)
_FALSE = (
    "false f falsch faux falso onwaar fałsz falskt usann falsk epätosi nepravda hamis ложь хибність yanlış yanliş "
    "ψευδησ ψευδής fals laž väär aplams 假 偽 거짓 "
    "no n off nein non não nao nee nej nei nie nem hayır hayir нет ні όχι いいえ 否 아니요 아니오 "
    "✗ ✘ ☐ ❌"
)
_WORDS = {
    **dict.fromkeys(map(str.casefold, _TRUE.split()), PRESENT),
    **dict.fromkeys(map(str.casefold, _FALSE.split()), ABSENT),
    **dict.fromkeys(("nan", "na", "n/a", "null", "none", "unknown", "?"), UNKNOWN),
}
_EMOJI = "\ufe0f"  # follows a character that is to be shown in colours
_DECIMAL_COMMA = re.compile(r"(-?[01]),(0*)")
_ENOUGH = 100  # values that are no flag, of which none before was one
_UNNAMED = re.compile(r"(unnamed: ?\d+)?", re.IGNORECASE)  # the index of a data frame


@dataclass(frozen=True)
class FlagColumn:
    """A column, judged by its values.

    Attributes:
        states: of each row, :data:`PRESENT`, :data:`ABSENT`, :data:`UNKNOWN` or :data:`EMPTY`.
        stranger: row and value of the first that is none of them; such a column is no one-hot column.
        is_mostly_flags: for columns with a stranger: that may be a slip, as most other values are flags.
    """

    states: list[int | None]
    stranger: tuple[int, Any] | None
    is_mostly_flags: bool = False

    @property
    def is_one_hot(self) -> bool:
        """Whether every value is a flag, and not all are unknown."""
        return self.stranger is None and any(state in (PRESENT, ABSENT) for state in self.states)

    @property
    def varies(self) -> bool:
        """Whether it distinguishes rows."""
        return self.is_one_hot and PRESENT in self.states and len(set(self.states)) > 1


def judge(values: Sequence[Any]) -> FlagColumn:
    """Judge a column by its values.

    A column of numbers that are all different, such as the numbers of the rows, is not taken for one with slips.
    """
    known: dict[Any, int | str | None] = {}
    states: list[int | None] = []
    stranger: tuple[int, Any] | None = None
    flags = others = 0
    for row, value in enumerate(values):
        key = (type(value), value) if isinstance(value, str | int | float) else type(value)
        if key not in known:
            known[key] = _state(value)
        state = known[key]
        if isinstance(state, str):
            others += 1
            stranger = stranger or (row, value)
            states.append(UNKNOWN)
            if others > _ENOUGH and not flags:
                return FlagColumn(states, stranger)
        else:
            flags += state in (PRESENT, ABSENT)
            states.append(state)
    if not others or flags <= others:
        return FlagColumn(states, stranger)
    counts = Counter(text for text in map(str, values) if text.strip())
    return FlagColumn(states, stranger, is_mostly_flags=max(counts.values()) > 1)


def _state(value: Any) -> int | str | None:
    """Return the state that a cell expresses; text if it expresses none. ``{}`` stands for NaN in JSON."""
    if value in (None, {}) or (isinstance(value, float) and math.isnan(value)):
        return EMPTY
    if not isinstance(value, str | bool | int | float):
        return "no flag"
    text = unicodedata.normalize("NFC", str(value)).replace(_EMOJI, "").strip().casefold()
    if not text:
        return EMPTY
    if text in _WORDS:
        return _WORDS[text]
    with suppress(ValueError):
        number = float(_DECIMAL_COMMA.sub(r"\1.\2", text))
        if number in (PRESENT, ABSENT, UNKNOWN):
            return int(number)
    return "no flag"


def is_tag_name(name: str) -> bool:
    """Return whether a column name can be a tag."""
    return not _UNNAMED.fullmatch(name.strip())


def one_hot_tags(columns: dict[str, FlagColumn], num_rows: int) -> tuple[list[list[str]], list[list[str]], list[str]]:
    """Return the tags of each row that are present, those that are unknown, and what to report.

    An empty cell is unknown in a table that also says 0, no or false, and absent where only the tags that are present
    are marked.

    Args:
        columns: tag -> its one-hot column.
        num_rows: of the table.
    """
    says_absent = any(ABSENT in column.states for column in columns.values())
    present: list[list[str]] = [[] for _ in range(num_rows)]
    unknown: list[list[str]] = [[] for _ in range(num_rows)]
    num_empty = 0
    for tag, column in columns.items():
        for row, state in enumerate(column.states):
            if state == PRESENT:
                present[row].append(tag)
            elif state == UNKNOWN or (state is EMPTY and says_absent):
                unknown[row].append(tag)
            num_empty += state is EMPTY
    notes = [f"tags are columns of 0 and 1: {name_some(list(columns), 40)}"]
    never = [tag for tag, column in columns.items() if PRESENT not in column.states]
    if never:
        notes.append(f"left out {len(never):,} tags that no row has: {name_some(never, 20)}")
    if num_empty:
        meaning = "unknown, as other cells say 0" if says_absent else "absent, as no cell says 0"
        notes.append(f"{num_empty:,} empty cells of these columns are taken as {meaning}")
    num_unknown = sum(map(len, unknown))
    if num_unknown:
        notes.append(f"{num_unknown:,} cells of these columns are unknown labels")
    return present, unknown, notes


def check_one_hot(columns: dict[str, FlagColumn], raw: RawTable, source: str) -> None:
    """Raise :class:`UserError` for the first cell of these columns that is no flag."""
    for name, column in columns.items():
        if column.stranger is not None:
            row, value = column.stranger
            raise UserError(
                f"{source}, {raw.unit} {raw.numbers[row]}: {repr(value)[:80]} in column {name!r} is neither 0 nor 1 "
                "(nor yes, no, true, false, in any of many languages, x, or -1 for unknown); correct it, or name the "
                "columns of tags with --tag-columns"
            )
