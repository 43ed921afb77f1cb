"""Read weight files safely, and load them strictly."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.errors import UserError, name_some

# Raised by torch.load for damaged files and files of other kinds (found by trial).
_UNREADABLE = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def _safe_globals() -> list[Any]:
    """List NumPy's scalar types, which release files may hold; loading them runs no code."""
    from numpy._core.multiarray import scalar

    return [
        scalar,
        np.dtype,
        np.dtypes.Int64DType,
        np.dtypes.Int32DType,
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
    ]


def read_state_file(path: str | Path) -> dict[str, Any]:
    """Load a PyTorch file that holds tensors and builtin containers only; nothing in it is executed.

    Raises:
        UserError: the file is missing, cut short, no PyTorch file, or holds other Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file: {path}; give the path of a checkpoint")
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises to load the file unsafely.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        what = f"; it refers to {refused[1]}" if refused else ""
        raise UserError(
            f"{path} is no checkpoint, or holds other objects than tensors and plain containers, which are not safe to "
            f"load{what}"
        ) from error
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} cannot be read; it is cut short or no PyTorch file ({reason})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return dict(content)


def tensors_of(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Find the state dict of a loaded file: under ``model``, under ``state_dict``, or the file itself.

    The prefix ``module.`` of multi-GPU training is removed.

    Raises:
        UserError: the file holds no state dict.
    """
    state = content.get("model", content.get("state_dict", content))
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict of tensors (its keys: {name_some([str(key) for key in content])})")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict whose keys and shapes must be exactly those of the module.

    Raises:
        UserError: keys are missing, unexpected, or of another shape; the message lists them.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {kind}: {name_some(names)}"
        for kind, names in (("missing keys", missing), ("unexpected keys", unexpected), ("wrong shapes", reshaped))
        if names
    ]
    if problems:
        raise UserError(f"{path} does not fit the model: " + "; ".join(problems))
    module.load_state_dict(dict(state), strict=True)
