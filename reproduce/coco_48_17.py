#!/usr/bin/env python3
"""MS-COCO, 48 seen and 17 unseen classes: P/R/F1@3 of the paper beside a run of this project."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction

main = partial(run_reproduction, "coco_48_17", __doc__)

if __name__ == "__main__":
    sys.exit(main())
