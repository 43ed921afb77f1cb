"""The flags of infer.py; those of the released infer.py keep their names."""

from __future__ import annotations

import argparse
from pathlib import Path

from src.choices import DATASET_KINDS, SCORES
from src.config.arguments import (
    ArgumentParser,
    add_device_flag,
    add_engine_flag,
    add_exact_flag,
    add_workers_flag,
    finite_float,
    positive_int,
)

QUICK_START = Path(__file__).resolve().parent.parent.parent / "models" / "sdl_lite0_corel5k.pth"


def infer_parser(description: str | None) -> ArgumentParser:
    """All flags, in groups."""
    parser = ArgumentParser(prog="infer.py", description=description)
    _add_image_flags(parser)
    _add_model_flags(parser)
    _add_tag_flags(parser)
    _add_output_flags(parser)
    _add_speed_flags(parser)
    return parser


def fitted_or_float(text: str) -> float | str:
    """An argparse type: a finite number, or ``fitted``."""
    if text == "fitted":
        return text
    try:
        return finite_float(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'fitted'") from error


def _add_image_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--pic_path",
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, folders (with all below them), patterns in quotes, a .txt file or @FILE with a path a line, or "
        "- for a list on standard input",
    )


def _add_model_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--model_path",
        type=Path,
        default=QUICK_START,
        help="a checkpoint of train.py or of the released code, or a file of export.py",
    )
    add(
        "--dataset_path",
        type=Path,
        help="metadata folder whose labels to use instead of the checkpoint's (released checkpoints: ./data/NUS_WIDE)",
    )
    add("--dataset_type", choices=DATASET_KINDS, help="the kind of --dataset_path; recognised if left out")
    add("--model_name", help="the backbone that the checkpoint must hold")
    add("--num_rows", type=positive_int, help="the number of principal vectors M that the checkpoint must hold")
    add("--wordvec_dim", type=positive_int, help="the word-vector length D that the checkpoint must hold")
    add("--input_size", type=positive_int, help="side of the model's input in pixels; the checkpoint's if left out")
    add(
        "--pretrain-backbone",
        type=int,
        choices=(0, 1),
        default=0,
        help="1 says that --model_path is a bare backbone, which cannot tag",
    )


def _add_tag_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("tags").add_argument
    add("--top_k", type=positive_int, metavar="K", help="most tags an image (10, or without limit with --threshold)")
    add(
        "--threshold",
        type=fitted_or_float,
        metavar="SCORE",
        help="only tags that score above this, or 'fitted': above each tag's own threshold that validate.py "
        "--fit-thresholds put into the checkpoint",
    )
    add(
        "--scores",
        choices=SCORES,
        default="raw",
        help="what is shown and what --threshold is about: dot products, or calibrated probabilities (validate.py "
        "--fit-thresholds)",
    )
    add(
        "--seen_bias",
        type=fitted_or_float,
        metavar="BIAS",
        help="subtract this from the scores of seen labels when ranking, or 'fitted' (calibrated stacking); 0, or "
        "fitted with --scores probability",
    )
    add("--tags", metavar="LIST", help="own words, with commas between them: 'sea turtle, sunset'")
    add("--tags_file", type=Path, metavar="FILE", help="own words, one a line")
    add("--only_tags", action="store_true", help="choose among the own words only, not among the checkpoint's labels")
    add(
        "--word_vectors",
        metavar="PATH",
        help="where own words have their vectors: what prepare_data.py --word-vectors takes; without it, the words "
        "that the checkpoint carries",
    )


def _add_output_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", type=Path, metavar="FILE", help="write tags and scores as JSON")
    add("--csv", type=Path, metavar="FILE", help="write them as CSV, a row a tag")
    add("--parquet", type=Path, metavar="FILE", help="write them as Parquet, a row a tag; needs pyarrow")
    add("--resume", action="store_true", help="skip the images that these files, or a killed run, have already")
    add("--overwrite", action="store_true", help="start anew where an earlier run was killed")
    add("--html", type=Path, metavar="FILE", help="write a page of thumbnails that is filtered by tag, for a browser")
    add(
        "--write_keywords",
        type=Path,
        metavar="DIR",
        help="copy the images into this folder with their tags as XMP and IPTC keywords; needs pyexiv2",
    )
    add("--path_output", type=Path, default=Path("outputs"), metavar="DIR", help="folder for annotated images")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no_picture", action="store_true", help="save no annotated images")
    which.add_argument(
        "--annotate", action="store_true", help="save annotated images even if there are many (they are slow to draw)"
    )
    add(
        "--explain",
        type=positive_int,
        nargs="?",
        const=6,
        metavar="N",
        help="save, for the N best tags (6), where in the image their scores come from",
    )
    add("--quiet", action="store_true", help="print no tags")


def _add_speed_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--batch_size",
        type=positive_int,
        default=16,
        metavar="N",
        help="images that go through the model at once; with ONNX Runtime and more images than that, as many "
        "threads as --num_threads and --workers allow read and compute a share each",
    )
    group.add_argument(
        "--num_threads", type=positive_int, metavar="N", help="threads that a CPU computes with (all, if left out)"
    )
    add_engine_flag(group)
    add_exact_flag(group)
    add_workers_flag(group)
    add_device_flag(group)
