"""Settings whose fields are command-line flags: declared once, in a frozen dataclass, and free of PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar

from src.config.arguments import needing

_T = TypeVar("_T")


def flag(
    default: Any = MISSING,
    *short: str,
    exclusive: str | None = None,
    needs: Sequence[str] = (),
    excluded: Sequence[str] = (),
    positional: bool = False,
    **options: Any,
) -> Any:
    """Declare a dataclass field that is a flag of the same name.

    Args:
        default: value without the flag; a flag without a default is required.
        short: further spelling, such as ``-b``.
        exclusive: name of a group of flags that exclude each other.
        needs, excluded: see :func:`src.config.arguments.needing`.
        positional: the values stand on the command line without a flag.
        options: keywords of ``ArgumentParser.add_argument``.
    """
    needed = (tuple(needs), tuple(excluded))
    return field(
        default=default,
        metadata={
            "short": short,
            "exclusive": exclusive,
            "needed": needed,
            "positional": positional,
            "options": options,
        },
    )


def add_flags(
    parser: argparse._ActionsContainer, settings: type, *, separator: str = "-", only: Collection[str] | None = None
) -> None:
    """Add the flags of a settings class to a parser, or those of some fields; ``separator`` joins a name's words."""
    groups: dict[str, argparse._ActionsContainer] = {}
    for one in fields(settings):
        if not one.metadata or (only is not None and one.name not in only):
            continue  # a flag that several scripts share, added by the caller
        group = one.metadata["exclusive"]
        if group is not None and group not in groups:
            groups[group] = parser.add_mutually_exclusive_group()
        options = dict(one.metadata["options"])
        if one.metadata["positional"]:
            parser.add_argument(one.name, **options)
            continue
        options |= {"required": True} if one.default is MISSING else {"default": one.default}
        long = f"--{one.name.replace('_', separator)}"
        action = groups.get(group, parser).add_argument(*one.metadata["short"], long, **options)
        flags, excluded = one.metadata["needed"]
        if flags or excluded:
            needing(action, *flags, excluded=excluded)


def settings_of(settings: type[_T], args: argparse.Namespace) -> _T:
    """Return the settings that parsed arguments stand for."""
    return settings(**{one.name: getattr(args, one.name) for one in fields(settings)})  # type: ignore[arg-type]
