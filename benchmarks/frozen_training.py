#!/usr/bin/env python3
"""Time ten epochs of training a head on the features of a frozen backbone: a whole process of train.py.

Needs a metadata folder (Corel5k in the docs) and the weights of the backbone. Features are computed in a first run that
is not timed. Prints one JSON line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import benchmark_parser, record

ROOT = Path(__file__).resolve().parent.parent


def train(metadata: Path, output: Path, epochs: int) -> float:
    """Run train.py; returns the seconds it took."""
    command = [
        sys.executable, ROOT / "train.py", "--metadata", metadata, "--recipe", "corel5k", "--num-epochs", epochs,
        "--seed", 0, "--path_output", output,
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measure."""
    flags = benchmark_parser(__doc__)
    flags.add_argument("--metadata", type=Path, required=True, help="metadata folder of Corel5k (docs/data.md)")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train(args.metadata, Path(folder) / "first", 1)
        seconds = train(args.metadata, Path(folder) / "run", 10)
        lines = (Path(folder) / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line)["seconds"] for line in lines]
    row = {"epochs": len(epochs), "seconds": round(seconds, 1), "seconds_of_epochs": round(sum(epochs), 1)}
    record("frozen_training", [row], args.output)


if __name__ == "__main__":
    main()
