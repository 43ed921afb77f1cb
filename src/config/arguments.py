"""Command-line parsing of all scripts: flags in both spellings, types, shared flags, one-line errors."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from src.errors import UserError
from src.options import DEVICES, ENGINES, TRUNCATED

_LONG_FLAG = re.compile(r"(--[A-Za-z][\w-]*)(=.*)?", re.DOTALL)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults except None, False and empty lists; keep the lines of a description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_empty = action.default is None or action.default is False or action.default in ([], ())
        return action.help if is_empty else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse that accepts ``-`` and ``_`` alike within flags, and raises errors as :class:`UserError`.

    The help shows each flag in its declared spelling.
    """

    def __init__(self, description: str | None = None, **options: object) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
            **options,  # type: ignore[arg-type]
        )
        self.register("type", Path, _path)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Parse like argparse, after converting flags to their declared spelling."""
        arguments = list(sys.argv[1:] if args is None else args)
        end = arguments.index("--") if "--" in arguments else len(arguments)  # no flags after it
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


def not_empty(text: str) -> str:
    """Argparse type: a text of at least one letter."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty; is a variable of the shell not set?")
    return text


def _path(text: str) -> Path:
    return Path(not_empty(text))


def positive_int(text: str) -> int:
    """Argparse type: a whole number from 1."""
    return _whole_number(text, 1)


def non_negative_int(text: str) -> int:
    """Argparse type: a whole number from 0."""
    return _whole_number(text, 0)


def fraction(text: str) -> float:
    """Argparse type: a number from 0 to 1."""
    return _number(text, lambda value: 0 <= value <= 1, "number from 0 to 1")


def finite_float(text: str) -> float:
    """Argparse type: a finite number."""
    return _number(text, math.isfinite, "finite number")


def positive_float(text: str) -> float:
    """Argparse type: a finite number above 0."""
    return _number(text, lambda value: 0 < value < math.inf, "number above 0")


def _number(text: str, is_valid: Callable[[float], bool], meaning: str) -> float:
    with suppress(ValueError):
        if is_valid(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a {meaning}")


def _whole_number(text: str, low: int) -> int:
    with suppress(ValueError):
        if (value := int(text)) >= low:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low}")


def add_device_flag(parser: argparse._ActionsContainer) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="device to compute on; auto is a CUDA GPU if available, else the CPU",
    )


def add_engine_flag(parser: argparse._ActionsContainer) -> None:
    """Add ``--engine``."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="torch: PyTorch; onnx: ONNX Runtime, with the file of the same name ending in .onnx that export.py made; "
        "auto: on a CPU, ONNX Runtime if that file is in float32 and was made of this checkpoint, else PyTorch. Models "
        "given as .onnx files always run on ONNX Runtime",
    )


def add_workers_flag(parser: argparse._ActionsContainer) -> None:
    """Add ``-j/--workers``."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "-j",
        "--workers",
        type=non_negative_int,
        default=min(8, processors),
        metavar="N",
        help="background workers that read images; 0 reads them in the main process",
    )


def add_reading_flags(parser: argparse._ActionsContainer) -> None:
    """Add ``--max-pixels`` and ``--truncated``."""
    parser.add_argument(
        "--max-pixels",
        type=positive_int,
        metavar="N",
        help="refuse images of more pixels, which take about 8 bytes each to decode (default: 178,956,970); a JPEG "
        "counts as it is decoded, at a half to an eighth of its size where that is large enough",
    )
    parser.add_argument(
        "--truncated",
        choices=TRUNCATED,
        default="refuse",
        help="images that are cut short or damaged: refuse them, or accept the part that can be decoded; a JPEG that "
        "lacks only its end marker is whole",
    )


def add_exact_flag(parser: argparse._ActionsContainer) -> None:
    """Add ``--exact-pictures``."""
    parser.add_argument(
        "--exact-pictures",
        action="store_true",
        help="decode and resize images exactly like the released code; slower. Without it, shrunk images differ by a "
        "rounding step (docs/benchmarks.md)",
    )
