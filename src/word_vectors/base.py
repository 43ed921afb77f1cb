"""Shared parts of word sources."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.errors import UserError


class ListedWords:
    """A source that has vectors for the words of a list only."""

    has_word_list = True

    def lookup(self, words: Sequence[str]) -> list[np.ndarray | None]:
        """Return no vectors: there are none beyond the list."""
        return [None] * len(words)


def as_vector(numbers: Any, word: str, where: str) -> np.ndarray:
    """Return ``numbers`` as a float32 vector.

    Raises:
        UserError: a number is NaN, infinite or too large for float32.
    """
    with np.errstate(over="ignore"):
        vector = np.array(numbers, dtype=np.float32)  # a copy: a view would keep a whole block of the file
    if not np.isfinite(vector).all():
        raise UserError(f"{where}: the vector of {word!r} has numbers that are NaN or infinite; get the file again")
    return vector


def import_extra(module: str, install: str, needed_by: str) -> Any:
    """Import a module that this project does not require.

    Args:
        module: its name.
        install: its name for ``pip install``.
        needed_by: flag and value, for the error message.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{needed_by}: {first_line(error)}; run: pip install {install}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, shortened: other libraries write paragraphs."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return textwrap.shorten(line, 200, placeholder=" ...").rstrip(".")
