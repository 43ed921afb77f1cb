#!/usr/bin/env python3
"""Corel5k in the NUS-WIDE vocabulary: the experiment that this project measured, again. No paper has this split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction
from reproduce.experiments import COREL5K


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status, that of the failed stage if one failed."""
    return run_reproduction(COREL5K, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
