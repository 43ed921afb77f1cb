"""Text formats of word vectors: GloVe's, word2vec's and fastText's ``.vec``.

A line is a word and D numbers, separated by blanks or tabs. GloVe's files have nothing else; word2vec's and fastText's
begin with a line ``V D``. Published files have flaws: a word that is a line feed, and so an empty line and a line that
begins with a blank; words with blanks in them, as some of glove.840B; repeated words; bytes that are not UTF-8, which
become U+FFFD; a V that is one off. None of that concerns the other words, so such files are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from src.errors import UserError
from src.text import shortened
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import SAMPLE, ByteFile

HEADER = re.compile(rb"\s*(\d{1,12})[ \t]+(\d{1,5})\s*")  # V and D

_BOM = b"\xef\xbb\xbf"
_END_OF_FILE = b"\x1a"  # what DOS ends text with
_NUMBER = re.compile(rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf(?:inity)?)", re.IGNORECASE)
_EXAMPLES = 20  # lines that show D
_MOST_ODD = 1000  # lines without a vector in excess of twice those with one
_NUMBERBATCH, _NUMBERBATCH_ENGLISH = b"/c/", "/c/en/"


def count_numbers(line: bytes) -> int:
    """Return the D that a line shows: how many numbers it has after the word, which may be a number itself."""
    fields = line.split()
    numbers = next((place for place, field in enumerate(reversed(fields)) if not _NUMBER.fullmatch(field)), None)
    if numbers is not None:
        return numbers
    return len(fields) if line[:1].isspace() else max(len(fields) - 1, 0)


class TextVectors(WordSource):
    """Word vectors of a text file. The English words of ConceptNet Numberbatch lose their prefix ``/c/en/``.

    Lines that are not a word and D numbers are passed over and noted; so is a wrong V. Numbers are parsed only if the
    word is wanted.

    Raises:
        UserError: the file holds no words, or its first lines are not of this form.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.where)
        self._file = file
        self._line_end = b"\n" if b"\n" in file.sample or b"\r" not in file.sample else b"\r"  # of the first Macs
        lines = file.sample.removeprefix(_BOM).split(self._line_end)
        is_whole = len(file.sample) < SAMPLE
        if not is_whole:
            del lines[-1]  # may be cut off
        header = HEADER.fullmatch(lines[0]) if lines else None
        start = 0 if header is None else 1
        rows = {number: line for number, line in enumerate(lines[start:], start=start + 1) if line.strip()}
        rows = dict(islice(rows.items(), _EXAMPLES))
        if not rows:
            problem = "holds no word vectors; give another file"
            raise UserError(f"{file.where}: {problem}" if is_whole else self._too_long(len(lines) + 1))
        number, line = next(iter(rows.items()))
        self.dim = Counter(map(count_numbers, rows.values())).most_common(1)[0][0]
        if self.dim == 0:
            raise UserError(
                f"{file.where}, line {number}: not 'word number number ...' but {_shown(line)}; is this a file of word "
                "vectors?"
            )
        is_header = header is not None and int(header[2]) == self.dim
        if header is not None and not is_header and self.dim > 1:
            raise UserError(
                f"{file.where}, line {number}: {self.dim} numbers, not {int(header[2])} as the file's first line says; "
                "correct that line, or give another file"
            )
        self._num_words = int(header[1]) if header is not None and is_header else None
        self._prefix = _NUMBERBATCH_ENGLISH if all(line.startswith(_NUMBERBATCH) for line in rows.values()) else ""

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        start = 0 if self._num_words is None else 1
        dim, prefix = self.dim, self._prefix
        number, odd, first_odd = start, 0, 0
        for number, line in islice(enumerate(self._lines(), start=1), start, None):
            line = line.rstrip()
            encoded = line[: line.index(b" ")] if line.count(b" ") == dim else self._odd_word(line)
            if encoded is None:
                odd += 1
                first_odd = first_odd or number
                if odd > 2 * (number - start - odd) + _MOST_ODD:
                    raise UserError(
                        f"{self.where}: {odd:,} of the first {number:,} lines are not a word and {dim} numbers; is "
                        "this a file of word vectors?"
                    )
                continue
            word = encoded.decode("utf-8", errors="replace").removeprefix(prefix)
            if word and wanted(word):
                yield word, self._vector(line)
        self.notes = tuple(self._flaws(number - start - odd, odd, first_odd))

    def _flaws(self, count: int, odd: int, first_odd: int) -> Iterator[str]:
        if odd:
            lines = f"{odd:,} lines are" if odd > 1 else "1 line is"
            yield f"{lines} not a word and {self.dim} numbers and passed over; the first is line {first_odd}"
        if self._num_words is not None and self._num_words not in (count, count + odd):
            yield f"the first line promises {self._num_words:,} words, but there are {count:,}; all are used"

    def _lines(self) -> Iterator[bytes]:
        rest, number = b"", 0
        for block in self._file.blocks():
            lines = block.split(self._line_end)
            lines[0] = (rest + lines[0]).removeprefix(_BOM if number == 0 else b"")
            rest = lines.pop()
            number += len(lines)
            yield from lines
            if len(rest) > SAMPLE:
                raise UserError(self._too_long(number + 1))
        if rest.strip().strip(_END_OF_FILE):
            if self._odd_word(rest) is None:
                raise UserError(f"{self.where}: ends in the middle of line {number + 1}; get the file again")
            yield rest

    def _too_long(self, number: int) -> str:
        return f"{self.where}, line {number}: too long; is this a file of word vectors?"

    def _odd_word(self, line: bytes) -> bytes | None:
        """Return the word of a line that has blanks in its word or other separators; None if it is no word's line."""
        fields = line.rsplit(None, self.dim)
        if len(fields) == self.dim and line[:1].isspace():
            fields.insert(0, b"")  # the word is a blank
        fits = len(fields) > self.dim and _NUMBER.fullmatch(fields[1]) and _NUMBER.fullmatch(fields[-1])
        return fields[0].strip() if fits else None

    def _vector(self, line: bytes) -> np.ndarray:
        try:
            return as_vector([float(field) for field in line.rsplit(None, self.dim)[-self.dim :]], self.dim)
        except ValueError:
            return as_vector([], self.dim)


def _shown(line: bytes) -> str:
    return repr(shortened(line.decode("utf-8", errors="replace").strip(), 44))
