#!/usr/bin/env python3
"""MS-COCO, 48 seen and 17 unseen classes: P/R/F1@3 of the paper beside a run of this project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction
from reproduce.experiments import COCO_48_17


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status, that of the failed stage if one failed."""
    return run_reproduction(COCO_48_17, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
