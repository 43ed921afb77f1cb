"""Running a data source of prepare_data.py in this process, from its flags."""

from __future__ import annotations

from importlib import import_module

from src.config.prepare import parse
from src.prepare.collected import Collected
from src.prepare.run import prepare


def prepare_source(source: str, *flags: object) -> list[str]:
    """Make the metadata folder that the flags ask for: the report."""
    return prepare(*parse([source, *map(str, flags)]))


def collect_source(source: str, *flags: object) -> Collected:
    """Read a source, without word vectors and without writing anything."""
    settings, _, _ = parse([source, "--output", "unused", "--word-vectors", "unused", *map(str, flags)])
    collected: Collected = import_module(f"src.prepare.{settings.reader}").collect(settings)
    return collected
