"""The JSON files of npm's ``wink-embeddings-sg-*`` packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from src.errors import UserError
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.streams import ByteFile


class _Content(msgspec.Struct):
    """Content of the file; ``vectors`` maps a word to [D numbers, their norm, its index], decoded on demand."""

    dimensions: int
    words: list[str]
    vectors: dict[str, msgspec.Raw]


class WinkVectors(WordSource):
    """Word vectors of such a file, which is mapped into memory and checked completely.

    Raises:
        UserError: the file is damaged or of another form.
    """

    def __init__(self, file: ByteFile) -> None:
        super().__init__(file.name, file.where)
        content = b"".join(file.blocks()) if file.packing else file.mapped("JSON")
        try:
            self._content = msgspec.json.decode(content, type=_Content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{file.where}: not a complete JSON file of a wink-embeddings package: {error}; get the file again"
            ) from error
        self.dim = self._content.dimensions
        if self.dim < 1 or not self._content.words:
            raise UserError(f"{file.where}: holds no word vectors; get the file again")

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        for word in self._content.words:
            if wanted(word):
                try:
                    numbers = msgspec.json.decode(self._content.vectors[word], type=list[float])[: self.dim]
                except (KeyError, msgspec.DecodeError):
                    numbers = []
                if len(numbers) < self.dim:
                    raise UserError(f"{self.where}: {word!r} has no vector of {self.dim} numbers; get the file again")
                yield word, as_vector(numbers, word, self.where)
