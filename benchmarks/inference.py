#!/usr/bin/env python3
"""Embedding a batch of images on a CPU: PyTorch's ways, ONNX Runtime, and ONNX Runtime in 8 bits.

All take turns in one process, beside a product of square float32 matrices, which is the rate that the processor can
do. A model's floating-point operations are counted by PyTorch (two for a multiplication with its addition). Weights are
random and images are noise: neither changes the time. What 8 bits cost in accuracy is in docs/export.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import benchmark_parser, gemm, median_ms, ratio, record, take_turns
from src.exported.facts import EMBEDDING, INPUT
from src.exported.graph import trace
from src.exported.int8 import quantise
from src.exported.session import run_session
from src.models import SDLModel, create_model

MODELS = ("tresnet_m", "tf_efficientnet_lite0")
CALIBRATION_BATCHES = 2  # the time does not depend on the ranges


def model_of(name: str, size: int) -> SDLModel:
    """A model with the same random weights each time."""
    torch.manual_seed(0)
    return create_model(name, num_rows=7, wordvec_dim=300, image_size=size).eval()


def flops_of(model: SDLModel, images: Tensor) -> float:
    """Floating-point operations of one batch: 2 x multiply-adds of convolutions and matrix products."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(images)
    return float(counter.get_total_flops())


def compiled(name: str, size: int, images: Tensor) -> tuple[Callable[[], object] | None, str]:
    """torch.compile with freezing (constant folding, weights laid out anew), or None and why it does not work here."""
    import torch._inductor.config as inductor

    model = torch.compile(model_of(name, size))
    try:
        with inductor.patch(freezing=True), torch.no_grad():
            model(images)
    except Exception as error:  # noqa: BLE001  # it needs a C++ compiler that works, and fails in many ways without
        return None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"

    def run() -> object:
        with torch.no_grad():
            return model(images)

    return run, ""


def onnx_runs(name: str, size: int, images: Tensor) -> dict[str, Callable[[], object]]:
    """ONNX Runtime in float32 and in 8 bits."""
    graph = trace(model_of(name, size), [EMBEDDING], size)
    noise = np.random.default_rng(0)
    batches = (noise.random((4, 3, size, size), dtype=np.float32) for _ in range(CALIBRATION_BATCHES))
    feed = {INPUT: images.numpy()}
    runs: dict[str, Callable[[], object]] = {}
    for label, model in (("onnx_float32", graph), ("onnx_int8", quantise(graph, batches))):
        session = run_session(model.SerializeToString(), label)
        runs[label] = lambda session=session: session.run([EMBEDDING], feed)
    return runs


def measure(name: str, size: int, batch: int, repeats: int, compile_too: bool) -> list[dict[str, object]]:
    """A row a way of computing one model's embeddings."""
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    eager, last = model_of(name, size), model_of(name, size).to(memory_format=torch.channels_last)
    last_images = images.to(memory_format=torch.channels_last)
    flops = flops_of(eager, images)
    product, product_flops = gemm(flops)
    runs: dict[str, Callable[[], object]] = {
        "gemm": product,
        "eager": lambda: eager(images),
        "channels_last": lambda: last(last_images),
    }
    reason = "left out with --no_compile"
    if compile_too:
        run, reason = compiled(name, size, images)
        if run is not None:
            runs["compiled"] = run
    runs |= onnx_runs(name, size, images)
    with torch.inference_mode():
        seconds = take_turns(runs, repeats)
    rows: list[dict[str, object]] = []
    for way, taken in seconds.items():
        done = product_flops if way == "gemm" else flops
        rates = [(done / one) / (product_flops / limit) for one, limit in zip(taken, seconds["gemm"], strict=True)]
        rows.append(
            {
                "model": name,
                "way": way,
                "size": size,
                "batch": batch,
                "gflop": round(done / 1e9, 2),
                "ms": median_ms(taken),
                "of_gemm_rate": round(float(np.median(rates)), 3),
                "times_eager": round(ratio(seconds, "eager", way), 2),
                "times_onnx_float32": round(ratio(seconds, "onnx_float32", way), 2),
            }
        )
    if "compiled" not in runs:
        rows.append({"model": name, "way": "compiled", "skipped": reason})
    return rows


def main() -> None:
    """Measure both backbones."""
    flags = benchmark_parser(__doc__)
    flags.add_argument("--models", nargs="+", default=list(MODELS), help="timm's names")
    flags.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    flags.add_argument("--batch", type=int, default=8)
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--repeats", type=int, default=7)
    flags.add_argument("--no_compile", action="store_true", help="leave torch.compile out: compiling takes minutes")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.models:
        rows += measure(name, args.size, args.batch, args.repeats, not args.no_compile)
    record("inference", rows, args.output)


if __name__ == "__main__":
    main()
