"""The readers that are fuzzed, one module for each kind of file."""

from __future__ import annotations

from functools import cache

from tests.fuzz.harness import Target
from tests.fuzz.targets import (
    checkpoints,
    folders,
    images,
    labels,
    metadata,
    models,
    outputs,
    pickles,
    states,
    tables,
    texts,
    vectors,
)


@cache
def all_targets() -> tuple[Target, ...]:
    """Return every reader, in a fixed order."""
    modules = (checkpoints, folders, images, labels, metadata, models, outputs, pickles, states, tables, texts, vectors)
    return tuple(target for module in modules for target in module.targets())
