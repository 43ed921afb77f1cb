"""The experiments behind the tables: the data set of each, and what prepare_data.py needs to read it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Experiment:
    """A table of a paper.

    Attributes:
        name: of its entry in published.toml, its recipe and its script.
        source: sub-command of prepare_data.py.
        data_help: what ``--data`` has to hold.
        missing: default of ``--missing``.
        add_flags: adds the flags that only this data set has.
        prepare_flags: flags of the script -> further arguments of that sub-command.
    """

    name: str
    source: str
    data_help: str
    missing: str = "error"
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    prepare_flags: Callable[[argparse.Namespace], list[str]] = lambda args: []


def _add_missing_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--missing-pictures", choices=("error", "drop"), default="error", help="what to do with images that are gone"
    )


def _images_in_data(args: argparse.Namespace) -> list[str]:
    """Name the images, which lie below --data unless --images says otherwise."""
    return ["--images", os.path.abspath(args.images or args.data), "--missing-pictures", args.missing_pictures]


def _add_coco_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--year", choices=("2014", "2017"), default="2014", help="release below --data")
    parser.add_argument(
        "--test-ids",
        metavar="FILE",
        help="validate on these images only, one id per line: the published list has 6,392",
    )
    _add_missing_pictures(parser)


def _coco_flags(args: argparse.Namespace) -> list[str]:
    flags = ["--year", args.year, "--split", "48_17", "--missing-pictures", args.missing_pictures]
    flags += [] if args.images is None else ["--images", os.path.abspath(args.images)]
    return flags + ([] if args.test_ids is None else ["--test-ids", os.path.abspath(args.test_ids)])


NUS_WIDE = Experiment(
    "nus_wide",
    "nus-wide",
    "folder with the text files of NUS-WIDE (ImageList, NUS_WID_Tags, Groundtruth, ConceptsList) and the images",
    add_flags=_add_missing_pictures,
    prepare_flags=_images_in_data,
)
OPEN_IMAGES = Experiment(
    "open_images",
    "open-images",
    "folder with the label files and class lists of Open Images v4 and the images",
    add_flags=_add_missing_pictures,
    prepare_flags=_images_in_data,
)
COCO_48_17 = Experiment(
    "coco_48_17",
    "coco",
    "folder of MS-COCO (annotations/, train2014/, val2014/)",
    add_flags=_add_coco_flags,
    prepare_flags=_coco_flags,
)
COREL5K = Experiment(
    "corel5k",
    "corel5k",
    "folder of Corel5k (words, training_label, test_label, images/)",
    missing="drop",  # 73 of the 374 words are not in the NUS-WIDE vocabulary
    prepare_flags=lambda args: ["--forms", "strict"],
)
