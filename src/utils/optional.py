"""Import of packages that the project does not require."""

from __future__ import annotations

import importlib
from typing import Any

from src.errors import UserError, first_line


def import_extra(module: str, install: str, needed_by: str) -> Any:
    """Import a module that may be missing.

    Args:
        module: its name.
        install: its name for ``pip install``.
        needed_by: flag and value, or file, for the error message.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{needed_by}: {first_line(error)}; run: pip install {install}") from error
    except Exception as error:  # its compiled part fits another system or another package
        raise UserError(
            f"{needed_by}: {module} is installed but broken ({first_line(error)}); run: pip install --force-reinstall "
            f"{install}"
        ) from error
