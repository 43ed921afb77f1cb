#!/usr/bin/env python3
"""Open Images v4, 7,186 seen and 400 unseen classes: mAP, F1@10 and F1@20 of the paper beside a run of this project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction
from reproduce.experiments import OPEN_IMAGES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status, that of the failed stage if one failed."""
    return run_reproduction(OPEN_IMAGES, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
