"""Observe everything that a flag can change: status, output, files, numbers, and calls of PyTorch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tqdm
from torch import Tensor

from src.models import SDLModel
from tests.script_helpers import call, without_curves

Main = Callable[[list[str]], int]


@dataclass(frozen=True)
class Effect:
    """Flags, and the observation that differs from that of a run without them.

    Attributes:
        flags: the flag and its value, with placeholders such as ``{sample}``.
        changes: a key of the result of :func:`observe`.
        base: further flags of both runs; they win over the script's own base flags.
        drop: part of the script's own base flags that both runs leave out.
        before: flags of a run in the same folder before each of both runs.
        leftover: damaged file that an earlier run has left in the folder of both runs.
        needs_gpu: the flag has no effect on a CPU.
    """

    flags: str
    changes: str
    base: str = ""
    drop: str | None = None
    before: str | None = None
    leftover: str | None = None
    needs_gpu: bool = False


@dataclass(frozen=True)
class Covered:
    """A test elsewhere that fails if the flag has no effect.

    Attributes:
        test: ``tests/test_file.py::test_name``.
    """

    test: str


def observe(main: Main, argv: list[str], out: Path) -> dict[str, Any]:
    """Run a script in this process.

    Returns:
        ``status`` (exit status and error message), ``output``, ``files`` (names below ``out``), ``content`` (digests of
        the files that users read), ``numbers`` (log and weights of a training run), ``saves`` (how often each file was
        replaced), ``images`` (shapes and sums of the model's inputs), ``layout`` (of the model's weights),
        ``compiled``, ``workers``, ``threads``, ``bars`` (settings of progress bars). Plots, which take longest,
        are left out.
    """
    with spies() as seen, without_curves(), mock.patch("src.run_report.write_report"):
        finished = call(main, *argv)

    def plain(text: str) -> str:
        return re.sub(r"\d+(\.\d+)? ?(s|seconds)\b", "SECONDS", text.replace(str(out), "OUT"))

    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        "status": (finished.returncode, [plain(line) for line in finished.stderr.splitlines() if "error:" in line]),
        "output": plain(finished.stdout),
        "files": [str(path.relative_to(out)) for path in paths],
        "content": {
            str(path.relative_to(out)): hashlib.sha256(plain_bytes(path, out)).hexdigest()
            for path in paths
            if path.suffix in (".json", ".onnx", ".csv", ".npy", ".txt")
        },
        "numbers": numbers_of(out),
        **seen,
    }


def plain_bytes(path: Path, out: Path) -> bytes:
    return path.read_bytes().replace(str(out).encode(), b"OUT")


def numbers_of(out: Path) -> list[Any]:
    """The log without seconds, and dtype and sum of the last checkpoint's weights."""
    log, last = out / "log.jsonl", out / "model-last.ckpt"
    if not last.is_file():
        return []
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    weights = torch.load(last, weights_only=True)["state_dict"]
    return [
        [{**entry, "seconds": 0} for entry in entries],
        {key: (str(tensor.dtype), float(tensor.double().sum())) for key, tensor in weights.items()},
    ]


@contextlib.contextmanager
def spies() -> Iterator[Mapping[str, Any]]:
    """Record the calls of PyTorch, tqdm and the operating system that flags change without changing numbers."""
    seen: dict[str, Any] = {
        "saves": Counter(), "images": [], "layout": set(), "compiled": [], "workers": set(), "threads": [], "bars": [],
    }  # fmt: skip
    features, replace = SDLModel.forward_features, os.replace
    start_loader, start_bar = torch.utils.data.DataLoader.__init__, tqdm.tqdm.__init__

    def forward_features(model: SDLModel, images: Tensor) -> Tensor:
        seen["images"].append((tuple(images.shape), float(images.double().sum())))
        weights = (weight for weight in model.parameters() if weight.ndim == 4 and min(weight.shape) > 1)
        seen["layout"].add(next(weights).is_contiguous(memory_format=torch.channels_last))
        return features(model, images)

    def compile_module(module: Any, **options: Any) -> Any:
        if isinstance(module, torch.nn.Module):
            seen["compiled"].append(type(module).__name__)
        return module

    def replaced(source: Any, target: Any) -> None:
        seen["saves"][Path(target).name] += 1
        replace(source, target)

    def loader(self: Any, *arguments: Any, **options: Any) -> None:
        seen["workers"].add(options.get("num_workers", 0))
        start_loader(self, *arguments, **options)

    def bar(self: Any, *arguments: Any, **options: Any) -> None:
        seen["bars"].append(options.get("miniters"))
        start_bar(self, *arguments, **options)

    with (
        mock.patch.object(SDLModel, "forward_features", forward_features),
        mock.patch.object(torch, "compile", compile_module),
        mock.patch.object(torch, "set_num_threads", seen["threads"].append),
        mock.patch.object(torch.utils.data.DataLoader, "__init__", loader),
        mock.patch.object(tqdm.tqdm, "__init__", bar),
        mock.patch.object(os, "replace", replaced),
    ):
        yield seen
