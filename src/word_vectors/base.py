"""The interface of word sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


class WordSource:
    """Words and their vectors, or a program that makes vectors of words.

    Attributes:
        name: file, package or encoder, for people.
        where: start of error messages: the flag that named it, and path or name.
        dim: D, the length of the vectors; 0 for an encoder before its first use.
        notes: flaws of the file that do not matter for its words, known after a complete scan.
        has_word_list: whether there is a list of words to scan; an encoder has none.
    """

    dim = 0
    has_word_list = True
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, where: str) -> None:
        self.name, self.where = name, where

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the words for which ``wanted`` is true with their float32 vectors [D], in the order of the file.

        Files trained on a corpus have the most frequent words first. ``wanted`` is called for every word; numbers are
        parsed for wanted words only, and no more than a block of the file is in memory. Repeated words are yielded
        again: the first counts. Each call starts at the front. A vector that is damaged is yielded as NaN or infinite
        numbers: it is an error only where it is used.

        Raises:
            UserError: the file is damaged. Damage may be found at its end only, so whoever wants the same answer for
                all words must scan to the end.
        """
        raise NotImplementedError

    def lookup(self, words: Sequence[str]) -> list[np.ndarray | None]:
        """Compute the float32 vectors [D] of words that need not be listed; None for words without one.

        An encoder computes one for every text, a fastText model for words that have sub-words, other sources none.
        """
        return [None] * len(words)


def as_vector(numbers: Any, dim: int) -> np.ndarray:
    """Copy numbers as a float32 vector: infinite where too large for float32, all NaN if they are not ``dim``."""
    with np.errstate(over="ignore"):
        vector = np.array(numbers, dtype=np.float32)  # a copy: a view would keep a whole block of the file
    return vector if vector.shape == (dim,) else np.full(dim, np.nan, dtype=np.float32)
