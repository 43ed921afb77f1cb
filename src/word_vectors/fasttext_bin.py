"""Model files of the fastText program (``.bin``), which compute vectors of unlisted words from sub-words.

"Enriching Word Vectors with Subword Information" (TACL 2017). Little-endian, format version 12 (11 differs for
supervised models):

    int32 magic, version
    int32 dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate; float64 t
    int32 entries, words, labels; int64 tokens, pruned
    for each entry: its bytes, NUL, int64 count, int8 kind (0 a word, 1 a label)
    pruned * (int32, int32)
    int8 quantised; int64 rows, columns; float32 numbers: first the words' rows, then the sub-words' buckets
    the output matrix, which is not read
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from src.errors import UserError
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import ByteFile

MAGIC = struct.pack("<i", 793712314)

_ARGUMENTS = struct.Struct("<13id")  # version first
_COUNTS = struct.Struct("<3i2q")
_MATRIX = struct.Struct("<?2q")
_AFTER_WORD = 9  # bytes: count and kind
_LONGEST_WORD = 1 << 12  # bytes
_LONGEST_NGRAM = 64  # characters; fastText's default is 6
_SUPERVISED = 3
_END_OF_SENTENCE = b"</s>"


def bucket_hash(ngram: bytes) -> int:
    """Hash with the fastText program's 32-bit FNV-1a: bytes from 0x80 on are signed, so they flip the upper bits."""
    value = 2166136261
    for byte in ngram:
        value ^= byte if byte < 0x80 else byte | 0xFFFFFF00
        value = value * 16777619 & 0xFFFFFFFF
    return value


def character_ngrams(word: bytes, shortest: int, longest: int) -> list[bytes]:
    """Return the character n-grams of ``<word>``, without the single characters ``<`` and ``>``."""
    marked = b"<" + word + b">"
    starts = [place for place, byte in enumerate(marked) if byte & 0xC0 != 0x80]  # of UTF-8 characters
    bounds = [*starts, len(marked)]
    return [
        marked[bounds[first] : bounds[first + length]]
        for first in range(len(starts))
        for length in range(max(shortest, 1), min(longest, len(starts) - first) + 1)
        if length > 1 or 0 < first < len(starts) - 1
    ]


class FastTextModel(WordSource):
    """Words and sub-words of a fastText model.

    The file is mapped into memory, so that only the needed rows are read. The vector of a listed word is the
    mean of its own row and its sub-words' rows.

    Raises:
        UserError: the file is packed, quantised, cut short or of another version.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.where)
        self._content = file.mapped("a fastText model")
        try:
            self._read_head()
        except UserError:
            raise
        except Exception as error:  # numbers that are too large lead to many kinds
            raise UserError(
                f"{self.where}: a fastText model that is damaged or cut short; get the file again"
            ) from error

    def _read_head(self) -> None:
        """Raise an exception of any kind if the file is damaged or cut short."""
        version, *arguments, _ = _ARGUMENTS.unpack_from(self._content, len(MAGIC))
        if version not in (11, 12):
            raise UserError(
                f"{self.where}: a fastText model of format version {version}, not 11 or 12; take its .vec file, or "
                "save it again with fastText 0.2 or later"
            )
        self.dim, model, self._num_buckets, self._shortest, self._longest = (arguments[i] for i in (0, 7, 8, 9, 10))
        if version == 11 and model == _SUPERVISED:
            self._longest = 0  # such models have no sub-words, whatever the header says
        place = len(MAGIC) + _ARGUMENTS.size
        num_entries, self._num_words, _, _, pruned = _COUNTS.unpack_from(self._content, place)
        self._dictionary = place = place + _COUNTS.size
        for _, after in self._entries(num_entries):
            place = after
        place += 8 * max(pruned, 0)
        quantised, rows, columns = _MATRIX.unpack_from(self._content, place)
        if quantised:
            raise UserError(
                f"{self.where}: a quantised fastText model (.ftz); give the .bin or .vec file that it was made from"
            )
        buckets = self._num_buckets if self._longest else 0
        words_fit = num_entries >= self._num_words >= 0
        sizes_fit = words_fit and columns == self.dim > 0 and rows >= self._num_words + buckets
        ngrams_fit = self._longest == 0 or (buckets > 0 and 0 < self._longest <= _LONGEST_NGRAM)
        if not (sizes_fit and ngrams_fit):
            raise ValueError
        self._rows = np.frombuffer(self._content, "<f4", rows * columns, place + _MATRIX.size).reshape(rows, columns)

    def _entries(self, count: int) -> Iterator[tuple[bytes, int]]:
        """Yield the first entries of the dictionary and where the next one begins; words stand before labels."""
        place = self._dictionary
        for _ in range(count):
            end = self._content.find(b"\0", place, place + _LONGEST_WORD)
            if end < 0:
                raise ValueError
            word, place = self._content[place:end], end + 1 + _AFTER_WORD
            yield word, place

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        for row, (encoded, _) in enumerate(self._entries(self._num_words)):
            word = encoded.decode("utf-8", errors="replace")
            if word and wanted(word):
                yield word, self._mean([row, *self._subword_rows(encoded)])

    def lookup(self, words: Sequence[str]) -> list[np.ndarray | None]:
        """Return the vectors of unlisted words: the means of their sub-words; None for a word that has none."""
        rows = [self._subword_rows(word.encode(errors="replace")) for word in words]
        return [self._mean(of_word) if of_word else None for of_word in rows]

    def _subword_rows(self, word: bytes) -> list[int]:
        has_ngrams = word != _END_OF_SENTENCE and len(word) <= _LONGEST_WORD
        ngrams = character_ngrams(word, self._shortest, self._longest) if has_ngrams else []
        return [self._num_words + bucket_hash(ngram) % self._num_buckets for ngram in ngrams]

    def _mean(self, rows: list[int]) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return as_vector(self._rows[rows].mean(axis=0, dtype=np.float64), self.dim)
