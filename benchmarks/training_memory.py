#!/usr/bin/env python3
"""Measure memory and time of one training step: of the plain model, and of every option that saves memory.

A step is forward, SDL loss over 925 seen labels, backward and Adam. Memory: every variant and batch size runs in a new
process, which first takes a step on two images, so that libraries, weights and Adam's moments are in memory. That is
the baseline, which no option changes. The peak of the next step, on the whole batch, minus the baseline is the memory
of a step: activations, gradients and working memory. Time: all variants take turns in one process; quote only ratios.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import benchmark_parser, ratio, record, take_turns
from src.loss_functions.SDL_loss import SDLLoss
from src.models import create_model

NUM_LABELS, NUM_ROWS, DIM, POSITIVES = 925, 7, 300, 5  # NUS-WIDE's seen labels, the paper's M, word2vec's D
# Options of create_model for each variant; channels-last is a memory layout, not an option of the model.
WAYS: Mapping[str, Mapping[str, bool]] = {
    "plain": {},
    "checkpointing": {"grad_checkpointing": True},
    "inplace_abn": {"inplace_abn": True},
    "both": {"grad_checkpointing": True, "inplace_abn": True},
    "channels_last": {},
}
# With a fixed threshold glibc returns the memory of large tensors at once, so that resident memory is what is held.
CHILD_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


class TrainingStep:
    """Training step of one variant.

    Args:
        way: a key of :data:`WAYS`.
        model_name: a backbone.
        size: side of the images, in pixels.
        device: where to compute.
    """

    def __init__(self, way: str, model_name: str, size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        model = create_model(model_name, NUM_ROWS, DIM, **WAYS[way]).train()
        self.layout = torch.channels_last if way == "channels_last" else torch.contiguous_format
        self.model = model.to(device=device, memory_format=self.layout)
        self.size, self.device = size, device
        words = torch.nn.functional.normalize(torch.randn(DIM, NUM_LABELS), dim=0)
        self.criterion = SDLLoss(weight=0.3, wordvec_array=words).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-5)

    def run(self, batch: int) -> float:
        """Take a step on ``batch`` random images; returns the loss."""
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(batch, 3, self.size, self.size, generator=generator)
        labels = torch.rand(batch, NUM_LABELS, generator=generator).topk(POSITIVES).indices
        targets = torch.zeros(batch, NUM_LABELS, dtype=torch.int8).scatter_(1, labels, 1)
        embedding = self.model(images.to(device=self.device, memory_format=self.layout))
        loss = self.criterion(embedding, targets.to(self.device))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()  # also waits for the device


def available() -> list[str]:
    """List the variants that run here: InPlaceABN is an optional, compiled package."""
    has_abn = importlib.util.find_spec("inplace_abn") is not None
    return [way for way, options in WAYS.items() if has_abn or not options.get("inplace_abn")]


def process_mib(field: str) -> float:
    """Read a field of ``/proc/self/status`` in MiB: ``VmRSS`` is the current size, ``VmHWM`` the peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)
    assert found is not None, f"no {field}"
    return int(found[1]) / 1024


def peak_of(run: Callable[[], object]) -> tuple[float, float]:
    """Measure (resident MiB before ``run``, peak during it); Linux only.

    The earlier peak is reset: importing and building a model may need more than a step.
    """
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # proc(5): 5 resets VmHWM
    before = process_mib("VmRSS")
    run()
    return before, process_mib("VmHWM")


def measure_memory(way: str, batch: int, model_name: str, size: int, device: torch.device) -> dict[str, object]:
    """Measure one variant and batch size in this process."""
    step = TrainingStep(way, model_name, size, device)
    step.run(2)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        gpu_before = torch.cuda.memory_allocated() / 2**20
    before, peak = peak_of(lambda: step.run(batch))
    row = {"measured": "memory", "way": way, "batch": batch, "baseline_mib": round(before), "peak_mib": round(peak)}
    row["step_mib"] = round(peak - before)
    if on_gpu:
        gpu_peak = torch.cuda.max_memory_allocated() / 2**20
        row |= {
            "gpu": torch.cuda.get_device_name(),
            "gpu_baseline_mib": round(gpu_before),
            "gpu_step_mib": round(gpu_peak - gpu_before),
        }
    return row


def in_a_child(way: str, batch: int, args: argparse.Namespace) -> dict[str, object]:
    """Run :func:`measure_memory` in a new process."""
    flags = ["--child", way, "--batches", batch, "--model-name", args.model_name, "--size", args.size]
    command = [sys.executable, __file__, *flags, "--device", args.device]
    environment = {**os.environ, **CHILD_ENVIRONMENT}
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout)


def measure_time(batch: int, args: argparse.Namespace) -> list[dict[str, object]]:
    """Measure the time of each variant as a ratio to the plain step; they take turns in this process."""
    steps = {way: TrainingStep(way, args.model_name, args.size, torch.device(args.device)) for way in available()}
    losses = {way: step.run(batch) for way, step in steps.items()}
    # InPlaceABN has scales of 1e-5 where timm starts with 0, so the losses are not equal to the last digit.
    assert all(abs(loss / losses["plain"] - 1) < 0.01 for loss in losses.values()), losses
    seconds = take_turns({way: partial(step.run, batch) for way, step in steps.items()}, args.repeats)
    return [
        {"measured": "time", "way": way, "batch": batch, "time_ratio": round(ratio(seconds, way, "plain"), 2)}
        for way in steps
    ]


def main() -> None:
    """Measure what docs/memory.md shows."""
    flags = benchmark_parser(__doc__)
    flags.add_argument("--model-name", default="tresnet_m", metavar="NAME", help="backbone")
    flags.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    flags.add_argument("--batches", type=int, nargs="+", default=[8, 32], help="batch sizes; time takes the first")
    flags.add_argument("--repeats", type=int, default=5, help="timed rounds")
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    flags.add_argument("--child", choices=tuple(WAYS), help="print the memory of this way alone, in this process")
    args = flags.parse_args()
    if args.child:
        row = measure_memory(args.child, args.batches[0], args.model_name, args.size, torch.device(args.device))
        print(json.dumps(row))
        return
    rows = [in_a_child(way, batch, args) for batch in args.batches for way in available()]
    rows += measure_time(args.batches[0], args)
    record("training_memory", [{"model": args.model_name, "size": args.size, **row} for row in rows], args.output)


if __name__ == "__main__":
    main()
