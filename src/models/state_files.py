"""Read weight files safely, and load them strictly."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor, nn

from src.errors import UserError, first_line, name_some

# NumPy's scalar types, which release files may hold; loading them runs no code
_SAFE_GLOBALS: list[Any] = [
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
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises to load the file unsafely.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} is no checkpoint, or holds other objects than tensors and plain containers, which are not safe to "
            "load" + (f"; it refers to {refused[1]}" if refused else "")
        ) from error
    except Exception as error:  # of a dozen kinds, for damaged files and files of other programs
        raise UserError(f"{path} cannot be read; it is cut short or no PyTorch file ({first_line(error)})") from error
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
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    mistakes = {
        "missing keys": [key for key in expected if key not in found],
        "unexpected keys": [key for key in found if key not in expected],
        "wrong shapes": [
            f"{key} {found[key]} instead of {shape}"
            for key, shape in expected.items()
            if found.get(key, shape) != shape
        ],
    }
    problems = [f"{len(names)} {kind}: {name_some(names)}" for kind, names in mistakes.items() if names]
    if problems:
        raise UserError(f"{path} does not fit the model: " + "; ".join(problems))
    module.load_state_dict(dict(state), strict=True)
