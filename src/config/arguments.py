"""Command-line parsing shared by the scripts: flags in both spellings, and one-line errors with exit status 2."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from src.choices import DEVICES, ENGINES
from src.errors import UserError

_LONG_FLAG = re.compile(r"(--[A-Za-z][\w-]*)(=.*)?", re.DOTALL)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, but not those that say nothing, and leaves the lines of a description as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False or action.default == []
        return action.help if says_nothing else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with two habits of this project.

    ``-`` and ``_`` may be exchanged within a flag, and errors are raised as :class:`UserError`. The help shows each
    flag in the one spelling it was declared with.
    """

    def __init__(self, description: str | None = None, **options: object) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
            **options,  # type: ignore[arg-type]
        )

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """As argparse does it, after bringing the flags to the spelling they were declared with."""
        arguments = list(sys.argv[1:] if args is None else args)
        end = arguments.index("--") if "--" in arguments else len(arguments)  # what follows is no flag
        flags = [self._declared_spelling(argument) for argument in arguments[:end]]
        return super().parse_known_args(flags + arguments[end:], namespace)

    def long_flags(self) -> dict[str, argparse.Action]:
        """Map each long flag as declared, without its leading dashes, to its action."""
        return {option[2:]: action for option, action in self._option_string_actions.items() if option.startswith("--")}

    def _declared_spelling(self, argument: str) -> str:
        match = _LONG_FLAG.fullmatch(argument)
        if match is None:
            return argument
        declared = {option.replace("_", "-"): option for option in self._option_string_actions}
        return declared.get(match[1].replace("_", "-"), match[1]) + (match[2] or "")

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`UserError`."""
        raise UserError(f"{message} (see {self.prog} --help)")


def run_script(name: str, main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a script's main function; a :class:`UserError` becomes one message on standard error and exit status 2.

    Ctrl-C becomes a line too, with the status 130 that shells have for it; an output that nobody reads any more ends
    the run quietly with 141.
    """
    try:
        return main(argv)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads the output, ``head`` say, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor shall the last flush complain
        return 141


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    return _whole_number(text, 1)


def non_negative_int(text: str) -> int:
    """An argparse type: a whole number from 0."""
    return _whole_number(text, 0)


def fraction(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def finite_float(text: str) -> float:
    """An argparse type: a number that is neither infinite nor NaN."""
    value = _number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _number(text: str) -> float:
    """The number, or NaN, which is in no range, where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _whole_number(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low}")
    return value


def add_device_flag(parser: argparse._ActionsContainer) -> None:
    """``--device``, the same in every script."""
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where to compute; auto takes a CUDA GPU where there is one",
    )


def add_engine_flag(parser: argparse._ActionsContainer) -> None:
    """Add ``--engine``, the same in every script that runs a model."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="PyTorch, or ONNX Runtime on the file that export.py made of the checkpoint and that lies beside it. auto "
        "uses that file on a CPU if it was exported from exactly this checkpoint in float32. A --model_path ending in "
        ".onnx always runs on ONNX Runtime",
    )


def add_workers_flag(parser: argparse._ActionsContainer) -> None:
    """``-j/--workers``, the same in every script that reads many images."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "-j",
        "--workers",
        type=non_negative_int,
        default=min(8, processors),
        metavar="N",
        help="how many read images beside the model; 0 reads them when they are needed",
    )


def add_exact_flag(parser: argparse._ActionsContainer) -> None:
    """``--exact-pictures``, the same in every script that reads images."""
    parser.add_argument(
        "--exact-pictures",
        action="store_true",
        help="decode and resize as the released code does, to the bit: slower; else images that shrink differ by a "
        "rounding step (docs/benchmarks.md)",
    )
