"""matplotlib with its own settings: a ``matplotlibrc`` may lie in the folder that a user happens to work in.

Settings can start programs (LaTeX on the tags), and one mistake in them fails the import. Everything of matplotlib is
imported from here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def _unseen_settings() -> Iterator[None]:
    """Import matplotlib within the block without the settings of the folder, the user and the environment."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None or "matplotlib" in sys.modules:
        yield
        return
    backend, folder = os.environ.pop("MPLBACKEND", None), os.getcwd()
    os.chdir(Path(spec.origin).parent / "mpl-data")  # its matplotlibrc is found first
    try:
        yield
    finally:
        os.chdir(folder)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


with _unseen_settings():
    matplotlib = importlib.import_module("matplotlib")
logging.getLogger("matplotlib").setLevel(logging.ERROR)  # what it says of font caches is of no use

from matplotlib import font_manager, ft2font  # noqa: E402 -- after the settings
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import LogLocator, MaxNLocator  # noqa: E402

__all__ = ["Axes", "Figure", "LogLocator", "MaxNLocator", "font_manager", "ft2font", "own_settings"]


_DEFAULTS = {name: matplotlib.rcParamsDefault[name] for name in matplotlib.rcParamsDefault if name != "backend"}


@contextlib.contextmanager
def own_settings(**changes: Any) -> Iterator[None]:
    """Draw with matplotlib's defaults and ``changes``, whatever a program around this one has set; also a decorator."""
    with matplotlib.rc_context({**_DEFAULTS, **changes}):
        yield
