"""Names of classes and functions in a pickle: in their form of today, and never those of payloads."""

from __future__ import annotations

import builtins
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # as pickle itself uses them

from src.utils.inert_values import PickleError

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


def safe_name(name: str) -> str:
    """Return the name of today for one that pickles of protocol 2 use, such as ``__builtin__.set``.

    Raises:
        PickleError: no data needs what it names, and every payload does.
    """
    module, _, rest = name.rpartition(".")
    if (module, rest) in NAME_MAPPING:
        name = ".".join(NAME_MAPPING[module, rest])
    else:
        name = f"{IMPORT_MAPPING.get(module, module)}.{rest}"
    module, _, rest = name.partition(".")
    if module in _OF_PAYLOADS or (module == "builtins" and rest not in _BUILTINS_OF_DATA):
        raise PickleError(f"it refers to {name}, as harmful files do and checkpoints never; it is not safe to load")
    return name
