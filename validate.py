#!/usr/bin/env python3
"""Measure a checkpoint on a zero-shot split: P/R/F1@K and mAP, zero-shot and generalised, as a table and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from src.utils.script import run_script


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 1 if some images could not be read."""
    return run_script("validate.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    from src.config.validate import validate_parser, validate_settings

    settings = validate_settings(validate_parser(__doc__).parse_args(argv))
    from src.validation import validate  # PyTorch takes seconds to import: --help and mistakes are answered before

    return validate(settings)


if __name__ == "__main__":
    sys.exit(main())
