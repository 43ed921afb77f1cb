"""NumPy's array files, read without pickled objects and without taking memory that their headers promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.errors import UserError, first_line
from src.text import shortened
from src.utils.regular import open_regular

MAGIC = b"\x93NUMPY"


def read_array(path: str | Path) -> np.ndarray:
    """Map the real numbers of a ``.npy`` file into memory: pages are read when they are used.

    Raises:
        UserError: the file is missing, damaged, cut short, of another format, or holds anything but real numbers.
    """
    try:
        with open_regular(path) as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise UserError(f"{path} is no .npy file; save the array with numpy.save")
        # The map fails where the file is smaller than its header says
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        raise UserError(f"{path} is damaged or cut short, or holds no plain array: {first_line(error)}") from error
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path} holds {shortened(str(array.dtype), 60)}, no real numbers; save it as float32")
    return array
