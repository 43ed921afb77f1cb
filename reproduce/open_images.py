#!/usr/bin/env python3
"""Open Images v4, 7,186 seen and 400 unseen classes: mAP, F1@10 and F1@20 of the paper beside a run of this project."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import run_reproduction

main = partial(run_reproduction, "open_images", __doc__)

if __name__ == "__main__":
    sys.exit(main())
