#!/usr/bin/env python3
"""Measure how long infer.py takes to tag a folder, beside the model's own rate.

A child process is timed from its start to the written CSV. When its first tags are known is read from its record,
which holds each image's result as soon as it is there. The model's own rate is that of random tensors, in this
process, in batches of as many and as many at once, with as many threads; child and model take turns.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import benchmark_parser, record
from src.config.infer import QUICK_START
from src.errors import UserError
from src.inference.pipeline import Loading, parallel_calls
from src.inference.results import record_path
from src.inference.tagger import Tagger
from src.options import Runtime

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.01  # seconds between looks at the record


@dataclass
class Timeline:
    """Times of one child process, in seconds from its start.

    Attributes:
        first: when the first tags were known, and of how many images.
        last: when the last tags were known, and of how many images in all.
        end: when the process had ended.
    """

    first: tuple[float, int]
    last: tuple[float, int]
    end: float

    @property
    def rate(self) -> float:
        """Images a second after start-up: from the first batch's tags to the last one's."""
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


def infer(folder: Path, model_path: Path, engine: str, args: argparse.Namespace) -> Timeline:
    """Tag the folder once."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "tags.csv"
        command = [
            sys.executable, ROOT / "infer.py", "--pic_path", folder, "--csv", output, "--no_picture", "--quiet",
            "--model_path", model_path, "--engine", engine, "--batch_size", args.batch_size,
            "--num_threads", args.threads, "-j", args.workers,
        ]  # fmt: skip
        started = time.perf_counter()
        child = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
        seen: list[tuple[float, int]] = []
        while child.poll() is None:
            time.sleep(POLL)
            done = _results(record_path(output))
            if done and (not seen or done > seen[-1][1]):
                seen.append((time.perf_counter() - started, done))
        end = time.perf_counter() - started
        if child.returncode not in (0, 1) or not output.is_file() or len(seen) < 2:
            raise SystemExit(f"infer.py ended with status {child.returncode}; run: {' '.join(map(str, command))}")
        return Timeline(seen[0], seen[-1], end)


def _results(record: Path) -> int:
    """Count the images in a record."""
    try:
        return sum(b'"result"' in line or b'"skipped"' in line for line in record.read_bytes().splitlines())
    except FileNotFoundError:
        return 0


def model_rate(tagger: Tagger, batch_size: int, batches: int) -> float:
    """Images a second through the model alone."""
    threads, size = tagger.parallel_calls, tagger.transform.image_size
    shares = [torch.rand(-(-batch_size // threads), 3, size, size)] * (batches * threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(tagger.embed, shares[:threads]))
        started = time.perf_counter()
        list(pool.map(tagger.embed, shares))
        return sum(map(len, shares)) / (time.perf_counter() - started)


def measure(folder: Path, tagger: Tagger, model_path: Path, engine: str, args: argparse.Namespace) -> dict[str, object]:
    """One row: the medians of the rounds."""
    timelines, rates, shares = [], [], []
    for _ in range(args.rounds):
        before = model_rate(tagger, args.batch_size, args.model_batches)
        timelines.append(infer(folder, model_path, engine, args))
        rates.append((before + model_rate(tagger, args.batch_size, args.model_batches)) / 2)
        shares.append(timelines[-1].rate / rates[-1])

    def middle(numbers: list[float], digits: int) -> float:
        return round(statistics.median(numbers), digits)

    return {
        "images": folder.name,
        "count": timelines[0].last[1],
        "model": model_path.name,
        "engine": tagger.engine,
        "batch": args.batch_size,
        "workers": args.workers,
        "seconds": middle([timeline.end for timeline in timelines], 2),
        "seconds_to_first_tags": middle([timeline.first[0] for timeline in timelines], 2),
        "seconds_after_last_tags": middle([timeline.end - timeline.last[0] for timeline in timelines], 2),
        "images_a_second_after_start": middle([timeline.rate for timeline in timelines], 2),
        "images_a_second_of_model": middle(rates, 2),
        "of_model_rate": middle(shares, 3),
    }


def main() -> None:
    """Measure."""
    flags = benchmark_parser(__doc__)
    flags.add_argument("--images", type=Path, nargs="+", required=True, metavar="DIR", help="folders of photographs")
    flags.add_argument("--model_path", type=Path, nargs="+", default=[QUICK_START], help="several in turn")
    flags.add_argument("--engine", nargs="+", default=["auto"], help="what infer.py --engine takes; several in turn")
    flags.add_argument("--batch_size", type=int, default=16)
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--workers", type=int, default=2, help="threads that read")
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--model_batches", type=int, default=10, help="batches of one measurement of the model alone")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for path, engine, folder in itertools.product(args.model_path, args.engine, args.images):
        threads = parallel_calls(len(list(folder.iterdir())), Loading(args.batch_size, args.workers))
        try:
            tagger = Tagger.load(path, runtime=Runtime(engine, parallel_calls=threads))
        except UserError as error:
            flags.error(str(error))
        rows.append(measure(folder, tagger, path, engine, args))
    record("infer_folder", rows, args.output)


if __name__ == "__main__":
    main()
