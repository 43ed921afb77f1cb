#!/usr/bin/env python3
"""Make a metadata folder: labels, seen and unseen, word vectors, and label files in COCO format."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from src.utils.script import run_script


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    return run_script("prepare_data.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    from src.config.prepare import parse

    settings, vectors, output = parse(argv)
    from src.prepare.run import prepare  # imports PyTorch, which --help does not need
    from src.text import on_screen

    print("\n".join(map(on_screen, prepare(settings, vectors, output))))
    print(f"written to {on_screen(output.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
