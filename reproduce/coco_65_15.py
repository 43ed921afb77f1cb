#!/usr/bin/env python3
"""MS-COCO, 65 seen and 15 unseen classes, a split for which the paper has no numbers: P/R/F1@3 and mAP."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction

main = partial(run_reproduction, "coco_65_15", __doc__)

if __name__ == "__main__":
    sys.exit(main())
