"""Pickles of NumPy arrays and plain containers, read without running anything that they name.

Python's unpickler calls whatever a file names. This reader is an interpreter of its own for the part of the pickle
language (protocols 0 to 5, also as Python 2 wrote it) that arrays, strings, numbers and containers need. A name in the
file is a key of the table :data:`_CALLS` below, never an import, and what those functions make is checked against the
bytes that are really there: memory and time grow with the size of the file, not with the numbers in it.
"""

from __future__ import annotations

import codecs
import math
import os
import pickle
import re
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.errors import UserError, first_line
from src.text import on_screen, shortened

_LARGEST_FILE = 1 << 28  # bytes; the largest released file has 1.2 million
_MOST_INSTRUCTIONS = 5_000_000  # an array is a few, a list one or two for each item
_MOST_DIGITS = 24  # of a number in text; numbers have at most 64 bits
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d{1,9}|O[48]?)")
_MARK = object()  # the start of a sequence on the stack
_UNFIT = "its instructions do not fit together"


class _Python2Text(str):
    """A string of Python 2, which is text or the bytes of an array."""

    raw: bytes


class _Global(NamedTuple):
    """A function or class that the file names."""

    name: str


class _Dtype:
    """A data type, whose byte order follows after it was made."""

    def __init__(self, spec: object) -> None:
        if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
            raise ValueError(f"it has arrays of the type {_shown(spec)}")
        self.value = np.dtype(str(spec))

    def set_order(self, order: object) -> None:
        if order in ("<", ">"):
            self.value = self.value.newbyteorder(order)


class _UnfilledArray:
    """An array whose content follows after it was made."""


def read_array_pickle(path: str | Path) -> Any:
    """Read a pickle that holds NumPy arrays, numbers, strings and plain containers only.

    Ordered dictionaries are returned as plain ones, arrays read-only.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_FILE:
                raise UserError(f"cannot read {path}: no file of at most {_LARGEST_FILE:,} bytes")
            content = stream.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _Interpreter(content).run()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is not a pickle of arrays and plain containers: {first_line(error)}") from error


class _Interpreter:
    """Runs the instructions of a pickle on a stack."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._memo_keys: dict[int, list[int]] = {}  # id of an unfilled array -> where the memo has it
        # What is copied from objects that the file may name again and again: honest files copy each a few times
        self._copies_left = 4 * len(content) + 4096

    def run(self) -> Any:
        for _ in range(_MOST_INSTRUCTIONS):
            code = self.take(1)
            if code == pickle.STOP:
                return self.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise ValueError(f"it has the instruction {code!r}, which arrays and containers do not need")
            instruction(self)
        raise ValueError(f"it has more than {_MOST_INSTRUCTIONS:,} instructions")

    # Reading

    def take(self, count: int) -> bytes:
        taken = self._content[self._place : self._place + count]
        if len(taken) < count:
            raise ValueError("it ends in the middle")
        self._place += count
        return taken

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        end = self._content.find(b"\n", self._place)
        if end < 0:
            raise ValueError("it ends in the middle")
        line, self._place = self._content[self._place : end], end + 1
        return line

    # The stack and the memo

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError(_UNFIT)
        return value

    def pop_any(self) -> None:
        self._stack.pop()

    def pop_to_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                items = self._stack[place + 1 :]
                del self._stack[place:]
                return items
        raise ValueError(_UNFIT)

    def top(self, kind: type) -> Any:
        value = self._stack[-1]
        if not isinstance(value, kind):
            raise ValueError(_UNFIT)
        return value

    def remember(self, key: int) -> None:
        value = self._memo[key] = self._stack[-1]
        if isinstance(value, _UnfilledArray):
            self._memo_keys.setdefault(id(value), []).append(key)

    def recall(self, key: int) -> None:
        self.push(self._memo[key])

    def remember_next(self) -> None:
        self.remember(len(self._memo))

    # What the instructions do

    def copy(self, count: int) -> None:
        """Count elements that are copied from an object that may be shared."""
        self._copies_left -= count
        if self._copies_left < 0:
            raise ValueError("it copies the same things over and over")

    def push_tuple(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def add(self, items: list[Any]) -> None:
        self.top(set).update(map(self.hashable, items))

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise ValueError(_UNFIT)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.hashable(key)] = value

    def hashable(self, value: Any) -> Any:
        """Return a key of a dict or member of a set; hashing nested tuples can take forever."""
        if isinstance(value, tuple):
            self.copy(len(value))
            if all(map(_is_scalar, value)):
                return value
        elif _is_scalar(value):
            return value
        raise ValueError(f"it has {type(value).__name__} objects as keys")

    def name(self, module: object, name: object) -> None:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
        if full not in _CALLS:
            raise ValueError(f"it refers to {_shown(f'{module}.{name}')}")
        self.push(_Global(full))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ValueError(_UNFIT)
        self.push(_CALLS[function.name](self, *arguments))

    def fill(self) -> None:
        """Give the array or data type on the stack its state."""
        state = self.pop()
        target = self._stack[-1]
        if isinstance(target, _Dtype):
            target.set_order(state[1])
        elif isinstance(target, _UnfilledArray):
            shape, dtype, is_fortran, data = state[-4:]
            self._stack[-1] = array = self.array(data, dtype, shape, "F" if is_fortran else "C")
            for key in self._memo_keys.pop(id(target), ()):
                self._memo[key] = array
        else:
            raise ValueError(f"it sets the state of {type(target).__name__} objects")

    def array(self, data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
        """Make an array of the bytes or, for objects, of the list that holds its content."""
        kind = dtype.value
        fits = isinstance(shape, tuple) and all(type(side) is int and 0 <= side <= len(self._content) for side in shape)
        count = math.prod(shape) if fits else 0
        if kind.hasobject:
            if not (fits and isinstance(data, list) and len(data) == count):
                raise ValueError("it has an array whose shape does not fit its content")
            self.copy(count)
            flat = np.fromiter(data, dtype=object, count=count)
        else:
            content = _as_bytes(data)
            if not fits or kind.itemsize == 0 or len(content) != count * kind.itemsize:
                raise ValueError("it has an array whose shape does not fit its content")
            flat = np.frombuffer(content, kind) if count else np.empty(0, kind)
            _check_letters(flat)
        return flat.reshape(shape, order="F" if order == "F" else "C")


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (str, bytes, int, float, np.bool_, np.number))


