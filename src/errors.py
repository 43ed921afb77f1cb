"""Exceptions of the project, and helpers for their messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from src.text import on_screen, shortened

# Words of libraries' advice to switch a protection off: PyTorch, NumPy, Hugging Face, pandas, joblib
_UNSAFE_ADVICE = re.compile(
    r"weights.?only|allow.?pickle|trust.?remote.?code|remote code|pickle_module|safe.?globals|do not load|dangerous"
    r"|if you trust|trust(ed)? (the |its )?(source|file|origin)|trusted source|arbitrary code|own risk|unsafe"
    r"|malicious|disable.{0,40}(check|protection)",
    re.IGNORECASE,
)
_REFUSED_NAME = re.compile(r"(?:GLOBAL|global|class|function|type) (\w+(?:\.\w+)+)")


class UserError(Exception):
    """A mistake that the user can fix: a wrong flag, a missing file, a file that does not fit.

    The message is one line (or a list with one mistake per line) that names the flag or file, the value, and the
    remedy. Scripts print it to standard error and exit with status 2, without a traceback.
    """


class NonFiniteRunError(Exception):
    """A loss or gradient in training is NaN or infinite; the message says where. Scripts exit with status 3."""


def raise_collected(problems: list[str]) -> None:
    """Raise one :class:`UserError` that lists all ``problems``, if there are any."""
    if problems:
        raise UserError("\n  ".join(problems))


def name_some(names: list[str], limit: int = 8) -> str:
    """Join the first ``limit`` names by commas, followed by the number of the others; very long ones are cut."""
    shown = ", ".join(shortened(str(name), 300) for name in names[:limit])
    left = len(names) - limit
    return f"{shown} and {left} more" if left > 0 else shown


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, short and for the terminal: other libraries write paragraphs.

    Advice to load a file in a way that can run its code is never passed on; a sentence of ours stands in for it.
    """
    message = _message(error)
    if _UNSAFE_ADVICE.search(message):
        found = _REFUSED_NAME.search(message)
        name = f" ({shortened(on_screen(found[1]), 80)})" if found else ""
        return f"it is damaged, or holds objects{name} that are not loaded because they could run code"
    line = next((line.strip() for line in message.splitlines() if line.strip()), type(error).__name__)
    return shortened(on_screen(" ".join(line.split())), 200).rstrip(".")


def _message(error: BaseException) -> str:
    """Return the message of any exception, even of one that cannot spell it."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 -- whatever another library raises
        return type(error).__name__
    return f"no entry {message}" if isinstance(error, KeyError) else message


@contextmanager
def prefix_errors(flag: str) -> Iterator[None]:
    """Prefix messages of a :class:`UserError` with ``flag``, unless they start with another flag."""
    try:
        yield
    except UserError as error:
        if str(error).startswith("--"):
            raise
        raise UserError(f"{flag}: {error}") from error
