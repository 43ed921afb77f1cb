#!/usr/bin/env python3
"""Tag images with a trained model.

Tags are printed, and written on request as JSON, CSV, Parquet, a web page, keywords inside the images and drawings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from src.utils.script import run_script


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, or 1 if some of several images could not be read."""
    return run_script("infer.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    from src.config.infer import infer_parser, infer_settings

    settings = infer_settings(infer_parser(__doc__).parse_args(argv))
    from src.inference.run import run  # imports PyTorch, which --help does not need

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
