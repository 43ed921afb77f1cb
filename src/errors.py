"""The one exception type for mistakes that the person running the program can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user: a wrong flag, a missing file, a file that does not fit.

    The message is one line (or a short list, one mistake a line) that names the flag or file, the value, and the
    remedy. The scripts print it to standard error and end with exit status 2, without a traceback.
    """


class NonFiniteRunError(Exception):
    """Training has left the finite numbers; the message says where. Not the user's mistake: exit status 1."""


def raise_collected(problems: list[str]) -> None:
    """Raise one :class:`UserError` that lists all ``problems``; do nothing if there is none."""
    if problems:
        raise UserError("\n  ".join(problems))


def name_some(names: list[str], limit: int = 8) -> str:
    """``names`` joined by commas, cut after ``limit`` with the number left out: for messages about long lists."""
    shown = ", ".join(str(name) for name in names[:limit])
    left = len(names) - limit
    return f"{shown} and {left} more" if left > 0 else shown


@contextmanager
def blaming(flag: str) -> Iterator[None]:
    """Name ``flag`` in front of the message of a :class:`UserError` that does not begin with a flag of its own."""
    try:
        yield
    except UserError as error:
        if str(error).startswith("--"):
            raise
        raise UserError(f"{flag}: {error}") from error
