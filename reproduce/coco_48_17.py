#!/usr/bin/env python3
"""MS-COCO, 48 seen and 17 unseen classes: P/R/F1@3 of the paper beside a run of this project."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import Experiment, add_missing_pictures, run_reproduction


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The release, and the list of test images."""
    parser.add_argument("--year", choices=("2014", "2017"), default="2014", help="release below --data")
    parser.add_argument(
        "--test-ids", metavar="FILE", help="validate on these images only, an id a line: the published list has 6,392"
    )
    add_missing_pictures(parser)


def prepare_flags(args: argparse.Namespace) -> list[str]:
    """The split, the images and the list of test images."""
    flags = ["--year", args.year, "--split", "48_17", "--missing-pictures", args.missing_pictures]
    flags += [] if args.images is None else ["--images", os.path.abspath(args.images)]
    return flags + ([] if args.test_ids is None else ["--test-ids", os.path.abspath(args.test_ids)])


EXPERIMENT = Experiment(
    "coco_48_17",
    "coco",
    "folder of MS-COCO (annotations/, train2014/, val2014/)",
    prepare_flags=prepare_flags,
    add_flags=add_flags,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or the status of the stage that failed."""
    return run_reproduction(EXPERIMENT, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
