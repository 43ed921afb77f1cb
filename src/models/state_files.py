"""Read weight files safely, find the weights in them, and load them strictly."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from src.errors import UserError, first_line, name_some
from src.models.torch_files import read_torch_file
from src.text import shortened
from src.utils.digest import open_verified
from src.utils.inert_values import DamagedPickleError, Foreign, PickleError

# First bytes of files that are taken for checkpoints -> what they are
_OTHER_FILES = {
    b"version https://git-lfs": "it is a Git LFS pointer instead of the file: run git lfs pull",
    b"<": "it is a web page; download the file itself",
    b"\x1f\x8b": "it is compressed with gzip; decompress it",
    b"\x89HDF": "it is an HDF5 file, perhaps of Keras; weights of PyTorch are needed",
}
# Bookkeeping of batch norms, which inference does not use and old or exported files leave out
_BOOKKEEPING = "num_batches_tracked"


def read_state_file(path: str | Path, *, verify: bool = True) -> dict[str, Any]:
    """Load a PyTorch or safetensors file of tensors and plain containers; nothing in it is executed.

    Other objects become stand-ins (:class:`src.utils.inert_values.Foreign`). A SHA-256 in the file's side file is
    compared first, and the checksums within the file.

    Args:
        path: the file.
        verify: False reads a file that differs from its side file too.

    Raises:
        UserError: the file is missing, differs from its side file, is cut short, no such file, or made to do harm.
    """
    if not os.path.isfile(path):
        raise UserError(f"no such file: {path}; give the path of a checkpoint")
    with open_verified(path) if verify else open(path, "rb") as stream:
        try:
            content = read_torch_file(stream, os.fstat(stream.fileno()).st_size)
        except Exception as error:  # of a dozen kinds, for damaged files and files of other programs
            raise UserError(f"{path} cannot be read; {_what_is_wrong(path, error)}") from error
    if isinstance(content, Foreign):  # a whole model, or a dict of another class
        return {"model": content} if content.state is not None else dict(content)
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} is no checkpoint: it holds one value of type {type(content).__name__} instead of a dict"
        )
    return dict(content)


def _what_is_wrong(path: str | Path, error: Exception) -> str:
    with open(path, "rb") as stream:
        start = stream.read(64).lstrip()
    if not start.strip(b"\0"):
        return "it is empty, or begins with zeros only; copy or download it again" if start else "it is empty"
    for sign, meaning in _OTHER_FILES.items():
        if start.startswith(sign):
            return meaning
    if isinstance(error, PickleError) and not isinstance(error, DamagedPickleError):
        return str(error)
    if tarfile.is_tarfile(path):
        return "it is a tar archive; if PyTorch before 0.2 saved it, load it there and save it again"
    return f"it is cut short or no PyTorch file ({first_line(error)})"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict whose keys and shapes must be exactly those of the module.

    Counters of batch norms may be missing. A module on the ``meta`` device is only compared.

    Raises:
        UserError: keys are missing, unexpected, or of another shape, or weights are not finite; the message lists them.
    """
    own = module.state_dict()
    strangers = [key for key in state if key not in own and not key.endswith(_BOOKKEEPING)]
    expected = {key: tuple(tensor.shape) for key, tensor in own.items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    mistakes = {
        "missing keys": [key for key in expected if key not in found and not key.endswith(_BOOKKEEPING)],
        "unexpected keys": [shortened(key, 80) for key in strangers],
        "wrong shapes": [
            f"{key} {found[key]} instead of {shape}"
            for key, shape in expected.items()
            if found.get(key, shape) != shape
        ],
        "wrong types": [
            f"{key} {state[key].dtype} instead of {tensor.dtype}"
            for key, tensor in own.items()
            if key in found and tensor.is_floating_point() and not state[key].is_floating_point()
        ],
    }
    problems = [f"{len(names)} {kind}: {name_some(names)}" for kind, names in mistakes.items() if names]
    if problems:
        raise UserError(f"{path} does not fit the model: " + "; ".join(problems))
    if any(tensor.is_meta for tensor in own.values()):
        return
    check_finite(state, path)
    module.load_state_dict({key: state.get(key, tensor) for key, tensor in own.items()}, strict=True)


def check_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise a :class:`UserError` that names the weights that are NaN or infinite, and the variances below zero."""
    floats = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    if bad := [key for key, tensor in floats.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"{path} has weights that are NaN or infinite: {name_some(bad)}; its training failed or the file is "
            "damaged: use an earlier one"
        )
    if bad := [key for key, tensor in floats.items() if key.endswith("running_var") and (tensor < 0).any()]:
        raise UserError(f"{path} has variances below zero: {name_some(bad)}; the file is damaged: use another one")
