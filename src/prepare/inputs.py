"""The inputs of a run of prepare_data.py, which its output must not replace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from src.config.data_sets import SourceSettings
from src.config.prepare import VectorSettings
from src.config.sources import WordVectorsSettings
from src.data.metadata_folder import FILES
from src.errors import UserError


def named_inputs(settings: SourceSettings, vectors: VectorSettings | None) -> Iterator[tuple[str, Path]]:
    """Yield the flags of a run that name files or folders to read, with these."""
    parts: list[SourceSettings | VectorSettings] = [settings] if vectors is None else [settings, vectors]
    for part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, list):
                yield from (("combine", path) for path in value if isinstance(path, Path))
            elif isinstance(value, Path) or (field.name == "word_vectors" and value is not None):
                yield f"--{field.name.replace('_', '-')}", Path(value)


def refuse_replaced_inputs(settings: SourceSettings, vectors: VectorSettings | None, output: Path) -> None:
    """Raise :class:`UserError` if the metadata folder would replace what it is made of.

    ``word-vectors --metadata DIR`` may write into that same folder: giving it other vectors is what it is for.
    """
    folder = Path(os.path.realpath(output))
    replaced = {folder / name for name in FILES} | {folder / "official"}
    is_update = isinstance(settings, WordVectorsSettings) and Path(os.path.realpath(settings.metadata or "")) == folder
    for flag, path in named_inputs(settings, vectors):
        real = Path(os.path.realpath(path))
        is_metadata = flag in ("--metadata", "--word-vectors", "combine") and real == folder and not is_update
        if is_metadata or replaced.intersection((real, *real.parents)):
            raise UserError(
                f"{flag} {path}: --output {output} would replace it while it is read; choose another output folder"
            )
