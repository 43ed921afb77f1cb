"""Formats that list a word and its numbers, row by row: GloVe's, word2vec's and fastText's ``.vec``.

In text a line is a word and D numbers, separated by spaces. GloVe's files have nothing else; word2vec's text and
fastText's ``.vec`` begin with a line ``V D``. word2vec's binary format, as in GoogleNews-vectors-negative300.bin, has
``V D`` and a line feed, then for each word its bytes, a space, D little-endian float32 numbers and, from the C program,
a line feed. Bytes of a word that are not UTF-8 become U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from src.errors import UserError
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import SAMPLE, ByteFile

_HEADER = re.compile(rb"\s*(\d{1,12}) (\d{1,5})\s*")  # V and D

_BOM = b"\xef\xbb\xbf"
_LONGEST_WORD = 4096  # bytes; the C program stops at 100, other writers at none
_NO_TEXT = re.compile(rb"[^\t\n\r\x20-\x7e]")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _is_number(field: bytes) -> bool:
    """Return whether a field is a number as these files write it; words such as ``nan`` and ``infinity`` are not."""
    return _NUMBER.fullmatch(field) is not None


class TextVectors(WordSource):
    """Word vectors of a text file.

    Only U+0020 separates. A word may contain spaces, as some of glove.840B do: the last D fields are numbers.
    Every line must have D numbers; they are parsed only if the word is wanted.

    Raises:
        UserError: the file holds no words, or its first line of numbers is not of this form.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.where)
        self._file = file
        first, *rest = file.sample.removeprefix(_BOM).split(b"\n", 2)
        header = _HEADER.fullmatch(first)
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
        if count < self.dim or any(map(_is_number, head.split(b" ")[1:])):
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


def is_word2vec_binary(sample: bytes) -> bool:
    """Return whether the start of a file is of this format: ``V D``, but then no line of numbers in text."""
    header, _, rest = sample.partition(b"\n")
    match = _HEADER.fullmatch(header)
    if match is None:
        return False
    dim = int(match[2])
    fields = rest.partition(b"\n")[0].rstrip().rsplit(b" ", dim)
    if len(fields) == dim + 1 and all(map(_is_number, fields[1:])):
        return False
    numbers = rest.partition(b" ")[2][: 4 * dim]
    return _NO_TEXT.search(numbers) is not None


class Word2VecBinary(WordSource):
    """Word vectors of word2vec's binary format."""

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.where)
        self._file = file
        header, _, _ = file.sample.partition(b"\n")
        self._num_words, self.dim = map(int, header.split())
        self._start = len(header) + 1

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        width = 4 * self.dim
        longest = self._start + _LONGEST_WORD + width
        row, place, rest = 0, self._start, b""
        for block in self._file.blocks():
            buffer = rest + block
            while row < self._num_words:
                space = buffer.find(b" ", place, place + _LONGEST_WORD)
                end = space + 1 + width
                if space < 0 or end > len(buffer):
                    break
                word = buffer[place:space].lstrip(b"\n").decode("utf-8", errors="replace")
                row += 1
                if wanted(word):
                    yield word, as_vector(np.frombuffer(buffer, "<f4", self.dim, space + 1), word, self.where)
                place = end
            if row:
                rest, place = buffer[place:], 0
            else:
                rest = buffer
            if len(rest) > longest:
                break  # no row is that long: the file is damaged, or has too many rows
        if row < self._num_words or rest.strip():
            problem = "does not end" if row == self._num_words else "damaged" if len(rest) > longest else "ends"
            raise UserError(
                f"{self.where}: {problem} after {row:,} of the {self._num_words:,} words that its first line promises; "
                "get the file again"
            )
