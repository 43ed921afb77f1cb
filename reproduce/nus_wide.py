#!/usr/bin/env python3
"""NUS-WIDE, 925 seen and 81 unseen labels: P/R/F1@3, F1@5 and mAP of the paper beside a run of this project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction
from reproduce.experiments import NUS_WIDE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status, that of the failed stage if one failed."""
    return run_reproduction(NUS_WIDE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
