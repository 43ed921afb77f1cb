#!/usr/bin/env python3
"""Corel5k in the NUS-WIDE vocabulary: the experiment that this project measured, again. No paper has this split."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction

main = partial(run_reproduction, "corel5k", __doc__)

if __name__ == "__main__":
    sys.exit(main())
