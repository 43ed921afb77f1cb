"""Look into checkpoints, check that their bytes are whole, and average their weights."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from src.checkpoint.average import average_checkpoints
from src.checkpoint.describe import describe
from src.checkpoint.digest import check_digest, side_file
from src.checkpoint.inspect import inspect_file
from src.config.arguments import ArgumentParser, positive_float, run_script
from src.errors import UserError, raise_collected
from src.utils.files import check_writable

PROGRAM = "python -m src.checkpoint"


def parser() -> ArgumentParser:
    """The flags: a sub-command a task."""
    flags = ArgumentParser(prog=PROGRAM, description=__doc__)
    tasks = flags.add_subparsers(dest="task", required=True, metavar="TASK")

    inspect_help = "print what is in checkpoints and training states"
    inspect = tasks.add_parser("inspect", help=inspect_help, description=inspect_help)
    inspect.add_argument("files", nargs="+", metavar="FILE", help="checkpoints, of this project or the released code")
    inspect.add_argument("--json", action="store_true", help="print a JSON list with all facts of each file instead")
    inspect.set_defaults(run=_inspect)

    verify_help = "compare files with their side files (FILE.sha256); exit status 1 where one differs"
    verify = tasks.add_parser("verify", help=verify_help, description=verify_help)
    verify.add_argument("files", nargs="+", metavar="FILE", help="files, of any kind")
    verify.set_defaults(run=_verify)

    average_help = "write the mean of the weights of several checkpoints that started from the same weights"
    average = tasks.add_parser("average", help=average_help, description=average_help)
    average.add_argument("files", nargs="+", metavar="FILE", help="checkpoints of this project, of one task")
    average.add_argument("--output", required=True, metavar="FILE", help="the checkpoint to write")
    average.add_argument(
        "--weights", nargs="+", type=positive_float, metavar="W", help="what each file counts; all alike if left out"
    )
    average.set_defaults(run=_average)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where a file differs from its side file."""
    return run_script(PROGRAM, _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    return int(args.run(args))


def _inspect(args: argparse.Namespace) -> int:
    """Every file that can be read is described; the others are listed in the end."""
    found, problems = [], []
    for path in args.files:
        try:
            facts = inspect_file(path)
        except UserError as error:
            problems.append(str(error))
            continue
        found.append(facts)
        if not args.json:
            print(("\n" if len(found) > 1 else "") + describe(facts), flush=True)
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))
    raise_collected(problems)
    return 0


def _verify(args: argparse.Namespace) -> int:
    told = {True: "OK", False: "DIFFERS", None: "no side file"}
    differing, problems = False, []
    for path in args.files:
        try:
            agrees = check_digest(path)
        except UserError as error:
            problems.append(str(error))
            continue
        differing |= agrees is False
        print(f"{path}: {told[agrees]}", flush=True)
    raise_collected(problems)
    return int(differing)


def _average(args: argparse.Namespace) -> int:
    check_writable(args.output, "--output")
    settings = average_checkpoints(args.files, args.output, args.weights)
    total = sum(source["weight"] for source in settings["averaged"])
    for source in settings["averaged"]:
        print(f"{source['weight'] / total:.4f} of {source['file']}")
    print(f"written to {args.output}, with {side_file(args.output)}; it has no metrics: measure it with validate.py")
    print("a calibration belongs to one model's scores, so the mean has none; fit it with validate.py --fit-thresholds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
