"""From the settings of prepare_data.py to a metadata folder."""

from __future__ import annotations

from importlib import import_module

from src.config.prepare import OutputSettings, VectorSettings
from src.config.sources import SourceSettings, WordVectorsSettings
from src.data.metadata_writer import check_output_folder
from src.prepare.collected import Collected
from src.prepare.folder import make_folder
from src.prepare.sample import sample_vectors
from src.prepare.vectors import OpenVectors, open_vectors
from src.prepare.word_vectors import write_tag_vectors


def prepare(settings: SourceSettings, vectors: VectorSettings | None, output: OutputSettings) -> list[str]:
    """Make the metadata folder of a data source.

    Args:
        settings: the source, and how to read it.
        vectors: source of the word vectors; None for a source that brings its own.
        output: the folder to make.

    Returns:
        The report, one line per finding.

    Raises:
        UserError: something is missing, malformed or contradictory; nothing is written then.
    """
    if isinstance(settings, WordVectorsSettings) and settings.tags is not None:
        assert vectors is not None
        return write_tag_vectors(settings.tags, vectors, output)
    check_output_folder(output.output, output.overwrite)
    # Before the source is read, so that a misspelt path does not cost minutes
    opened: OpenVectors = sample_vectors() if vectors is None else open_vectors(vectors)
    collected: Collected = import_module(f"src.prepare.{settings.reader}").collect(settings)
    return make_folder(collected, opened, output)
