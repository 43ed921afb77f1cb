#!/usr/bin/env python3
"""Preparing a COCO 2014 of full size: 123,287 images, 896,782 annotations with boxes and outlines.

The data set is drawn in COCO's form, with as many images, labels and annotations, and empty image files. It is
prepared by a child process, whose time and peak memory are printed, with the time that its labels take to read first
and again, as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.data.label_cache import cached_coco_labels
from src.data.metadata import Metadata, load_metadata
from tests.coco_helpers import NUM_ANNOTATIONS, NUM_IMAGES, file_name_of, write_instances, write_word_vectors

ROOT = Path(__file__).resolve().parent.parent
LABELLED = {"train2014": 82_081, "val2014": 40_137}
LABELS_PER_IMAGE = 2.93  # of the labelled ones


def draw(folder: Path, polygon_numbers: int) -> int:
    """Write the data set: the size of its label files in bytes."""
    random = np.random.default_rng(0)
    size = 0
    first_id = 1
    for release, num_images in NUM_IMAGES.items():
        ids = range(first_id, first_id + num_images)
        counts = 1 + random.poisson(LABELS_PER_IMAGE - 1, num_images)
        counts[LABELLED[release] :] = 0
        images = {
            number: random.choice(80, size=many, replace=False).tolist()
            for number, many in zip(ids, counts, strict=True)
        }
        path = write_instances(
            folder / "annotations" / f"instances_{release}.json",
            images,
            release=release,
            num_annotations=NUM_ANNOTATIONS[release],
            polygon_numbers=polygon_numbers,
            crowd_every=90,
        )
        size += path.stat().st_size
        (folder / release).mkdir()
        for number in ids:
            (folder / release / file_name_of(release, number)).touch()
        first_id += num_images
    return size


def read_labels(metadata: Metadata) -> float:
    """Seconds to read the labels of both parts through the label cache."""
    started = time.perf_counter()
    for path in (metadata.train, metadata.val):
        assert path is not None
        cached_coco_labels(path, metadata.split.labels, metadata.folder / "label_cache")
    return time.perf_counter() - started


def measure(folder: Path, polygon_numbers: int) -> dict[str, object]:
    """Draw, prepare, and read twice."""
    source = folder / "coco"
    size = draw(source, polygon_numbers)
    flags = ["--source", source, "--word-vectors", write_word_vectors(folder / "words.txt"), "--output", folder / "m"]
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, ROOT / "prepare_data.py", "coco", *flags], stdout=sys.stderr)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    assert status == 0
    metadata = load_metadata(folder / "m")
    return {
        "images": sum(NUM_IMAGES.values()),
        "annotations": sum(NUM_ANNOTATIONS.values()),
        "polygon_numbers": polygon_numbers,
        "json_mb": round(size / 1e6),
        "seconds": round(seconds, 1),
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6),
        "first_read_seconds": round(read_labels(metadata), 2),
        "second_read_seconds": round(read_labels(metadata), 2),
        "cores": len(os.sched_getaffinity(0)),
        "torch": str(torch.__version__),
    }


def main() -> None:
    """Measure with short outlines and with ones of a real file's length."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--polygon-numbers", type=int, nargs="+", default=[8, 25], metavar="N")
    flags.add_argument("--folder", type=Path, metavar="DIR", help="where to draw; the system's temporary folder")
    args = flags.parse_args()
    for polygon_numbers in args.polygon_numbers:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            print(json.dumps(measure(Path(folder), polygon_numbers)), flush=True)


if __name__ == "__main__":
    main()
