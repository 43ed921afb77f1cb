"""Word vectors for the labels of a metadata folder, or for a list of tags.

With --metadata: a new metadata folder with the same labels, split and images, and other vectors. With --tags: a file
of vectors, OUTPUT.npy [V, D], beside a file of its words, OUTPUT.txt; --word-vectors OUTPUT.npy reads them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.errors import UserError, blaming
from src.prepare.collected import Collected, look_up, vector_notes
from src.prepare.flags import (
    add_output_flags,
    add_split_flags,
    add_vector_flags,
    read_names,
    run_source,
    vector_options,
)
from src.utils.files import atomic_write, check_writable

HELP = "other word vectors for a metadata folder, or vectors for a list of tags"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``prepare_data.py word-vectors``."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--metadata", type=Path, metavar="DIR", help="a folder that prepare_data.py made")
    what.add_argument("--tags", type=Path, metavar="FILE", help="tags, one a line; --output is then a .npy file")
    add_output_flags(parser)
    add_vector_flags(parser)
    add_split_flags(parser)


def run(args: argparse.Namespace) -> list[str]:
    """``prepare_data.py word-vectors``: the report."""
    return write_tag_vectors(args) if args.tags is not None else run_source(args, collect)


def collect(args: argparse.Namespace) -> Collected:
    """What a metadata folder of this project's form holds.

    Raises:
        UserError: the folder cannot be read, or is of another form.
    """
    with blaming(f"--metadata {args.metadata}"):
        metadata = load_metadata(args.metadata, kind="SDL")
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


def write_tag_vectors(args: argparse.Namespace) -> list[str]:
    """Vectors for a list of tags: the report.

    Raises:
        UserError: a tag has no vector, a flag makes no sense with a list of tags, or a file is in the way.
    """
    output: Path = args.output
    words = output.with_suffix(".txt")
    if output.suffix != ".npy":
        raise UserError(f"--output {output}: with --tags, give the name of a .npy file")
    for flag, given in (
        ("--extra-words", args.extra_words),
        ("--official", args.official),
        ("--train-with-unseen", args.train_with_unseen != "keep"),
    ):
        if given:
            raise UserError(f"{flag} is about a metadata folder; leave it out with --tags")
    for path in (output, words):
        if path.exists() and not args.overwrite:
            raise UserError(f"--output {output}: {path} is there; choose another name or give --overwrite")
        check_writable(path, "--output")
    tags = read_names(args.tags, "--tags")
    found = look_up({tag: tag for tag in tags}, vector_options(args))
    with atomic_write(words, "w") as text, atomic_write(output) as binary:
        text.writelines(f"{label}\n" for label in found.labels)
        np.save(binary, found.vectors.t().contiguous().numpy(), allow_pickle=False)
    dim, count = found.vectors.shape
    return [f"{count:,} vectors of length {dim} from {found.source}, words in {words}", *vector_notes(found)]
