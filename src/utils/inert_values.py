"""What :mod:`src.utils.inert_pickle` makes of a pickle: names, stand-ins, and builtin containers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Builders = Mapping[str, Callable[..., Any]]

MOST_LEVELS = 100
_KEYS = (str, int, float, bool, bytes, type(None))


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


def plain_key(value: Any) -> Any:
    """Return a key that can be hashed without recursion; one that stands for other objects."""
    if type(value) in _KEYS or (type(value) is tuple and all(type(item) in _KEYS for item in value)):
        return value
    return f"<{value.name if isinstance(value, (Global, Foreign)) else type(value).__name__}>"


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


def _ordered(items: Any = ()) -> dict[Any, Any]:
    return {plain_key(key): value for key, value in (items.items() if isinstance(items, dict) else items)}


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding in ("latin1", "latin-1") else "utf-8")


def _bytearray(content: bytes | str = b"", encoding: str = "latin1") -> bytes:
    if not isinstance(content, (bytes, bytearray, str)):  # a number would be a size to allocate
        raise PickleError("a bytearray in it is a number instead of bytes")
    return _encoded(content, encoding) if isinstance(content, str) else bytes(content)


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(map(plain_key, items))


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
