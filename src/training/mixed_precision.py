"""Choose the precision of a run, and check that compiler and GPUs are there for its options."""

from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from src.errors import UserError
from src.options import Precision

# Precision -> dtype of the forward pass under autocast; None computes in float32 without autocast.
DTYPES: dict[Precision, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(
    flag: Precision | None, autocast_enabled: bool, device: torch.device, started_with: Precision | None = None
) -> Precision:
    """Choose the precision of a run: of the flag, else of the run that is resumed, else the device's default.

    Args:
        flag: ``--precision``, or None. The default is fp16 on a GPU, as in the released code, and float32 on a CPU.
        autocast_enabled: the released code's flag; without it the default is float32.
        device: where the model is.
        started_with: the precision of the run that is resumed; None for a new run.

    Raises:
        UserError: a CPU does not train in fp16.
    """
    default: Precision = "fp16" if device.type == "cuda" and autocast_enabled else "float32"
    precision = flag or started_with or default
    if precision == "fp16" and device.type == "cpu":
        if started_with == "fp16":
            raise UserError(
                "--resume: the run was started with --precision fp16, which a CPU does not train in; resume it on a "
                "GPU, or start a new run with --precision float32 and --overwrite"
            )
        raise UserError("--precision fp16: a CPU trains in float32 or bf16; choose one of them")
    return precision


def check_compiler() -> None:
    """Compile a small function.

    Raises:
        UserError: compilation fails, for example without a C++ compiler.
    """
    try:
        torch.compile(lambda x: (x + 1).sin())(torch.ones(8))
    except Exception as error:  # compilers raise any type
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"--compile: torch.compile does not work here ({reason.strip()}); install a C++ compiler (apt install g++) "
            "or leave the flag out"
        ) from error


def use_sync_bn(module: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Synchronise batch norm over all processes.

    Raises:
        UserError: there is a single process, or no GPU, which PyTorch needs for it.
    """
    if processes == 1 or device.type != "cuda":
        raise UserError(
            "--sync-bn: needs several processes on GPUs (torchrun --nproc_per_node=N train.py ...); leave the flag out"
        )
    return convert_sync_batchnorm(module)
