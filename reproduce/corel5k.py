#!/usr/bin/env python3
"""Corel5k in the NUS-WIDE vocabulary: the experiment that this project measured, again. No paper has this split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import Experiment, run_reproduction

EXPERIMENT = Experiment(
    "corel5k",
    "corel5k",
    "folder of Corel5k (words, training_label, test_label, images/)",
    missing="drop",  # 73 of the 374 words are not in the NUS-WIDE vocabulary
    prepare_flags=lambda args: ["--forms", "strict"],
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or the status of the stage that failed."""
    return run_reproduction(EXPERIMENT, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
