"""Checkpoints, training states, digests, and the metadata of exported models."""

from __future__ import annotations

import io
import tempfile
from functools import cache
from pathlib import Path

import safetensors.torch
import torch

from src.checkpoint import load_checkpoint
from src.checkpoint.inspect import inspect_file
from src.models.layouts import tensors_of
from src.models.state_files import read_state_file
from tests.fuzz.harness import Target
from tests.helpers import save_tiny


def _torch(tree: object) -> bytes:
    stream = io.BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


@cache
def _checkpoint(half: bool = False) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.ckpt"
        save_tiny(path, half=half, extra_words=("sea", "sun"), extra_vectors=torch.eye(4, 2))
        return path.read_bytes()


def targets() -> tuple[Target, ...]:
    """Return the readers of checkpoints."""
    content, compact = (torch.load(io.BytesIO(_checkpoint(half)), weights_only=True) for half in (False, True))
    side = {name: value for name, value in content.items() if name != "state_dict"}
    weights = {"state_dict": {"conv.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}, "epoch": 3, "arch": "resnet"}
    return (
        Target("checkpoint", "m.ckpt", (content, compact), load_checkpoint, _torch),
        Target("checkpoint-bytes", "m.ckpt", (_torch(weights), _torch(side)), read_state_file),
        Target("checkpoint-inspect", "m.ckpt", (side | weights,), inspect_file, _torch),
        Target("safetensors", "m.safetensors", (safetensors.torch.save(weights["state_dict"]),), read_state_file),
        Target("state-dict", "m.pth", (weights, weights["state_dict"]), _tensors, _torch),
    )


def _tensors(path: Path) -> object:
    return tensors_of(read_state_file(path), path)
