"""Processes that torchrun starts, before they have joined; without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from src.errors import UserError

QUIET = 2  # exit status of a process that leaves the message to another


def is_one_of_many() -> bool:
    """Return whether this is one of several processes of torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_other_rank() -> bool:
    """Return whether this is a process of torchrun, but not its first."""
    return is_one_of_many() and os.environ.get("RANK", "0") != "0"


@contextmanager
def told_by_first() -> Iterator[None]:
    """Leave the message about a mistake that every process makes, such as a wrong flag, to the first one."""
    try:
        yield
    except UserError:
        if is_other_rank():
            raise SystemExit(QUIET) from None
        raise
