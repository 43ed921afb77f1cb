"""Command-line parsing of all scripts: flags in both spellings, types, shared flags, one-line errors."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from src.errors import UserError
from src.options import DEVICES, ENGINES, MAX_INT, TRUNCATED
from src.text import shortened

_MAX_NAME, _MAX_PATH = 255, 4095  # bytes of a file's name and of a path
_MAX_THREADS = 1024
_MAX_FLOAT = 3.4e38  # of float32, in which scores and weights are computed
_NEGATIVE_NUMBER = re.compile(r"-((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|nan)\Z", re.IGNORECASE)
_LONG_FLAG = re.compile(r"(--[A-Za-z][\w-]*)(=.*)?", re.DOTALL)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults except None, False and empty lists; keep the lines of a description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_empty = action.default is None or action.default is False or action.default in ([], ())
        return action.help if is_empty else super()._get_help_string(action)


_STATUSES = (
    "exit status: 0 done, 1 some images could not be read or written, 2 a mistake,\n"
    "3 the loss is not finite, 70 a bug, 130 Ctrl-C, 141 closed output, 143 SIGTERM"
)


class ArgumentParser(argparse.ArgumentParser):
    """argparse that accepts ``-`` and ``_`` alike within flags, and raises errors as :class:`UserError`.

    The help shows each flag in its declared spelling.
    """

    def __init__(self, description: str | None = None, **options: object) -> None:
        if sys.version_info >= (3, 14):
            options.setdefault("color", False)
        options.setdefault("epilog", _STATUSES)
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
            **options,  # type: ignore[arg-type]
        )
        self._negative_number_matcher = _NEGATIVE_NUMBER  # argparse's own takes -1e-3 for a flag
        self.register("type", Path, _path)
        self.register("type", None, _text)
        self.checks_needs = True  # see needing(); a recipe may hold settings of parts that it does not use
        self._given: dict[argparse.Action, Sequence[str]] = {}

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Parse like argparse, after converting flags to their declared spelling."""
        arguments = list(sys.argv[1:] if args is None else args)
        end = arguments.index("--") if "--" in arguments else len(arguments)  # no flags after it
        flags = [self._declared_spelling(argument) for argument in arguments[:end]]
        self._given.clear()
        namespace, left = super().parse_known_args(flags + arguments[end:], namespace)
        if self.checks_needs:
            for action, words in self._given.items():
                self._check_needs(action, words, namespace)
        return namespace, left

    def add_subparsers(self, **options: Any) -> Any:
        """Add sub-commands like argparse; what follows one is for its own parser to check."""
        commands = super().add_subparsers(**options)
        commands.type = str
        return commands

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Convert like argparse, which calls this for each flag of the command line, and note the flag."""
        if action.option_strings:
            self._given[action] = arg_strings
        return super()._get_values(action, arg_strings)

    def _check_needs(self, action: argparse.Action, words: Sequence[str], namespace: argparse.Namespace) -> None:
        rule: _Needs | None = getattr(action, "needs", None)
        if rule is None or getattr(namespace, action.dest) in rule.harmless:
            return
        flag, shown = action.option_strings[-1], " ".join((action.option_strings[-1], *words))
        needed = " or ".join(rule.flags).replace("|", " or ")
        if rule.flags and not any(self._is_set(other, namespace) for other in rule.flags):
            raise UserError(f"{shown}: has no effect without {needed}; give that too, or no {flag}")
        for other in rule.excluded:
            if self._is_set(other, namespace):
                name, _, values = other.partition(" ")
                value = f" {getattr(namespace, self._option_string_actions[name].dest)}" if values else ""
                raise UserError(f"{shown}: has no effect with {name}{value}; leave one of the two out")

    def _is_set(self, condition: str, namespace: argparse.Namespace) -> bool:
        name, _, values = condition.partition(" ")
        action = self._option_string_actions[name]
        value = getattr(namespace, action.dest)
        return str(value) in values.split("|") if values else value != action.default

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


@dataclass(frozen=True)
class _Needs:
    flags: tuple[str, ...]
    excluded: tuple[str, ...]
    harmless: tuple[Any, ...]


def needing(
    action: argparse.Action, *flags: str, excluded: Sequence[str] = (), harmless: Sequence[Any] = ()
) -> argparse.Action:
    """Declare what a flag has no effect without; :class:`ArgumentParser` refuses it there, if it is given.

    Args:
        action: the flag.
        flags: one of these must be set: ``--flag``, or ``--flag value|value``.
        excluded: none of these may be set, in the same form.
        harmless: values that say what holds anyway.
    """
    action.needs = _Needs(flags, tuple(excluded), tuple(harmless))  # type: ignore[attr-defined]
    return action


def not_empty(text: str) -> str:
    """Argparse type: a text of at least one letter."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty; is a variable of the shell not set?")
    return text


