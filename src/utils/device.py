"""Choose a device and seed random number generators."""

from __future__ import annotations

import random

import numpy as np
import torch

from src.errors import UserError


def choose_device(name: str) -> torch.device:
    """``auto`` (a CUDA GPU where there is one), ``cpu`` or ``cuda``.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this PyTorch sees no CUDA GPU; use --device cpu, or install a CUDA build of torch"
        )
    return torch.device(name)


def seed_everything(seed: int | None) -> None:
    """Seed Python, NumPy and PyTorch; None leaves them random.

    Raises:
        UserError: PyTorch takes no number as large.
    """
    if seed is not None:
        if not -(2**63) <= seed < 2**64:
            raise UserError(f"--seed {seed}: must be from -2**63 to 2**64 - 1")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
