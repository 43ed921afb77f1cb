"""The flags of validate.py; those of ASL's validate.py keep their names."""

from __future__ import annotations

from pathlib import Path

from src.choices import IMAGES, SEEN_BIASES
from src.config.arguments import (
    ArgumentParser,
    add_device_flag,
    add_engine_flag,
    add_exact_flag,
    add_workers_flag,
    finite_float,
    fraction,
    non_negative_int,
    positive_int,
)


def validate_parser(description: str | None) -> ArgumentParser:
    """The flags; those of ASL's validate.py keep their names."""
    flags = ArgumentParser(prog="validate.py", description=description)
    add = flags.add_argument
    add("positional_data", metavar="DATA", nargs="?", help="image folder, the same as --data")
    add(
        "--data",
        metavar="DIR",
        help="image folder; the one that the metadata folder or the checkpoint records if left out",
    )
    add(
        "--metadata",
        metavar="DIR",
        help="metadata folder; --data itself if it is one, else the one that the checkpoint was trained with",
    )
    add(
        "--model-path",
        type=Path,
        required=True,
        metavar="FILE",
        help="a checkpoint of train.py or of the released code, or a file of export.py",
    )
    add("--model-name", help="the backbone that the checkpoint must hold")
    add("--num_rows", type=positive_int, help="the number of principal vectors M that the checkpoint must hold")
    add("--wordvec_dim", type=positive_int, help="the word-vector length D that the checkpoint must hold")
    add(
        "--image-size",
        type=positive_int,
        metavar="N",
        help="side of the model's input in pixels; the checkpoint's if left out",
    )
    add(
        "-b",
        "--batch-size",
        type=positive_int,
        default=32,
        metavar="N",
        help="images that go through the model at once",
    )
    add("--top_k", type=positive_int, nargs="+", default=[3, 5], metavar="K", help="the K of P/R/F1@K")
    add(
        "--images",
        choices=IMAGES,
        default="positive-only",
        help="which images count: those with a relevant label (released code), or all",
    )
    add(
        "--thre",
        type=finite_float,
        metavar="SCORE",
        help="also report P/R/F1 of the labels that score above this (a raw score, not a probability)",
    )
    add("-p", "--print-freq", type=positive_int, default=1, metavar="N", help="update the progress bar every N batches")
    add("--autocast-enabled", type=int, choices=(0, 1), default=0, help="mixed precision on a GPU")
    add("--json", type=Path, metavar="FILE", help="also write protocol and metrics as JSON")
    add_engine_flag(flags)
    _add_fit_flags(flags)
    add_device_flag(flags)
    add_exact_flag(flags)
    add_workers_flag(flags)
    return flags


def _add_fit_flags(flags: ArgumentParser) -> None:
    """``--fit-thresholds`` and what goes with it."""
    add = flags.add_argument
    add(
        "--fit-thresholds",
        type=Path,
        metavar="FILE",
        help="fit each label's threshold, probabilities and the bias of seen labels on a part of the images, measure "
        "them on the rest, and write a copy of the checkpoint that has them, and a plot beside it",
    )
    add("--fit-share", type=fraction, default=0.5, metavar="SHARE", help="of the images that --fit-thresholds fits on")
    add(
        "--fit-bias",
        choices=SEEN_BIASES,
        default="labels",
        help="what tells how much seen labels lose: the labels of the images, unseen ones included, or the gap "
        "between the scores of both sides, which looks at no unseen label",
    )
    add("--seed", type=non_negative_int, default=0, help="of the division of the images for --fit-thresholds")
