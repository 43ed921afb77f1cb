"""Pickles of NumPy arrays and plain containers, as the released code's folders hold them.

:mod:`src.utils.inert_pickle` reads them without running anything. Here every name that a file mentions must be one that
arrays and containers need.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError, first_line
from src.text import on_screen, shortened
from src.utils.inert_numpy import NUMPY, array_of
from src.utils.inert_pickle import InertUnpickler
from src.utils.inert_values import CONTAINERS, Builders, Foreign, Global, PickleError, Unbuilt
from src.utils.regular import read_regular

_ARRAY = "numpy.ndarray"
_LARGEST_FILE = 1 << 28  # bytes; the largest released file has 1.2 million
_MOST_EMPTY = 1 << 20  # rows of an array without content


def read_array_pickle(path: str | Path) -> Any:
    """Read a pickle that holds NumPy arrays, numbers, strings and plain containers only.

    Ordered dictionaries are returned as plain ones, arrays read-only. Strings of Python 2 are read as Latin-1.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    try:
        content = read_regular(path, _LARGEST_FILE)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _ArrayUnpickler(io.BytesIO(content), builders=_BUILDERS).load()
    except PickleError as error:
        raise UserError(f"{path} is not a pickle of arrays and plain containers: {first_line(error)}") from error


class _ArrayUnpickler(InertUnpickler):
    """Refuses what the machine would let something else stand for."""

    def load(self) -> Any:
        value = super().load()
        if isinstance(value, Foreign):
            raise PickleError(f"it holds a {value.name} without its content")
        return value

    def _global(self, name: str) -> None:
        super()._global(name)
        value = self.stack[-1]
        if isinstance(value, Global) and value.name not in self.builders and value.name != _ARRAY:
            raise PickleError(f"it refers to {shortened(on_screen(value.name), 80)}")

    def _call(self, function: Any, arguments: Any) -> None:
        super()._call(function, arguments)
        self._refuse_stand_in()

    def _build(self, _: Any) -> None:
        super()._build(_)
        self._refuse_stand_in()

    def _refuse_stand_in(self) -> None:
        value = self.stack[-1]
        if isinstance(value, Foreign) and not isinstance(value, Unbuilt):
            raise PickleError(f"it makes a {shortened(on_screen(value), 80)}")


class _ObjectType(Unbuilt):
    """The type of arrays of Python objects, which here are plain data."""

    def __init__(self) -> None:
        super().__init__("numpy.dtype")

    def built(self, state: Any) -> np.dtype[Any]:
        return np.dtype(object)


class _Array(Unbuilt):
    def __init__(self, *_: Any) -> None:
        super().__init__(_ARRAY)

    def built(self, state: Any) -> np.ndarray:
        shape, dtype, is_fortran, content = state[-4:]
        return _array(content, dtype, shape, "F" if is_fortran else "C")


def _dtype(code: Any, *rest: Any) -> Unbuilt:
    return _ObjectType() if code in ("O", "O4", "O8") else NUMPY["numpy.dtype"](code, *rest)


def _array(content: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> np.ndarray:
    """Make an array of its bytes or, for objects, of the list of them."""
    if any(type(side) is not int or not 0 <= side <= _LARGEST_FILE for side in shape):
        raise ValueError("an array of unknown shape")
    if 0 in shape:
        array = np.empty([min(side, _MOST_EMPTY) for side in shape], dtype)
    elif dtype == np.dtype(object):
        if not isinstance(content, list) or len(content) != math.prod(shape):
            raise ValueError(f"an array of shape {shortened(str(shape), 80)} with other content")
        array = np.fromiter(content, dtype=object, count=len(content)).reshape(
            shape, order="F" if order == "F" else "C"
        )
    else:
        array = array_of(content, dtype, shape, order)
    if array.dtype.kind == "U":
        array.tolist()  # NumPy checks only then that these are letters
    return array if axes is None else array.transpose(axes)


_BUILDERS: Builders = {
    **CONTAINERS,
    **NUMPY,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array for core in ("core", "_core")},
}
