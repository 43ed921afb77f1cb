"""Exceptions of the project, and helpers for their messages."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can fix: a wrong flag, a missing file, a file that does not fit.

    The message is one line (or a list with one mistake per line) that names the flag or file, the value, and the
    remedy. Scripts print it to standard error and exit with status 2, without a traceback.
    """


class NonFiniteRunError(Exception):
    """A loss or gradient in training is NaN or infinite; the message says where. Scripts exit with status 1."""


def raise_collected(problems: list[str]) -> None:
    """Raise one :class:`UserError` that lists all ``problems``, if there are any."""
    if problems:
        raise UserError("\n  ".join(problems))


def name_some(names: list[str], limit: int = 8) -> str:
    """Join the first ``limit`` names by commas, followed by the number of the others."""
    shown = ", ".join(str(name) for name in names[:limit])
    left = len(names) - limit
    return f"{shown} and {left} more" if left > 0 else shown


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, shortened: other libraries write paragraphs."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return textwrap.shorten(line, 200, placeholder=" ...").rstrip(".")


@contextmanager
def prefix_errors(flag: str) -> Iterator[None]:
    """Prefix messages of a :class:`UserError` with ``flag``, unless they start with another flag."""
    try:
        yield
    except UserError as error:
        if str(error).startswith("--"):
            raise
        raise UserError(f"{flag}: {error}") from error
