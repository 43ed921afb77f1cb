"""word2vec's binary format, as in GoogleNews-vectors-negative300.bin.

``V D`` and a line feed, then for each word its bytes, a space, D little-endian float32 numbers and, from the C program,
a line feed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from src.errors import UserError
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import ByteFile
from src.word_vectors.text import HEADER, is_number

_LONGEST_WORD = 4096  # bytes; the C program stops at 100, other writers at none
_NO_TEXT = re.compile(rb"[^\t\n\r\x20-\x7e]")


def is_word2vec_binary(sample: bytes) -> bool:
    """Return whether the start of a file is of this format: ``V D``, but then no line of numbers in text."""
    header, _, rest = sample.partition(b"\n")
    match = HEADER.fullmatch(header)
    if match is None:
        return False
    dim = int(match[2])
    fields = rest.partition(b"\n")[0].rstrip().rsplit(b" ", dim)
    if len(fields) == dim + 1 and all(map(is_number, fields[1:])):
        return False
    numbers = rest.partition(b" ")[2][: 4 * dim]
    return _NO_TEXT.search(numbers) is not None


class Word2VecBinary(WordSource):
    """Word vectors of word2vec's binary format.

    Bytes of a word that are not UTF-8 become U+FFFD.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.flag, file.where)
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
