"""Read a pickle without running anything in it.

A pickle is a program for a small stack machine, which may import and call any function. This machine does not import:
a class or function of the pickle is a name (:class:`Global`). Calling a name builds a value with one of the caller's
builders, or else a stand-in (:class:`Foreign`), so that a file with objects of other programs beside its weights can be
read. A file that names a function of the operating system is refused as a whole: it was made to do harm.

Memory and time are bounded by the size of the pickle: nothing is allocated for a number that it merely states, and
values that refer to each other so that writing them out would explode are refused.
"""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from src.errors import first_line
from src.utils.inert_names import safe_name
from src.utils.inert_values import (
    MOST_LEVELS,
    Builders,
    DamagedPickleError,
    Foreign,
    Global,
    PickleError,
    Unbuilt,
    check_extent,
    plain_key,
)

MOST_OPERATIONS = 2_000_000  # of a pickle
MOST_CONTAINERS = 400_000
MOST_VALUES = 1_000_000  # written out, for pickles with fewer operations
_LONGEST_INTEGER = 512  # bits
_MOST_COPIES = 8  # of each value
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_SIZED = (str, bytes, bytearray)
_CONTAINERS = (list, tuple, set, dict)


@dataclass
class InertUnpickler:
    """The machine; :meth:`load` runs one pickle from the stream's position.

    Args:
        stream: the bytes; what follows the pickle is not read.
        builders: name -> function that makes the value of a call; an exception in it gives a stand-in.
        constants: name -> value that stands for the name itself.
        persistent_load: called with each persistent id.
    """

    stream: BinaryIO
    builders: Builders = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    persistent_load: Callable[[Any], Any] | None = None

    def load(self) -> Any:
        """Return the value of the pickle.

        Raises:
            PickleError: see there.
        """
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.containers = self.size = self.copied = 0
        operations = 0
        try:
            for name, argument in _instructions(self.stream):
                operations += 1
                self.size += len(argument) if isinstance(argument, _SIZED) else 1
                if operations > MOST_OPERATIONS or self.containers > MOST_CONTAINERS:
                    raise PickleError("it holds millions of objects, which no checkpoint does")
                if name in _LITERALS:
                    self.stack.append(_bounded(argument))
                else:
                    _OPERATIONS[name](self, argument)
            value = self.stack.pop()
        except PickleError:
            raise
        except (MemoryError, RecursionError):
            raise PickleError("it is too large or nested too deeply") from None
        except Exception as error:  # whatever a damaged pickle leads to
            raise DamagedPickleError(first_line(error)) from error
        check_extent(value, max(MOST_VALUES, operations))
        return value

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def _drop_mark(self, _: Any) -> None:
        self._pop_mark()

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._pop_mark()

    def _tuple(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _container(self, value: Any) -> None:
        self.containers += 1
        self.stack.append(value)

    def _append(self, items: Iterable[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(plain_key, items))
        elif not isinstance(target, Foreign):  # of which only the entries of dicts are kept
            raise PickleError(f"it appends to a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise PickleError(f"it sets items of a {type(target).__name__}")
        target.update(zip(map(plain_key, items[::2]), items[1::2], strict=True))

    def _global(self, name: str) -> None:
        name = safe_name(name)
        self.stack.append(self.constants.get(name, Global(name)))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleError("a name in it is no text")
        self._global(f"{module}.{name}")

    def _call(self, function: Any, arguments: Any) -> None:
        self.containers += 1
        self._count_copies(arguments)
        name = function.name if isinstance(function, (Global, Foreign)) else type(function).__name__
        builder = self.builders.get(name) if isinstance(function, Global) else None
        try:
            value = Foreign(name) if builder is None else builder(*arguments)
        except PickleError:
            raise
        except Exception as error:  # noqa: BLE001 -- arguments of another version, say
            value = Foreign(name, first_line(error))
        self.stack.append(value)

    def _count_copies(self, arguments: Any) -> None:
        """Bound what builders copy from values that the pickle may name again and again."""
        self.copied += sum(len(argument) for argument in arguments if isinstance(argument, (*_SIZED, *_CONTAINERS)))
        if self.copied > _MOST_COPIES * (self.size + MOST_LEVELS):
            raise PickleError("it copies the same values over and over")

    def _reduce(self, _: Any) -> None:
        arguments = self.stack.pop()
        self._call(self.stack.pop(), arguments)

    def _new_with_keywords(self, _: Any) -> None:
        del self.stack[-1]  # no builder takes keywords
        self._reduce(None)

    def _instance(self, name: str) -> None:
        self._call(Global(safe_name(name)), tuple(self._pop_mark()))

    def _object(self, _: Any) -> None:
        items = self._pop_mark()
        self._call(items[0], tuple(items[1:]))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Unbuilt):
            try:
                value = target.built(state)
            except Exception as error:  # noqa: BLE001 -- the state of another version, say
                value = Foreign(target.name, first_line(error))
            self.stack[-1] = value
            self.memo.update(dict.fromkeys(target.places, value))
        elif isinstance(target, Foreign):
            target.state = state

    def _put(self, place: int | None) -> None:
        value = self.stack[-1]
        place = len(self.memo) if place is None else place
        if isinstance(value, Unbuilt):
            value.places.append(place)
        self.memo[place] = value

    def _persistent(self, identifier: Any) -> None:
        if self.persistent_load is None:
            raise PickleError("it refers to objects outside it")
        self.stack.append(self.persistent_load(identifier))


def _instructions(stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each instruction; unlike in pickletools, all strings of Python 2 are Latin-1."""
    name = ""
    while name != "STOP":
        code = stream.read(1)
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None:
            raise DamagedPickleError(f"it has no instruction of the code {code!r}" if code else "it ends in the middle")
        name = opcode.name
        if name == "STRING":
            quoted = stream.readline().strip()
            yield name, codecs.escape_decode(quoted[1:-1])[0].decode("latin-1")
        else:
            yield name, opcode.arg.reader(stream) if opcode.arg else None


def _bounded(value: Any) -> Any:
    is_long = type(value) is int and value.bit_length() > _LONGEST_INTEGER
    return Foreign("int", f"of {value.bit_length()} bits") if is_long else value


def _single(machine: InertUnpickler, _: Any) -> None:
    machine._append([machine.stack.pop()])


def _many(machine: InertUnpickler, _: Any) -> None:
    machine._append(machine._pop_mark())


def _item(machine: InertUnpickler, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine._set_items([key, value])


def _dict(machine: InertUnpickler, _: Any) -> None:
    items = machine._pop_mark()
    machine._container({})
    machine._set_items(items)


_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    }
)
_OPERATIONS: dict[str, Callable[[InertUnpickler, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_LIST": lambda machine, _: machine._container([]),
    "EMPTY_DICT": lambda machine, _: machine._container({}),
    "EMPTY_SET": lambda machine, _: machine._container(set()),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "LIST": lambda machine, _: machine._container(machine._pop_mark()),
    "FROZENSET": lambda machine, _: machine._container(set(map(plain_key, machine._pop_mark()))),
    "DICT": _dict,
    "TUPLE": lambda machine, _: machine._push(tuple(machine._pop_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": _single,
    "APPENDS": _many,
    "ADDITEMS": _many,
    "SETITEM": _item,
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_mark()),
    "MARK": InertUnpickler._mark,
    "POP": InertUnpickler._pop,
    "POP_MARK": InertUnpickler._drop_mark,
    "DUP": lambda machine, _: machine._push(machine.stack[-1]),
    "PUT": InertUnpickler._put,
    "BINPUT": InertUnpickler._put,
    "LONG_BINPUT": InertUnpickler._put,
    "MEMOIZE": InertUnpickler._put,
    "GET": lambda machine, place: machine._push(machine.memo[place]),
    "BINGET": lambda machine, place: machine._push(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine._push(machine.memo[place]),
    "GLOBAL": lambda machine, name: machine._global(name.replace(" ", ".")),
    "STACK_GLOBAL": InertUnpickler._stack_global,
    "REDUCE": InertUnpickler._reduce,
    "NEWOBJ": InertUnpickler._reduce,
    "NEWOBJ_EX": InertUnpickler._new_with_keywords,
    "INST": lambda machine, name: machine._instance(name.replace(" ", ".")),
    "OBJ": InertUnpickler._object,
    "BUILD": lambda machine, _: machine._build(_),  # by name, as subclasses have their own
    "PERSID": InertUnpickler._persistent,
    "BINPERSID": lambda machine, _: machine._persistent(machine.stack.pop()),
}
