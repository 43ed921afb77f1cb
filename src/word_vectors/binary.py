"""word2vec's binary format, as in GoogleNews-vectors-negative300.bin.

``V D`` and a line feed, then for each word its bytes, a space, D little-endian float32 numbers and, from the C program,
a line feed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from src.errors import UserError
from src.word_vectors.base import ListedWords, as_vector
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


class Word2VecBinary(ListedWords):
    """Word vectors of word2vec's binary format.

    Bytes of a word that are not UTF-8 become U+FFFD.
    """

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self.name, self.flag = file.name, file.flag
        header, _, _ = file.sample.partition(b"\n")
        self._num_words, self.dim = map(int, header.split())
        self._start = len(header) + 1

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.source.WordSource`."""
        width = 4 * self.dim
        row, rest = 0, b""
        for block in self._file.blocks():
            buffer = rest + block if rest else block
            place = 0 if row else self._start
            while row < self._num_words:
                space = buffer.find(b" ", place, place + _LONGEST_WORD)
                end = space + 1 + width
                if space < 0 or end > len(buffer):
                    break
                word = buffer[place:space].lstrip(b"\n").decode("utf-8", errors="replace")
                row += 1
                if wanted(word):
                    yield word, as_vector(np.frombuffer(buffer, "<f4", self.dim, space + 1), word, self._file.where)
                place = end
            rest = buffer[place:] if row else buffer
            if self._is_noise(rest):
                break
        self._check_end(row, rest)

    def _is_noise(self, rest: bytes) -> bool:
        """Return whether the unread rest is longer than a row: the file is damaged, or has too many rows."""
        return len(rest) > self._start + _LONGEST_WORD + 4 * self.dim

    def _check_end(self, row: int, rest: bytes) -> None:
        if row < self._num_words:
            problem = (
                f"{'damaged' if self._is_noise(rest) else 'ends'} after {row:,} of the {self._num_words:,} words that"
            )
        elif rest.strip():
            problem = f"continues after the {self._num_words:,} words that"
        else:
            return
        raise UserError(f"{self._file.where}: {problem} its first line promises; get the file again")
