"""Import optional packages, which only exported models need."""

from __future__ import annotations

import importlib
from typing import Any

from src.errors import UserError


def need(name: str, what: str) -> Any:
    """Import an optional package.

    Args:
        name: module of the package (``onnxruntime``, ``onnxruntime.quantization``).
        what: flag or file that needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise UserError(f"{what}: needs the {package} package; pip install {package}") from error
