"""Read a pickle without running anything in it.

A pickle is a program for a small stack machine, which may import and call any function. This machine does not import:
a class or function of the pickle is a name (:class:`Global`). Calling a name builds a value with one of the caller's
builders, or else a stand-in (:class:`Foreign`), so that a file with objects of other programs beside its weights can be
read. A file that names a function of the operating system is refused as a whole: it was made to do harm.

Memory and time are bounded by the size of the pickle: nothing is allocated for a number that it merely states, and
values that refer to each other so that writing them out would explode are refused.
"""

from __future__ import annotations

import builtins
import codecs
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # as pickle itself uses them
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from src.errors import first_line

Builders = Mapping[str, Callable[..., Any]]

MOST_OPERATIONS = 2_000_000  # of a pickle
MOST_CONTAINERS = 400_000
MOST_LEVELS = 100
MOST_VALUES = 1_000_000  # written out, for pickles with fewer operations
_LONGEST_INTEGER = 512  # bits
_MOST_COPIES = 8  # of each value
_KEYS = (str, int, float, bool, bytes, type(None))
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_SIZED = (str, bytes, bytearray)
_CONTAINERS = (list, tuple, set, dict)

# Modules and built-in functions that no data needs, and every payload does
_OF_PAYLOADS = frozenset(
    {
        *("os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "shutil", "socket", "_socket"),
        *("io", "_io", "runpy", "pty", "ctypes", "_ctypes", "importlib", "webbrowser"),
    }
)
_BUILTINS_OF_DATA = frozenset(
    {
        "getattr",
        "unicode",
        "long",
        "xrange",
        *(name for name, value in vars(builtins).items() if isinstance(value, type)),
    }
)


class PickleError(ValueError):
    """The pickle is damaged, too large for its file, or made to run a program."""


class DamagedPickleError(PickleError):
    """The bytes are no pickle, or only a part of one."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function, as ``module.name``; it is not imported."""

    name: str


class Foreign(dict[Any, Any]):
    """Stand-in for an object that is not built; the entries are those of a dict of another class.

    Attributes:
        name: of its class or of the function that makes it.
        state: its attributes, or None.
        problem: why it could not be built, or None.
    """

    def __init__(self, name: str, problem: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.problem = problem
        self.state: Any = None

    def __str__(self) -> str:
        return self.name + (f" ({self.problem})" if self.problem else "")

    __repr__ = __str__


class Unbuilt(Foreign):
    """An object whose value is known when its state follows; builders return it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.places: list[int] = []  # in the memo

    def built(self, state: Any) -> Any:
        """Return the value for this state."""
        raise NotImplementedError


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
            target.update(map(_key, items))
        elif not isinstance(target, Foreign):  # of which only the entries of dicts are kept
            raise PickleError(f"it appends to a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise PickleError(f"it sets items of a {type(target).__name__}")
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def _global(self, name: str) -> None:
        name = _name_in_python_3(name)
        _refuse_payloads(name)
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
        name = _name_in_python_3(name)
        _refuse_payloads(name)
        self._call(Global(name), tuple(self._pop_mark()))

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
    """Yield name and argument of each instruction; other than pickletools, with all strings of Python 2 as Latin-1."""
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


def _key(value: Any) -> Any:
    """Return a key that can be hashed without recursion; one that stands for other objects."""
    if type(value) in _KEYS or (type(value) is tuple and all(type(item) in _KEYS for item in value)):
        return value
    return f"<{value.name if isinstance(value, (Global, Foreign)) else type(value).__name__}>"


def _name_in_python_3(name: str) -> str:
    """Return the name of today for one that pickles of protocol 2 use, such as ``__builtin__.set``."""
    module, _, rest = name.rpartition(".")
    if (module, rest) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, rest])
    return f"{IMPORT_MAPPING.get(module, module)}.{rest}"


def _refuse_payloads(name: str) -> None:
    module, _, rest = name.partition(".")
    if module in _OF_PAYLOADS or (module == "builtins" and rest not in _BUILTINS_OF_DATA):
        raise PickleError(f"it refers to {name}, as harmful files do and checkpoints never; it is not safe to load")


def check_extent(value: Any, most: int) -> None:
    """Check how much the value would be written out, with everything that is referred to several times repeated.

    Raises:
        PickleError: it would be more than ``most`` values or :data:`MOST_LEVELS` levels.
    """
    level = [value]
    for _ in range(MOST_LEVELS):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, (list, tuple, set)):
                below.extend(one)
            if len(below) > most:
                raise PickleError("its objects refer to each other so that writing them out would never end")
        most -= len(below)
        level = [one for one in below if isinstance(one, (dict, list, tuple, set))]
        if not level:
            return
    raise PickleError(f"its objects are nested deeper than {MOST_LEVELS} levels, or contain themselves")


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
    "FROZENSET": lambda machine, _: machine._container(set(map(_key, machine._pop_mark()))),
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
    "BUILD": lambda machine, _: machine._build(_),
    "PERSID": InertUnpickler._persistent,
    "BINPERSID": lambda machine, _: machine._persistent(machine.stack.pop()),
}


def _ordered(items: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in (items.items() if isinstance(items, dict) else items)}


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding in ("latin1", "latin-1") else "utf-8")


def _bytearray(content: bytes | str = b"", encoding: str = "latin1") -> bytes:
    if not isinstance(content, (bytes, bytearray, str)):  # a number would be a size to allocate
        raise PickleError("a bytearray in it is a number instead of bytes")
    return _encoded(content, encoding) if isinstance(content, str) else bytes(content)


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(map(_key, items))


_OF_BUILTINS: Builders = {
    "set": _set,
    "frozenset": _set,
    "bytearray": _bytearray,
    "bytes": _bytearray,
    "complex": complex,
}
CONTAINERS: Builders = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _ordered,
    "collections.defaultdict": lambda factory=None, items=(): _ordered(items),
    "_codecs.encode": _encoded,
    **{f"builtins.{name}": build for name, build in _OF_BUILTINS.items()},
}