def _shown(text: object) -> str:
    return shortened(on_screen(text), 80) if isinstance(text, str) else f"a {type(text).__name__}"


def _as_bytes(data: Any) -> bytes | bytearray:
    if isinstance(data, _Python2Text):
        return data.raw
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(f"it has an array with {type(data).__name__} content")
    return data


def _check_letters(array: np.ndarray) -> None:
    """Refuse what is no Unicode character, which NumPy would only notice later."""
    if array.dtype.kind == "U" and array.size:
        codes = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if codes.max() > 0x10FFFF:
            raise ValueError("it has text that is none")


def _integer(digits: bytes) -> int:
    if digits in (b"00", b"01"):  # how protocols 0 and 1 write False and True
        return digits == b"01"
    if len(digits) > _MOST_DIGITS:
        raise ValueError("it has a number of more than 64 bits")
    return int(digits.removesuffix(b"L"))


def _long(data: bytes) -> int:
    if len(data) > 9:
        raise ValueError("it has a number of more than 64 bits")
    return int.from_bytes(data, "little", signed=True)


def _python_2_text(data: bytes) -> str:
    try:
        text = _Python2Text(data.decode("utf-8"))
    except UnicodeDecodeError:
        text = _Python2Text(data.decode("latin-1"))
    text.raw = data
    return text


def _quoted(line: bytes) -> str:
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise ValueError("it has a string without quotes")
    return _python_2_text(codecs.escape_decode(line[1:-1])[0])


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


# Functions that a file may name. Each gets the interpreter and the arguments in the file.


def _not_called(_: _Interpreter, *__: object) -> object:
    raise ValueError(_UNFIT)


def _make_set(machine: _Interpreter, items: Any = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise ValueError(_UNFIT)
    machine.copy(len(items))
    return set(map(machine.hashable, items))


def _make_dict(machine: _Interpreter, pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)):
        raise ValueError(_UNFIT)
    machine.copy(len(pairs))
    return {machine.hashable(key): value for key, value in pairs}


def _make_bytes(machine: _Interpreter, data: Any = b"", encoding: str = "latin-1") -> bytes:
    """Bytes, a bytearray, or ``encode``: before protocol 3, pickles hold bytes as Latin-1 text."""
    if encoding not in ("latin1", "latin-1") or not isinstance(data, (bytes, str)):
        raise ValueError(_UNFIT)
    machine.copy(len(data))
    return data.encode("latin-1") if isinstance(data, str) else data


def _make_scalar(machine: _Interpreter, dtype: Any, data: Any = b"") -> Any:
    kind, content = dtype.value, _as_bytes(data)
    if kind.hasobject or len(content) != kind.itemsize:
        raise ValueError("it has a number whose size does not fit its type")
    machine.copy(len(content))
    if not content:
        return kind.type()
    array = np.frombuffer(content, kind)
    _check_letters(array)
    return array[0]


def _from_buffer(machine: _Interpreter, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    array = machine.array(data, dtype, shape, order)
    return array if axes is None else array.transpose(axes)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "builtins.set": _make_set,
    "builtins.frozenset": lambda machine, *items: frozenset(_make_set(machine, *items)),
    "builtins.bytes": _make_bytes,
    "builtins.bytearray": _make_bytes,
    "collections.OrderedDict": _make_dict,
    "_codecs.encode": _make_bytes,
    "numpy.ndarray": _not_called,
    "numpy.dtype": lambda _, spec, *__: _Dtype(spec),
    "numpy.core.multiarray._reconstruct": lambda *_: _UnfilledArray(),
    "numpy.core.multiarray.scalar": _make_scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}

