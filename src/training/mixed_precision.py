"""Which arithmetic a run uses, and what must be there for it."""

from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from src.errors import UserError

_DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(name: str | None, autocast_enabled: bool, device: torch.device) -> torch.dtype | None:
    """The dtype of the forward pass under autocast; None is float32.

    Args:
        name: ``float32``, ``bf16``, ``fp16``, or None: fp16 on a GPU, as in the released code, float32 on a CPU.
        autocast_enabled: the released code's flag; without it float32.
        device: where the model is.

    Raises:
        UserError: a CPU does not compute in half precision.
    """
    if name is None:
        return torch.float16 if device.type == "cuda" and autocast_enabled else None
    if name == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16: a CPU computes in float32 or bf16; give one of them")
    return _DTYPES[name]


def check_compiler() -> None:
    """Compile a function of one line.

    Raises:
        UserError: that fails, as it does where there is no C++ compiler.
    """
    try:
        torch.compile(lambda x: (x + 1).sin())(torch.ones(8))
    except Exception as error:  # what comes out of compilers is of any type
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"--compile: torch.compile does not work here ({reason.strip()}); install a C++ compiler (apt install g++) "
            "or leave the flag out"
        ) from error


def use_sync_bn(module: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Batch norm over the images of all processes.

    Raises:
        UserError: there is one process, or no GPU: PyTorch has it on GPUs only.
    """
    if processes == 1 or device.type != "cuda":
        raise UserError(
            "--sync-bn: is for several processes on GPUs (torchrun --nproc_per_node=N train.py ...); leave the flag out"
        )
    return convert_sync_batchnorm(module)
