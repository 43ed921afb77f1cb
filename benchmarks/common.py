"""What the benchmarks share: runs that take turns, a matrix product as the machine's limit, and rows of results.

Every figure that the docs quote is a ratio between runs that took turns in one process, since the speed of a machine
changes with what else it does. A row is one JSON object with what was measured, and on what.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"


def take_turns(runs: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every run, ``repeats`` times, the runs taking turns; ``warm_up`` rounds before are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(warm_up + repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """How many times as long ``slow`` takes as ``fast``: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def median_ms(seconds: Sequence[float]) -> float:
    """The median in milliseconds."""
    return round(1000 * statistics.median(seconds), 3)


def gemm(flops: float, dtype: torch.dtype = torch.float32, size: int = 1024) -> tuple[Callable[[], object], float]:
    """A product of square matrices as the limit of the machine: (a run, the floating-point operations of one run).

    ``flops`` is about how many one run should do.
    """
    a, b = torch.rand(size, size).to(dtype), torch.rand(size, size).to(dtype)
    times = max(1, round(flops / (2 * size**3)))

    def run() -> None:
        for _ in range(times):
            torch.mm(a, b)

    return run, 2.0 * times * size**3


def machine() -> dict[str, object]:
    """What a figure depends on beside the code: processor, threads and versions."""
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


def record(subject: str, rows: Sequence[Mapping[str, Any]], dtype: str = "float32") -> None:
    """Print the rows of a subject with the machine's facts, and put them into ``results/<subject>.jsonl``, alone."""
    RESULTS.mkdir(exist_ok=True)
    lines = [json.dumps({"subject": subject, **row, "dtype": row.get("dtype", dtype), **machine()}) for row in rows]
    print("\n".join(lines), flush=True)
    (RESULTS / f"{subject}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