_Instruction = Callable[[_Interpreter], object]


def _pushes(read: Callable[[_Interpreter], object]) -> _Instruction:
    return lambda machine: machine.push(read(machine))


def _sized(layout: str, convert: Callable[[bytes], object]) -> _Instruction:
    """Push what ``convert`` makes of data whose length stands before it."""
    return lambda machine: machine.push(convert(machine.take(machine.number(layout))))


_INSTRUCTIONS: Mapping[bytes, _Instruction] = {
    pickle.PROTO: lambda machine: machine.take(1),
    pickle.FRAME: lambda machine: machine.take(8),
    # The stack
    pickle.MARK: lambda machine: machine.push(_MARK),
    pickle.POP: lambda machine: machine.pop_any(),
    pickle.POP_MARK: lambda machine: machine.pop_to_mark(),
    pickle.DUP: lambda machine: machine.push(machine.top(object)),
    # The memo
    pickle.PUT: lambda machine: machine.remember(_integer(machine.line())),
    pickle.BINPUT: lambda machine: machine.remember(machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.remember(machine.number("<I")),
    pickle.MEMOIZE: lambda machine: machine.remember_next(),
    pickle.GET: lambda machine: machine.recall(_integer(machine.line())),
    pickle.BINGET: lambda machine: machine.recall(machine.number("<B")),
    pickle.LONG_BINGET: lambda machine: machine.recall(machine.number("<I")),
    # Constants and numbers
    pickle.NONE: _pushes(lambda _: None),
    pickle.NEWTRUE: _pushes(lambda _: True),
    pickle.NEWFALSE: _pushes(lambda _: False),
    pickle.INT: _pushes(lambda machine: _integer(machine.line())),
    pickle.BININT: _pushes(lambda machine: machine.number("<i")),
    pickle.BININT1: _pushes(lambda machine: machine.number("<B")),
    pickle.BININT2: _pushes(lambda machine: machine.number("<H")),
    pickle.LONG: _pushes(lambda machine: _integer(machine.line())),
    pickle.LONG1: _sized("<B", _long),
    pickle.LONG4: _sized("<I", _long),
    pickle.FLOAT: _pushes(lambda machine: float(machine.line())),
    pickle.BINFLOAT: _pushes(lambda machine: machine.number(">d")),
    # Text and bytes
    pickle.STRING: _pushes(lambda machine: _quoted(machine.line())),
    pickle.BINSTRING: _sized("<I", _python_2_text),
    pickle.SHORT_BINSTRING: _sized("<B", _python_2_text),
    pickle.UNICODE: _pushes(lambda machine: machine.line().decode("raw-unicode-escape")),
    pickle.BINUNICODE: _sized("<I", _utf8),
    pickle.SHORT_BINUNICODE: _sized("<B", _utf8),
    pickle.BINUNICODE8: _sized("<Q", _utf8),
    pickle.BINBYTES: _sized("<I", bytes),
    pickle.SHORT_BINBYTES: _sized("<B", bytes),
    pickle.BINBYTES8: _sized("<Q", bytes),
    pickle.BYTEARRAY8: _sized("<Q", bytes),
    # Containers
    pickle.EMPTY_LIST: _pushes(lambda _: []),
    pickle.LIST: _pushes(lambda machine: machine.pop_to_mark()),
    pickle.APPEND: lambda machine: machine.extend([machine.pop()]),
    pickle.APPENDS: lambda machine: machine.extend(machine.pop_to_mark()),
    pickle.EMPTY_TUPLE: lambda machine: machine.push_tuple(0),
    pickle.TUPLE1: lambda machine: machine.push_tuple(1),
    pickle.TUPLE2: lambda machine: machine.push_tuple(2),
    pickle.TUPLE3: lambda machine: machine.push_tuple(3),
    pickle.TUPLE: _pushes(lambda machine: tuple(machine.pop_to_mark())),
    pickle.EMPTY_DICT: _pushes(lambda _: {}),
    pickle.DICT: lambda machine: machine.push_dict(machine.pop_to_mark()),
    pickle.SETITEM: lambda machine: machine.set_items([machine.pop(), machine.pop()][::-1]),
    pickle.SETITEMS: lambda machine: machine.set_items(machine.pop_to_mark()),
    pickle.EMPTY_SET: _pushes(lambda _: set()),
    pickle.ADDITEMS: lambda machine: machine.add(machine.pop_to_mark()),
    pickle.FROZENSET: _pushes(lambda machine: frozenset(map(machine.hashable, machine.pop_to_mark()))),
    # Names, and the calls of what stands for them here
    pickle.GLOBAL: lambda machine: machine.name(_utf8(machine.line()), _utf8(machine.line())),
    pickle.STACK_GLOBAL: lambda machine: machine.name(*[machine.pop(), machine.pop()][::-1]),
    pickle.REDUCE: lambda machine: machine.call(),
    pickle.BUILD: lambda machine: machine.fill(),
}
