"""Vectors in one matrix, beside a list of the words of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from src.data.metadata import load_metadata
from src.errors import UserError, blaming
from src.utils.files import read_json_as, read_lines
from src.word_vectors.base import ListedWords, as_vector


class ArrayVectors(ListedWords):
    """V words and the rows of a matrix [V, D], which may be mapped from a file.

    Args:
        words: V words.
        array: [V, D], of any real type.
        name: of the source, for people.
        flag: the flag that named it.
        where: start of error messages.
    """

    def __init__(self, words: Sequence[str], array: np.ndarray, *, name: str, flag: str, where: str) -> None:
        self.name, self.flag, self._where = name, flag, where
        self.dim = array.shape[1]
        self._words, self._array = words, array

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.source.WordSource`."""
        for row, word in enumerate(self._words):
            if wanted(word):
                yield word, as_vector(self._array[row], word, self._where)


def open_array(path: Path, flag: str) -> ArrayVectors:
    """Open a ``.npy`` file, [V, D] or [D, V], beside a list of its V words: ``.txt``, one per line, or ``.json``.

    The rows of a square matrix belong to the words.

    Raises:
        UserError: a file is missing or damaged, or the counts fit neither way.
    """
    where = f"{flag} {path}"
    lists = [path.with_suffix(suffix) for suffix in (".txt", ".json")]
    found = [words for words in lists if words.is_file()]
    if len(found) != 1:
        both = "both are beside it, so that it is unclear which has its words; remove one"
        neither = "neither is beside it; write the words of the vectors there, one per line, or as a JSON list"
        raise UserError(f"{where}: {lists[0].name} and {lists[1].name}: {both if found else neither}")
    with blaming(where):
        is_text = found[0].suffix == ".txt"
        words = read_lines(found[0], flag) if is_text else read_json_as(found[0], list[str], "list of words")
    return ArrayVectors(words, map_rows(path, len(words), where), name=path.name, flag=flag, where=where)


def map_rows(path: Path, num_words: int, where: str) -> np.ndarray:
    """Map the matrix [V, D] of a ``.npy`` file, which has that shape or [D, V], into memory.

    Raises:
        UserError: the file is damaged, holds no real numbers, or has another shape.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{where}: {path.name} is damaged, or no plain array: {error}; get the file again") from error
    if array.dtype.kind not in "fiu":
        raise UserError(f"{where}: {path.name} holds {array.dtype}, no real numbers; save it as float32")
    if array.ndim != 2 or num_words not in array.shape:
        raise UserError(
            f"{where}: {path.name} has shape {list(array.shape)}, but its list has {num_words} words; one of them "
            "belongs to another file"
        )
    return array if array.shape[0] == num_words else array.T


def open_metadata(folder: Path, flag: str) -> ArrayVectors:
    """Open the labels of a metadata folder and their vectors.

    Raises:
        UserError: something in the folder is wrong.
    """
    with blaming(f"{flag} {folder}"):
        split = load_metadata(folder).split
    array = split.word_vectors.t().numpy()
    return ArrayVectors(split.labels, array, name=str(folder), flag=flag, where=f"{flag} {folder}")
