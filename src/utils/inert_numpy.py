"""Builders of NumPy's scalars, types and arrays for :mod:`src.utils.inert_pickle`.

The names of NumPy's own modules differ before and since version 2.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from src.utils.inert_values import Builders, Global, Unbuilt

_PLAIN_TYPE = re.compile(r"[<>|=]?[?biufcSUVmM]\d{0,6}")  # no objects, no structures


class _Dtype(Unbuilt):
    def __init__(self, code: Any, *_: Any) -> None:
        super().__init__("numpy.dtype")
        text = code.name.removeprefix("numpy.") if isinstance(code, Global) else code
        self.dtype = _plain_dtype(text)

    def built(self, state: Any) -> np.dtype[Any]:
        order = state[1]
        return self.dtype.newbyteorder(order) if order in ("<", ">") else self.dtype


class _Array(Unbuilt):
    def __init__(self, *_: Any) -> None:
        super().__init__("numpy.ndarray")

    def built(self, state: Any) -> np.ndarray:
        _, shape, dtype, is_fortran, raw = state
        return array_of(raw, dtype, shape, "F" if is_fortran else "C")


def _plain_dtype(text: Any) -> np.dtype[Any]:
    if not (isinstance(text, str) and (_PLAIN_TYPE.fullmatch(text) or text in np.sctypeDict)):
        raise ValueError(f"numbers of the kind {str(text)[:40]!r}")
    dtype = np.dtype(text)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return dtype


def array_of(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """Make an array of these bytes, which must be as many as the shape needs.

    Raises:
        ValueError, TypeError: they are not.
    """
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # of Python 2
    dtype = dtype.dtype if isinstance(dtype, _Dtype) else dtype
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not isinstance(dtype, np.dtype) or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError("an array of unknown type or shape")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of shape {str(shape)[:80]} in {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """Make an array of protocol 5; since NumPy 2.3 ``axes`` says how the axes of one in another order were swapped."""
    array = array_of(raw, dtype, shape, order)
    return array if axes is None else array.transpose(axes)


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    value = array_of(raw, dtype, (1,))[0]
    return value.item() if value.dtype.kind in "?biufcUS" else value


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if not (isinstance(kind, Global) and kind.name == "numpy.ndarray"):
        raise ValueError("an array of another class than NumPy's")
    return _Array()


_OF_CORE: Builders = {
    "multiarray._reconstruct": _reconstruct,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
NUMPY: Builders = {
    "numpy.dtype": _Dtype,
    **{f"numpy.{core}.{name}": build for core in ("core", "_core") for name, build in _OF_CORE.items()},
}
