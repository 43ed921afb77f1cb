"""word2vec's binary format, as in GoogleNews-vectors-negative300.bin.

A line ``V D``, then for each word its bytes, a space, D little-endian float32 numbers and, from the C program, a line
feed. Bytes of a word that are not UTF-8 become U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from src.errors import UserError
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import ByteFile
from src.word_vectors.text import HEADER, count_numbers

_LONGEST_WORD = 4096  # bytes; the C program stops at 100, other writers at none
_NO_TEXT = re.compile(rb"[^\t\n\r\x20-\x7e]")
_MOST_ODD = 1000  # words of control characters in excess of the others


def is_word2vec_binary(sample: bytes) -> bool:
    """Return whether the start of a file is of this format: ``V D``, but then no lines of D numbers in text."""
    header, *lines = sample.split(b"\n", 4)
    match = HEADER.fullmatch(header)
    if match is None or not lines:
        return False
    dim = int(match[2])
    if any(count_numbers(line) == dim for line in lines[:3]):
        return False
    numbers = sample[len(header) + 1 :].partition(b" ")[2][: 4 * dim]
    return _NO_TEXT.search(numbers) is not None


class Word2VecBinary(WordSource):
    """Word vectors of word2vec's binary format; a wrong V is noted.

    Raises:
        UserError: the file says that its vectors have no numbers.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.where)
        self._file = file
        header, _, _ = file.sample.partition(b"\n")
        self._num_words, self.dim = map(int, header.split())
        self._start = len(header) + 1
        if self.dim == 0:
            raise UserError(f"{file.where}: holds no word vectors; give another file")

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        dim, width = self.dim, 4 * self.dim
        longest = self._start + _LONGEST_WORD + width
        row, odd, place, rest = 0, 0, self._start, b""
        for block in self._file.blocks():
            buffer = rest + block
            while True:
                space = buffer.find(b" ", place, place + _LONGEST_WORD)
                end = space + 1 + width
                if space < 0 or end > len(buffer):
                    break
                word = buffer[place:space].lstrip(b"\n").decode("utf-8", errors="replace")
                row += 1
                odd += not (word and word.isprintable())
                if word and wanted(word):
                    yield word, as_vector(np.frombuffer(buffer, "<f4", dim, space + 1), dim)
                place = end
            if row:
                rest, place = buffer[place:], 0
            else:
                rest = buffer
            if len(rest) > longest or odd > row - odd + _MOST_ODD:
                break  # no row is that long, no word list so odd: the rows are not where they should be
        self._check_end(row, rest, is_damaged=len(rest) > longest or odd > row - odd)
        self.notes = tuple(self._flaws(row, rest.strip()))

    def _flaws(self, row: int, rest: bytes) -> Iterator[str]:
        if row != self._num_words:
            yield f"the first line promises {self._num_words:,} words, but there are {row:,}; all are used"
        if rest:
            yield f"the {len(rest):,} bytes after the last word are passed over"

    def _check_end(self, row: int, rest: bytes, *, is_damaged: bool) -> None:
        if is_damaged:
            raise UserError(
                f"{self.where}: damaged at about word {row:,}: what follows is not a word and {self.dim} numbers; "
                "words with blanks in them do that too; give another file"
            )
        if rest.strip() and row < self._num_words:
            raise UserError(
                f"{self.where}: ends in the middle of word {row + 1:,} of {self._num_words:,}; get the file again"
            )