def file_name(text: str) -> str:
    """Argparse type: a path as text, of a length that a file can have."""
    if any(len(os.fsencode(part)) > _MAX_NAME for part in Path(not_empty(text)).parts):
        raise argparse.ArgumentTypeError(
            f"{_shown(text)} has a name of more than {_MAX_NAME} bytes; give a shorter one"
        )
    if len(os.fsencode(text)) > _MAX_PATH:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is longer than {_MAX_PATH} bytes; give a shorter path")
    return text


def output_file(text: str) -> Path:
    """Argparse type: the path of a file to write; one that ends as a folder does is refused."""
    if text.endswith(tuple(filter(None, (os.sep, os.altsep)))):
        raise argparse.ArgumentTypeError(f"{_shown(text)} is a folder; add the name of a file")
    return _path(text)


def _path(text: str) -> Path:
    return Path(file_name(text))


def _text(text: str) -> str:
    """Take what a flag without a type is given; a blank may separate something."""
    return text or not_empty(text)


def _shown(text: str) -> str:
    return repr(shortened(text, 60))


def positive_int(text: str) -> int:
    """Argparse type: a whole number from 1 that 31 bits hold, which is what sizes and counts are made of."""
    return _whole_number(text, 1, MAX_INT)


def non_negative_int(text: str) -> int:
    """Argparse type: a whole number from 0 that 31 bits hold."""
    return _whole_number(text, 0, MAX_INT)


def seed_number(text: str) -> int:
    """Argparse type: the seed of a random generator."""
    return _whole_number(text, 0, 2**64 - 1)


def signed_seed_number(text: str) -> int:
    """Argparse type: a seed for PyTorch."""
    return _whole_number(text, -(2**63), 2**64 - 1)


def thread_count(text: str) -> int:
    """Argparse type: a number of threads; more than this only wait for each other, or end the program."""
    return _whole_number(text, 1, _MAX_THREADS)


def worker_count(text: str) -> int:
    """Argparse type: a number of threads or processes, or 0."""
    return _whole_number(text, 0, _MAX_THREADS)


def fraction(text: str) -> float:
    """Argparse type: a number from 0 to 1."""
    return _number(text, lambda value: 0 <= value <= 1, "number from 0 to 1")


def finite_float(text: str) -> float:
    """Argparse type: a finite number."""
    return _number(text, lambda value: abs(value) <= _MAX_FLOAT, "finite number")


def positive_float(text: str) -> float:
    """Argparse type: a finite number above 0."""
    return _number(text, lambda value: 0 < value <= _MAX_FLOAT, "number above 0")


def _number(text: str, is_valid: Callable[[float], bool], meaning: str) -> float:
    with suppress(ValueError):
        if is_valid(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"{_shown(text)} is not a {meaning}")


def _whole_number(text: str, low: int, high: int) -> int:
    with suppress(ValueError):
        if low <= (value := int(text)) <= high:
            return value
        if value > high:
            raise argparse.ArgumentTypeError(f"{_shown(text)} is more than {high:,}; give a smaller number")
    raise argparse.ArgumentTypeError(f"{_shown(text)} is not a whole number from {low}")


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


def add_workers_flag(parser: argparse._ActionsContainer) -> argparse.Action:
    """Add ``-j/--workers``, and return it."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return parser.add_argument(
        "-j",
        "--workers",
        type=worker_count,
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
