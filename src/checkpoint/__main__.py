"""Inspect checkpoints, verify their bytes against side files, and average their weights."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from src.checkpoint.outputs import checkpoint_outputs, is_average
from src.config.arguments import ArgumentParser, file_name, output_file, positive_float
from src.errors import UserError, raise_collected
from src.text import on_screen
from src.utils.digest import check_digest, side_file
from src.utils.outputs import check_outputs, recording
from src.utils.script import run_script

PROGRAM = "python -m src.checkpoint"


def parser() -> ArgumentParser:
    """Build the parser: one sub-command per task."""
    flags = ArgumentParser(prog=PROGRAM, description=__doc__)
    tasks = flags.add_subparsers(dest="task", required=True, metavar="TASK")

    inspect_help = "print the contents of checkpoints and training states"
    inspect = tasks.add_parser("inspect", help=inspect_help, description=inspect_help)
    inspect.add_argument(
        "files", nargs="+", type=file_name, metavar="FILE", help="checkpoints of this project or the released code"
    )
    inspect.add_argument("--json", action="store_true", help="print a JSON list with all facts of each file instead")
    inspect.set_defaults(run=_inspect)

    verify_help = "compare files with their side files (FILE.sha256); the exit status is 1 if one differs"
    verify = tasks.add_parser("verify", help=verify_help, description=verify_help)
    verify.add_argument("files", nargs="+", type=file_name, metavar="FILE", help="files of any kind")
    verify.set_defaults(run=_verify)

    average_help = "write the mean of the weights of several checkpoints that started from the same weights"
    average = tasks.add_parser("average", help=average_help, description=average_help)
    average.add_argument(
        "files", nargs="+", type=file_name, metavar="FILE", help="checkpoints of this project with the same labels"
    )
    average.add_argument("--output", type=output_file, required=True, metavar="FILE", help="checkpoint to write")
    average.add_argument(
        "--weights", nargs="+", type=positive_float, metavar="W", help="weight of each file (default: all alike)"
    )
    average.add_argument(
        "--overwrite", action="store_true", help="replace an existing file of this name that is no average"
    )
    average.set_defaults(run=_average)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 1 if ``verify`` finds a file that differs from its side file, else 0."""
    return run_script(PROGRAM, _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    return int(args.run(args))


def _inspect(args: argparse.Namespace) -> int:
    """Describe every file that can be read, then report the others."""
    from src.checkpoint.inspect import describe, inspect_file  # PyTorch takes a second to import

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
        print(json.dumps(found, indent=1, ensure_ascii=False, default=str))
    raise_collected(problems)
    return 0


def _verify(args: argparse.Namespace) -> int:
    differing, problems = False, []
    for path in args.files:
        try:
            _, agrees = check_digest(path)
        except UserError as error:
            problems.append(str(error))
            continue
        differing |= agrees is False
        verdict = {True: "OK", False: "DIFFERS", None: "no side file"}[agrees]
        print(f"{on_screen(path)}: {verdict}", flush=True)
    raise_collected(problems)
    return int(differing)


def _average(args: argparse.Namespace) -> int:
    outputs = checkpoint_outputs("--output", args.output, is_average)
    files = [Path(file) for name in args.files for file in (name, side_file(name))]
    check_outputs(outputs, [("the input", file) for file in files], overwrite=args.overwrite)
    from src.checkpoint.average import average_checkpoints  # PyTorch takes a second to import

    with recording(output.path for output in outputs.values()):
        settings = average_checkpoints(args.files, args.output, args.weights)
    total = sum(source["weight"] for source in settings["averaged"])
    for source in settings["averaged"]:
        print(f"{source['weight'] / total:.4f} of {on_screen(source['file'])}")
    print(f"written to {on_screen(' and '.join(str(output.path) for output in outputs.values()))}")
    print("the new file has no metrics: measure it with validate.py")
    print("the new file has no calibration: fit one with validate.py --fit-thresholds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
