"""Make optional packages missing or broken in a process, as if they were not installed or did not fit the system."""

from __future__ import annotations

import importlib.machinery
import sys
from importlib.abc import Loader
from types import ModuleType
from typing import Any


class Broken(Loader):
    """Loads a package whose compiled part does not fit the system."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise OSError(f"{module.__name__}.so: undefined symbol: _Znwm")


class Without:
    """A finder of modules that does not find some packages, or finds broken ones."""

    def __init__(self, finder: Any, packages: tuple[str, ...], is_broken: bool) -> None:
        self._finder, self._packages, self._is_broken = finder, packages, is_broken

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in self._packages:
            return self._finder.find_spec(name, path, target)
        return importlib.machinery.ModuleSpec(name, Broken(), is_package=True) if self._is_broken else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def hide(packages: tuple[str, ...], is_broken: bool = False) -> None:
    """Make packages missing in this process, for good."""
    sys.meta_path[:] = [Without(finder, packages, is_broken) for finder in sys.meta_path]
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    if "tensorboard" in packages:
        sys.modules.pop("torch.utils.tensorboard", None)
