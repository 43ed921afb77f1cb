#!/usr/bin/env python3
"""NUS-WIDE, 925 seen and 81 unseen labels: P/R/F1@3, F1@5 and mAP of the paper beside a run of this project."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction

main = partial(run_reproduction, "nus_wide", __doc__)

if __name__ == "__main__":
    sys.exit(main())
