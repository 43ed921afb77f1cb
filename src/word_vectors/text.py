"""Text files of word vectors: a word and D numbers per line, separated by spaces.

GloVe's format has nothing else. word2vec's text format and fastText's ``.vec`` begin with a line ``V D``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from src.errors import UserError
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import SAMPLE, ByteFile

HEADER = re.compile(rb"\s*(\d{1,12}) (\d{1,5})\s*")  # V and D

_BOM = b"\xef\xbb\xbf"
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def is_number(field: bytes) -> bool:
    """Return whether a field is a number as these files write it; words such as ``nan`` and ``infinity`` are not."""
    return _NUMBER.fullmatch(field) is not None


class TextVectors(WordSource):
    """Word vectors of a text file.

    Only U+0020 separates. A word may contain spaces, as some of glove.840B do: the last D fields are numbers.
    Bytes of a word that are not UTF-8 become U+FFFD. Every line must have D numbers; they are parsed only
    if the word is wanted.

    Raises:
        UserError: the file holds no words, or its first line of numbers is not of this form.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.flag, file.where)
        self._file = file
        first, *rest = file.sample.removeprefix(_BOM).split(b"\n", 2)
        header = HEADER.fullmatch(first)
        self._num_words = None if header is None else int(header[1])
        self.dim = first.rstrip().count(b" ") if header is None else int(header[2])
        if self.dim == 0 or (header and not b"".join(rest).strip()):
            raise UserError(f"{file.where}: holds no word vectors; get the file again, or give another")
        next(self.scan(lambda word: True))  # raises if the first line is wrong

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        header_lines = 0 if self._num_words is None else 1
        number = 0
        for number, line in islice(enumerate(self._lines(), start=1), header_lines, None):
            line = line.rstrip()
            encoded = line[: line.index(b" ")] if line.count(b" ") == self.dim else self._odd_word(line, number)
            word = encoded.decode("utf-8", errors="replace")
            if wanted(word):
                yield word, self._vector(line[len(encoded) + 1 :], word, number)
        if self._num_words is not None and number - header_lines < self._num_words:
            raise UserError(
                f"{self.where}: ends after {number - header_lines:,} of the {self._num_words:,} words that its first "
                "line promises; get the file again"
            )

    def _lines(self) -> Iterator[bytes]:
        rest, number = b"", 0
        for block in self._file.blocks():
            lines = block.split(b"\n")
            lines[0] = (rest + lines[0]).removeprefix(_BOM if number == 0 else b"")
            rest = lines.pop()
            number += len(lines)
            yield from lines
            if len(rest) > SAMPLE:
                raise UserError(f"{self.where}, line {number + 1}: too long; is this a file of word vectors?")
        if rest:
            yield rest

    def _odd_word(self, line: bytes, number: int) -> bytes:
        """Return the word of a line that has too few fields, or spaces in its word."""
        count = line.count(b" ")
        head = line.rsplit(b" ", self.dim)[0]
        if count < self.dim or any(map(is_number, head.split(b" ")[1:])):
            raise UserError(
                f"{self.where}, line {number}: {count} numbers, not {self.dim} as the file's first line says; get "
                "the file again"
            )
        return head

    def _vector(self, fields: bytes, word: str, number: int) -> np.ndarray:
        where = f"{self.where}, line {number}"
        try:
            numbers = [float(field) for field in fields.decode("utf-8", errors="replace").split(" ")]
        except ValueError as error:
            raise UserError(
                f"{where}: not 'word number number ...': {error}; is this a file of word vectors?"
            ) from error
        return as_vector(numbers, word, where)
