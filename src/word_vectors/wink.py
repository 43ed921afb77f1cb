"""The JSON files of npm's ``wink-embeddings-sg-*`` packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from src.errors import UserError
from src.word_vectors.base import ListedWords, as_vector
from src.word_vectors.streams import ByteFile


class _Content(msgspec.Struct):
    """Content of the file; ``vectors`` maps a word to [D numbers, their norm, its index], decoded on demand."""

    dimensions: int
    words: list[str]
    vectors: dict[str, msgspec.Raw]


class WinkVectors(ListedWords):
    """Word vectors of such a file, which is mapped into memory and checked completely.

    Raises:
        UserError: the file is damaged or of another form.
    """

    def __init__(self, file: ByteFile) -> None:
        self.name, self.flag, self._where = file.name, file.flag, file.where
        content = b"".join(file.blocks()) if file.packing else file.mapped("JSON")
        try:
            self._content = msgspec.json.decode(content, type=_Content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self._where}: not a complete JSON file of a wink-embeddings package: {error}; get the file again"
            ) from error
        self.dim = self._content.dimensions
        if self.dim < 1 or not self._content.words:
            raise UserError(f"{self._where}: holds no word vectors; get the file again")

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.source.WordSource`."""
        for word in self._content.words:
            if wanted(word):
                yield word, self._vector(word)

    def _vector(self, word: str) -> np.ndarray:
        try:
            numbers = msgspec.json.decode(self._content.vectors[word], type=list[float])[: self.dim]
        except KeyError as error:
            raise UserError(f"{self._where}: lists the word {word!r} without a vector; get the file again") from error
        except msgspec.DecodeError as error:
            raise UserError(f"{self._where}: the vector of {word!r} is none: {error}; get the file again") from error
        if len(numbers) < self.dim:
            raise UserError(
                f"{self._where}: the vector of {word!r} has {len(numbers)} numbers, not {self.dim}; get the file again"
            )
        return as_vector(numbers, word, self._where)
