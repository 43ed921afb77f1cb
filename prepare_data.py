#!/usr/bin/env python3
"""Make a metadata folder (labels, seen and unseen, word vectors, COCO-format label files) from a data set."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from src.config.arguments import ArgumentParser, run_script
from src.prepare import coco, corel5k, nus_wide, open_images, sample, table, vectors, voc

# Each has HELP (a line), a module docstring (what the source looks like), add_flags(parser) and run(args) -> report.
SOURCES = {
    "coco": coco,
    "nus-wide": nus_wide,
    "open-images": open_images,
    "voc": voc,
    "corel5k": corel5k,
    "table": table,
    "sample": sample,
    "word-vectors": vectors,
}


def parser() -> ArgumentParser:
    """The flags: a sub-command a source."""
    flags = ArgumentParser(prog="prepare_data.py", description=__doc__)
    sub_commands = flags.add_subparsers(dest="source_name", required=True, metavar="SOURCE")
    for name, source in SOURCES.items():
        source_flags = sub_commands.add_parser(name, help=source.HELP, description=source.__doc__)
        source.add_flags(source_flags)
        source_flags.set_defaults(run=source.run)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0."""
    return run_script("prepare_data.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    print("\n".join(args.run(args)))
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
