"""Other word vectors for a metadata folder, or a file of vectors for a list of tags."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from src.config.prepare import OutputSettings, VectorSettings
from src.config.sources import WordVectorsSettings
from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.errors import UserError, blaming
from src.prepare.collected import Collected
from src.prepare.files import read_names
from src.prepare.vectors import look_up, open_vectors, vector_notes
from src.utils.files import atomic_write, check_writable


def collect(settings: WordVectorsSettings) -> Collected:
    """Read a metadata folder that prepare_data.py made; raise :class:`UserError` if it is of another form."""
    assert settings.metadata is not None
    with blaming(f"--metadata {settings.metadata}"):
        metadata = load_metadata(settings.metadata, kind="SDL")
        split = metadata.split
        files = {"train": metadata.train, "val": metadata.val}
        parts = {part: read_coco_labels(path, split.labels) for part, path in files.items() if path is not None}
    root = metadata.image_root
    return Collected(
        split.name.removesuffix(f"_{len(split.seen)}_{len(split.unseen)}"),
        split.labels,
        parts,
        image_root=None if root is None else os.path.abspath(root),
        seen=split.names(split.seen),
        unseen=split.names(split.unseen),
    )


def write_tag_vectors(tag_file: Path, vectors: VectorSettings, settings: OutputSettings) -> list[str]:
    """Write the vectors of a list of tags and return the report.

    Raises:
        UserError: a tag has no vector, a flag makes no sense with a list of tags, or a file is in the way.
    """
    output = settings.output
    words = output.with_suffix(".txt")
    if output.suffix != ".npy":
        raise UserError(f"--output {output}: with --tags, give the name of a .npy file")
    if vectors.extra_words or settings.official or settings.train_with_unseen != "keep":
        raise UserError("--extra-words, --official and --train-with-unseen are about metadata folders; leave them out")
    for path in (output, words):
        if path.exists() and not settings.overwrite:
            raise UserError(f"--output {output}: {path} exists; choose another name or give --overwrite")
        check_writable(path, "--output")
    tags = read_names(tag_file, "--tags")
    found = look_up({tag: tag for tag in tags}, open_vectors(vectors))
    with atomic_write(words, "w") as text, atomic_write(output) as binary:
        text.writelines(f"{label}\n" for label in found.labels)
        np.save(binary, found.vectors.t().contiguous().numpy(), allow_pickle=False)
    dim, count = found.vectors.shape
    return [f"{count:,} vectors of length {dim} from {found.source}, words in {words}", *vector_notes(found)]
