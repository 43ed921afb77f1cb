"""Running a data source of prepare_data.py in this process, from its flags."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from src.config.prepare import OutputSettings, parse
from src.config.sources import SampleSettings
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


def prepare_sample(output: Path, *, num_train: int = 200, num_val: int = 100, seed: int = 0) -> list[str]:
    """Draw the sample data set into a new metadata folder: the report."""
    settings = SampleSettings(train_images=num_train, val_images=num_val, seed=seed)
    return prepare(settings, None, OutputSettings(output=output))
