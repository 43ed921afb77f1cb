"""Shared parts of the benchmarks: interleaved runs, a matrix product as the machine's limit, and rows of results.

Every figure in the docs is a ratio between runs that alternate in one process, since the speed of a machine changes
with its load. A row is one JSON object with the measurements and the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def take_turns(runs: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Time every run in ``repeats`` rounds over all runs, after ``warm_up`` rounds that do not count; in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(warm_up + repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """Return the median over the rounds of the time of ``slow`` divided by that of ``fast``."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return round(1000 * statistics.median(seconds), 3)


def gemm(flops: float, dtype: torch.dtype = torch.float32, size: int = 1024) -> tuple[Callable[[], object], float]:
    """Prepare products of square matrices, the limit of the machine.

    Args:
        flops: floating-point operations of one run, approximately.
        dtype: of the matrices.
        size: of a side.

    Returns:
        (a run, its floating-point operations).
    """
    a, b = torch.rand(size, size).to(dtype), torch.rand(size, size).to(dtype)
    times = max(1, round(flops / (2 * size**3)))

    def run() -> None:
        for _ in range(times):
            torch.mm(a, b)

    return run, 2.0 * times * size**3


def machine() -> dict[str, object]:
    """Return what a figure depends on beside the code: processor, threads and versions."""
    return {
        "device": "cpu",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    widest = next((name for name in ("avx512_vnni", "avx_vnni", "avx512f", "avx2") if name in flags), "")
    return f"{names[0] if names else platform.machine()} x {len(names)} ({widest})"


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the flags that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="also write the rows to DIR/<benchmark>.jsonl; the published ones are in benchmarks/results",
    )
    return parser


def record(subject: str, rows: Sequence[Mapping[str, Any]], folder: Path | None, dtype: str = "float32") -> None:
    """Print the rows of a subject with the machine's facts; with a folder also write ``<subject>.jsonl`` there."""
    lines = [json.dumps({"subject": subject, **row, "dtype": row.get("dtype", dtype), **machine()}) for row in rows]
    print("\n".join(lines), flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{subject}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
