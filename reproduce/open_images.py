#!/usr/bin/env python3
"""Open Images v4, 7,186 seen and 400 unseen classes: mAP, F1@10 and F1@20 of the paper beside a run of this project."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import Experiment, add_missing_pictures, run_reproduction


def prepare_flags(args: argparse.Namespace) -> list[str]:
    """The images, which lie below --data if they are not elsewhere."""
    return ["--images", os.path.abspath(args.images or args.data), "--missing-pictures", args.missing_pictures]


EXPERIMENT = Experiment(
    "open_images",
    "open-images",
    "folder with the label files and class lists of Open Images v4 and the images",
    prepare_flags=prepare_flags,
    add_flags=add_missing_pictures,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or the status of the stage that failed."""
    return run_reproduction(EXPERIMENT, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
