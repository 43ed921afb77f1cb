"""Text files of word vectors: a word and D numbers per line, separated by spaces.

GloVe's format has nothing else. word2vec's text format and fastText's ``.vec`` begin with a line ``V D``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from src.errors import UserError
from src.word_vectors.base import ListedWords, as_vector
from src.word_vectors.streams import SAMPLE, ByteFile

HEADER = re.compile(rb"\s*(\d{1,12}) (\d{1,5})\s*")  # V and D

_BOM = b"\xef\xbb\xbf"
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def is_number(field: bytes) -> bool:
    """Return whether a field is a number as these files write it; words such as ``nan`` and ``infinity`` are not."""
    return _NUMBER.fullmatch(field) is not None


class TextVectors(ListedWords):
    """Word vectors of a text file.

    Only U+0020 separates. A word may contain spaces, as some of glove.840B do: the last D fields are numbers.
    Bytes of a word that are not UTF-8 become U+FFFD. Every line must have D numbers; they are parsed only
    if the word is wanted.

    Raises:
        UserError: the file holds no words, or its first line of numbers is not of this form.
    """

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self.name, self.flag = file.name, file.flag
        lines = file.sample.removeprefix(_BOM).split(b"\n", 2)
        header = HEADER.fullmatch(lines[0])
        self._header_lines = 0 if header is None else 1
        self._num_words = None if header is None else int(header[1])
        if len(lines) <= self._header_lines or not b"".join(lines[self._header_lines :]).strip():
            raise UserError(f"{file.where}: holds no words; get the file again")
        if len(lines) == self._header_lines + 1 and len(file.sample) == SAMPLE:
            raise self._too_long(self._header_lines + 1)
        first = lines[self._header_lines].rstrip()
        self.dim = first.count(b" ") if header is None else int(header[2])
        word = self._word(first, self._header_lines + 1)
        self._vector(first, word, self._header_lines + 1)

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.source.WordSource`."""
        number = 0
        for number, line in islice(enumerate(self._lines(), start=1), self._header_lines, None):
            line = line.rstrip()
            encoded = line[: line.index(b" ")] if line.count(b" ") == self.dim else self._word(line, number)
            word = encoded.decode("utf-8", errors="replace")
            if wanted(word):
                yield word, self._vector(line, encoded, number)
        rows = number - self._header_lines
        if self._num_words is not None and rows < self._num_words:
            raise UserError(
                f"{self._file.where}: ends after {rows:,} of the {self._num_words:,} words that its first line "
                "promises; get the file again"
            )

    def _lines(self) -> Iterator[bytes]:
        rest, number = b"", 0
        for block in self._file.blocks():
            lines = block.split(b"\n")
            lines[0] = (rest + lines[0]).removeprefix(_BOM if number == 0 else b"")
            rest = lines.pop()
            number += len(lines)
            if len(rest) > SAMPLE:
                raise self._too_long(number + 1)
            yield from lines
        if rest:
            yield rest

    def _too_long(self, number: int) -> UserError:
        return UserError(f"{self._file.where}, line {number}: longer than a line of numbers; is this another format?")

    def _word(self, line: bytes, number: int) -> bytes:
        """Return the word of a line that may have too few fields, or spaces in its word."""
        count = line.count(b" ")
        head = line.rsplit(b" ", self.dim)[0]
        extra = [field for field in head.split(b" ")[1:] if is_number(field)]
        if count < self.dim or extra or self.dim == 0:
            says = "the first line has" if self._num_words is None else "the header says"
            raise UserError(
                f"{self._file.where}, line {number}: {count} numbers, but {says} {self.dim}; get the file again"
                if self.dim
                else f"{self._file.where}, line {number}: 0 numbers after the word; is this a file of word vectors?"
            )
        return head

    def _vector(self, line: bytes, word: bytes, number: int) -> np.ndarray:
        fields = line[len(word) + 1 :].decode("utf-8", errors="replace").split(" ")
        try:
            numbers = [float(field) for field in fields]
        except ValueError as error:
            raise UserError(
                f"{self._file.where}, line {number}: not 'word number number ...': {error}; is this a file of word "
                "vectors?"
            ) from error
        return as_vector(numbers, word.decode("utf-8", errors="replace"), f"{self._file.where}, line {number}")
