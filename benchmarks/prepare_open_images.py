#!/usr/bin/env python3
"""Preparing Open Images v4 at full size: 9 million verdicts on 1.7 million images, 7,186 seen and 400 unseen classes.

The label files are drawn in the true form, their rows in no order. A child process prepares them, whose time and peak
memory are printed, with the time that the training labels take to read: plainly, through the label cache, and from it.
One JSON line for verified labels alone, and one for each number of rows in --machine-rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.data.coco import read_coco_labels
from src.data.label_cache import cached_coco_labels
from src.data.metadata import load_metadata

ROOT = Path(__file__).resolve().parent.parent
NUM_SEEN, NUM_UNSEEN, NOT_TRAINABLE = 7_186, 400, 2_594
VAL_ROWS, VAL_IMAGES = 500_000, 125_436
WORD_LENGTH = 100
BLOCK = 500_000  # rows that are drawn at once


def draw_classes(folder: Path) -> list[str]:
    """Write the class files and a word vector for each class: the MIDs."""
    random = np.random.default_rng(0)
    count = NUM_SEEN + NOT_TRAINABLE
    mids = [f"/m/{number:05x}" for number in range(count)]
    (folder / "class-descriptions.csv").write_text("".join(f"{mid},Class{n}\n" for n, mid in enumerate(mids)))
    (folder / "classes-trainable.txt").write_text("".join(f"{mid}\n" for mid in mids[:NUM_SEEN]))
    (folder / "unseen_labels.pkl").write_bytes(np.array(mids[NUM_SEEN:], dtype=object).dumps())
    (folder / "top_400_unseen.csv").write_text("".join(f"{place}\n" for place in range(NUM_UNSEEN)))
    vectors = random.normal(size=(count, WORD_LENGTH)).round(4)
    with open(folder.parent / "words.txt", "w") as stream:
        stream.writelines(f"class{n} {' '.join(map(str, vector))}\n" for n, vector in enumerate(vectors.tolist()))
    return mids


def draw_rows(path: Path, mids: list[str], rows: int, images: int, machine: bool = False) -> int:
    """Write a label file: its size in bytes. Classes on neither side are a few of the rows."""
    random = np.random.default_rng(images)
    ids = random.integers(0, 2**64, images, dtype=np.uint64)
    with open(path, "w") as stream:
        stream.write("ImageID,Source,LabelName,Confidence\n")
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            numbers = ids[random.integers(0, images, count)].tolist()
            classes = random.integers(0, NUM_SEEN + NUM_UNSEEN + 100, count).tolist()
            sure = (random.integers(5, 11, count) / 10 if machine else random.integers(0, 2, count)).tolist()
            source = "machine" if machine else "verification"
            stream.writelines(
                f"{number:016x},{source},{mids[column]},{confidence}\n"
                for number, column, confidence in zip(numbers, classes, sure, strict=True)
            )
    return path.stat().st_size


def seconds_of(action: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    action()
    return round(time.perf_counter() - started, 2)


def prepare(folder: Path, *flags: object) -> tuple[float, int]:
    """``prepare_data.py open-images`` in a child process: seconds, and peak memory in MB."""
    given = map(str, ("--source", folder / "oi", "--word-vectors", folder / "words.txt", *flags))
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, ROOT / "prepare_data.py", "open-images", *given], stdout=sys.stderr)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0
    return round(time.perf_counter() - started, 1), round(usage.ru_maxrss * 1024 / 1e6)


def measure(folder: Path, rows: int, images: int, machine_rows: int) -> dict[str, object]:
    """Draw, prepare, and read."""
    source = folder / "oi"
    source.mkdir()
    mids = draw_classes(source)
    flags: list[object] = ["--output", folder / "m"]
    size = draw_rows(source / "train-annotations-human-imagelabels.csv", mids, rows, images)
    size += draw_rows(source / "test-annotations-human-imagelabels.csv", mids, VAL_ROWS, VAL_IMAGES)
    if machine_rows:
        size += draw_rows(source / "train-annotations-machine-imagelabels.csv", mids, machine_rows, images, True)
        size += draw_rows(source / "test-annotations-machine-imagelabels.csv", mids, VAL_ROWS, VAL_IMAGES, True)
        flags += ["--machine-labels", 0.9]
    seconds, peak_mb = prepare(folder, *flags)
    metadata = load_metadata(folder / "m")
    path, labels, cache = metadata.train, metadata.split.labels, folder / "label_cache"
    assert path is not None
    return {
        "rows": rows,
        "images": images,
        "machine_rows": machine_rows,
        "classes": len(labels),
        "csv_mb": round(size / 1e6),
        "seconds": seconds,
        "peak_mb": peak_mb,
        "train_json_mb": round(path.stat().st_size / 1e6),
        "read_seconds": seconds_of(lambda: read_coco_labels(path, labels)),
        "first_cached_read_seconds": seconds_of(lambda: cached_coco_labels(path, labels, cache)),
        "second_cached_read_seconds": seconds_of(lambda: cached_coco_labels(path, labels, cache)),
        "cores": len(os.sched_getaffinity(0)),
        "torch": str(torch.__version__),
    }


def main() -> None:
    """Measure with verified labels, and with machine-generated ones for ``--machine-rows``."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rows", type=int, default=9_000_000, metavar="N")
    flags.add_argument("--images", type=int, default=1_700_000, metavar="N")
    flags.add_argument("--machine-rows", type=int, nargs="*", default=[], metavar="N", help="the true file: 79 million")
    flags.add_argument("--folder", type=Path, metavar="DIR", help="where to draw; the system's temporary folder")
    args = flags.parse_args()
    for machine_rows in [0, *args.machine_rows]:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            print(json.dumps(measure(Path(folder), args.rows, args.images, machine_rows)), flush=True)


if __name__ == "__main__":
    main()
