"""MS-COCO, or own data in COCO format: instances_*.json of training and validation images.

COCO's own layout, which --source takes:

    annotations/instances_train2014.json, instances_val2014.json     or 2017
    train2014/, val2014/                                             images, in any sub-folders

A label is positive where an image has an annotation of that category. Images are found by their exact name or by the
id in it, so annotations of 2014 go with images of 2017 and the reverse.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from src.data.coco import COCO_CLASSES
from src.data.labels import LabelledImages
from src.data.split import columns_of
from src.errors import UserError, name_some
from src.prepare.coco_facts import (
    PUBLISHED_IMAGES,
    SPLITS,
    TEST_LIST,
    TEST_LIST_SIZE,
    compare_images,
    compare_labels,
)
from src.prepare.coco_files import LabelFile, Parts, differences, label_files, read_parts
from src.prepare.coco_images import ImageIndex, identity
from src.prepare.collected import Collected
from src.prepare.flags import (
    add_missing_pictures_flag,
    add_output_flags,
    add_split_flags,
    add_vector_flags,
    read_names,
    run_source,
)
from src.prepare.images import keep_found, list_images
from src.utils.files import read_lines

HELP = "MS-COCO 2014 or 2017, or own data in COCO format"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``prepare_data.py coco``."""
    parser.add_argument("--train", type=Path, metavar="FILE", help="annotations of the training images, COCO format")
    parser.add_argument("--val", type=Path, metavar="FILE", help="annotations of the validation images, COCO format")
    parser.add_argument("--source", type=Path, metavar="DIR", help="instead of both: a folder in COCO's own layout")
    parser.add_argument(
        "--year", choices=("2014", "2017"), help="which release in --source; needed where annotations/ has both"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="image folder, searched with its sub-folders; the --source folder if left out and it holds images",
    )
    add_missing_pictures_flag(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", choices=tuple(SPLITS), default="48_17", help="seen and unseen of COCO's 80 classes")
    which.add_argument("--unseen", type=Path, metavar="FILE", help="instead: labels to hold out, one a line")
    parser.add_argument("--seen", type=Path, metavar="FILE", help="with --unseen: seen labels, if not all others")
    parser.add_argument(
        "--test-ids", type=Path, metavar="FILE", help="validate on these images only, an image id a line"
    )
    parser.add_argument(
        "--crowd",
        choices=("keep", "drop"),
        default="keep",
        help="whether the annotation of a crowd makes a label, as in the released code",
    )
    add_output_flags(parser)
    add_vector_flags(parser)
    add_split_flags(parser)


def run(args: argparse.Namespace) -> list[str]:
    """``prepare_data.py coco``: the report."""
    return run_source(args, collect)


def collect(args: argparse.Namespace) -> Collected:
    """Read the label files and find the images.

    Raises:
        UserError: flags contradict each other, a file or image is missing or malformed, or does not fit the others.
    """
    files = label_files(args)
    seen, unseen = _sides(args)
    test_ids = None if args.test_ids is None else _read_test_ids(args.test_ids, files)
    notes: list[str] = []
    labels, parts = read_parts(files, drop_crowds=args.crowd == "drop", notes=notes)
    is_coco = labels == COCO_CLASSES
    _check_sides(args, seen, unseen, labels)
    comparable = is_coco and args.unseen is None and args.split == "48_17" and args.crowd == "keep"
    for part, file in files.items():
        notes += compare_images(file.release, len(parts[part])) if is_coco else []
        if comparable and len(parts[part]) == PUBLISHED_IMAGES.get(file.release):
            notes += compare_labels(file.release, parts[part].targets)
    if test_ids is not None:
        parts["val"] = _only(parts["val"], test_ids, args.test_ids, notes)
        if comparable and files["val"].release == "val2014" and len(parts["val"]) == TEST_LIST_SIZE:
            notes += compare_labels(TEST_LIST, parts["val"].targets)
    missing: list[str] = []
    image_root = _find_images(parts, files, args, missing, notes)
    _check_distinct(parts, files)
    if len(parts) == 2:
        parts["train"] = _without_test_images(parts, files["train"], notes)
    return Collected(
        "coco" if is_coco else "coco_format",
        labels,
        parts,
        image_root,
        unseen=unseen,
        seen=seen,
        notes=notes,
        missing_pictures=missing,
    )


def _sides(args: argparse.Namespace) -> tuple[Sequence[str] | None, Sequence[str]]:
    """The seen labels, or None for all others, and the unseen ones; whether they are labels is not known yet."""
    if args.unseen is None:
        if args.seen is not None:
            raise UserError(f"--seen {args.seen} needs --unseen; --split says both itself")
        return SPLITS[args.split]
    unseen = read_names(args.unseen, "--unseen")
    if args.seen is None:
        return None, unseen
    seen = read_names(args.seen, "--seen")
    both = [name for name in seen if name in set(unseen)]
    if both:
        raise UserError(f"--seen {args.seen}: --unseen names these too: {name_some(both)}; a label is on one side only")
    return seen, unseen


def _read_test_ids(path: Path, files: Mapping[str, LabelFile]) -> list[str]:
    """As listed, with repetitions."""
    if "val" not in files:
        raise UserError(f"--test-ids {path} chooses among validation images; give --val too")
    ids = [line for line in read_lines(path, "--test-ids") if line]
    if not ids:
        raise UserError(f"--test-ids {path}: lists nothing; give an image id a line")
    return ids


def _check_sides(
    args: argparse.Namespace, seen: Sequence[str] | None, unseen: Sequence[str], labels: Sequence[str]
) -> None:
    if args.unseen is None:
        if labels != COCO_CLASSES:
            apart = differences(COCO_CLASSES, labels, "COCO", "the label file")
            raise UserError(
                f"--split {args.split} is about COCO's 80 classes, which these are not ({apart}); "
                "give the labels to hold out with --unseen FILE"
            )
        return
    columns_of(unseen, labels, f"--unseen {args.unseen}")
    columns_of(seen or (), labels, f"--seen {args.seen}")


def _only(images: LabelledImages, test_ids: Sequence[str], path: Path, notes: list[str]) -> LabelledImages:
    """The images with these ids, in the order of the label file."""
    row_of = {str(image_id): row for row, image_id in enumerate(images.image_ids)}
    chosen = set(test_ids)
    strangers = [image_id for image_id in dict.fromkeys(test_ids) if image_id not in row_of]
    if strangers:
        raise UserError(
            f"--test-ids {path}: {len(strangers):,} of the {len(chosen):,} ids are not among the validation images "
            f"({name_some(strangers, 3)}); is the list meant for another release?"
        )
    notes.append(f"val: {len(chosen):,} of the {len(images):,} images, those that {path.name} lists")
    if len(chosen) < len(test_ids):
        notes.append(f"val: {path.name} repeats {len(test_ids) - len(chosen):,} of its ids")
    return images.rows(torch.tensor(sorted(row_of[image_id] for image_id in chosen), dtype=torch.int64))


def _find_images(
    parts: Parts, files: Mapping[str, LabelFile], args: argparse.Namespace, missing: list[str], notes: list[str]
) -> str | None:
    """Give the images in ``parts`` the names they have on disk: the folder that these are relative to, or None."""
    flag, root = ("--images", args.images) if args.images is not None else ("--source", args.source)
    found = [] if root is None else list_images(root, flag)
    if not found:
        if args.images is not None:
            raise UserError(f"--images {root}: there are no images in it")
        if args.missing_pictures == "drop":
            raise UserError("--missing-pictures drop needs the images: give their folder with --images DIR")
        notes.append("images were not looked for: no --images; their names are those of the label files")
        return None
    index = ImageIndex(found)
    for part, file in files.items():
        images = parts[part]
        source, where = file.path.name, f"{flag} {root}"
        places, num_repeated = index.locate(images, source, where)
        parts[part] = keep_found(
            images, places, drop=args.missing_pictures == "drop", missing=missing, source=source, flag=where
        )
        lost = len(images) - len(parts[part])
        if lost:
            notes.append(f"{part}: left out {lost:,} images without an image, listed in missing_pictures.txt")
        if num_repeated:
            notes.append(
                f"{part}: {num_repeated:,} images have several files of their id; took the one of their exact name, or "
                "else the first"
            )
    return os.path.abspath(root)


def _check_distinct(parts: Parts, files: Mapping[str, LabelFile]) -> None:
    for part, images in parts.items():
        repeated = [name for name, count in Counter(images.file_names).items() if count > 1]
        if repeated:
            raise UserError(
                f"{files[part].flag} {files[part].path}: {len(repeated):,} files are listed under several image ids "
                f"({name_some(repeated, 3)}); merge these entries"
            )


def _without_test_images(parts: Parts, train_file: LabelFile, notes: list[str]) -> LabelledImages:
    """The training images that are not validated on: the releases, mixed, share images."""
    train = parts["train"]
    tested = set(_identities(parts["val"]))
    is_shared = torch.tensor([key in tested for key in _identities(train)])
    shared, kept = ((is_shared == side).nonzero()[:, 0] for side in (True, False))
    if not len(kept):
        raise UserError(
            f"{train_file.flag} {train_file.path}: every training image is a validation image too; give another "
            "file, or, if other images have the same names, write the sub-folders into file_name"
        )
    if len(shared):
        names = name_some(list(train.rows(shared).file_names), 3)
        notes.append(f"train: left out {len(shared):,} images that are in val too ({names})")
    return train.rows(kept)


def _identities(images: LabelledImages) -> list[int | str]:
    return [identity(*pair) for pair in zip(images.image_ids, images.file_names, strict=True)]
