"""Choose a device and seed random number generators."""

from __future__ import annotations

import random

import numpy as np
import torch

from src.errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the device for ``auto`` (a CUDA GPU if available), ``cpu`` or ``cuda``.

    Raises:
        UserError: ``cuda`` without a CUDA GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this PyTorch sees no CUDA GPU; use --device cpu, or install a CUDA build of torch"
        )
    return torch.device(name)


def seed_everything(seed: int | None) -> None:
    """Seed the random generators of Python, NumPy and PyTorch; None leaves them as they are.

    Raises:
        UserError: the seed is out of PyTorch's range.
    """
    if seed is not None:
        if not -(2**63) <= seed < 2**64:
            raise UserError(f"--seed {seed}: must be from -2**63 to 2**64 - 1")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
