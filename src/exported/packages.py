"""The packages that exported models need; they are optional, so that training and tagging work without them."""

from __future__ import annotations

import importlib
from typing import Any

from src.errors import UserError


def need(name: str, what: str) -> Any:
    """Import an optional package.

    Args:
        name: of the module, which is the package's too (``onnxruntime``, ``onnxruntime.quantization``).
        what: the flag or file that needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise UserError(f"{what}: needs the {package} package; pip install {package}") from error
