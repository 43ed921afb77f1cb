"""Your own images and tags: a table (CSV, TSV, JSONL, Parquet), or a folder a tag.

A table has a column of image paths and one of tags; the first line names them. Several tags of an image are a list
(["sea", "sun"]), text with , ; or | between them, or rows of their own:

    path,tags
    beach/0001.jpg,"sea, sand, sun"
    beach/0002.jpg,sea
    beach/0002.jpg,boat

In JSONL a line is {"path": "beach/0001.jpg", "tags": ["sea", "sand"]}. Paths are relative to --images, or absolute.
Columns of a .csv file may be divided by semicolons or tabs too, where its first line has more of these than commas.

As a folder, --source holds a folder a tag: beach/sea/0001.jpg has the tags beach and sea. Where the folders at the top
are train and val (or test), these are no tags but the division of the images.

Tags that differ only in case, blanks, - or _ are one; all are sorted by alphabet. Unless your own files say it, unseen
tags are chosen such that each has seen relatives, and images for validation such that each tag is in both parts, if
it has enough images. The report tells what was chosen and repaired.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from src.config.arguments import fraction, non_negative_int, positive_int
from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError, name_some
from src.prepare.choosing import stratified_validation, unseen_by_clusters
from src.prepare.collected import Collected
from src.prepare.flags import (
    add_missing_pictures_flag,
    add_output_flags,
    add_split_flags,
    add_vector_flags,
    read_names,
    run_source,
)
from src.prepare.images import keep_found
from src.prepare.table_files import PART_OF_SPLIT, Columns, Table, find_tables, read_folder, read_table
from src.prepare.table_images import locate
from src.prepare.table_tags import SEPARATORS, join_tags, same_tag_key, split_cells

HELP = "your own images and tags: CSV, TSV, JSONL, Parquet, or a folder a tag"

VAL_FRACTION = 0.2


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``prepare_data.py table``."""
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="the table, or a folder of folders")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="what paths are relative to; the table's folder if left out"
    )
    parser.add_argument("--path-column", metavar="NAME", help="recognised if called path, file, image or the like")
    parser.add_argument("--tags-column", metavar="NAME", help="recognised if called tags, labels, keywords or the like")
    parser.add_argument(
        "--tag-separator",
        default="auto",
        metavar="TEXT",
        help=f"between the tags of a cell; auto: the one of {' '.join(SEPARATORS)} that most cells have; none: a cell "
        "is one tag",
    )
    division = parser.add_mutually_exclusive_group()
    division.add_argument(
        "--val-fraction",
        type=fraction,
        metavar="SHARE",
        help=f"of the images, for validation; {VAL_FRACTION} if left out",
    )
    division.add_argument(
        "--split-column", metavar="NAME", help="instead: the column that says train, val, validation or test"
    )
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument(
        "--unseen-fraction", type=fraction, default=0.2, metavar="SHARE", help="of the tags, to hold out of training"
    )
    held_out.add_argument("--unseen", type=Path, metavar="FILE", help="instead: the tags to hold out, one a line")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="another seed makes other choices")
    parser.add_argument(
        "--min-pictures", type=positive_int, default=1, metavar="N", help="leave out tags of fewer images"
    )
    add_missing_pictures_flag(parser)
    add_output_flags(parser)
    add_vector_flags(parser)
    add_split_flags(parser)


def run(args: argparse.Namespace) -> list[str]:
    """``prepare_data.py table``: the report."""
    return run_source(args, collect)


def collect(args: argparse.Namespace) -> Collected:
    """Read a table or folder, and find its images.

    Raises:
        UserError: it is missing or malformed, images are not there, or there are too few tags or images.
    """
    table = _read(args)
    tags, notes = split_cells(table.tags, args.tag_separator, table.place)
    located = locate(table, args.images or (args.source if args.source.is_dir() else args.source.parent))
    tagging = join_tags(tags, located.image_of_row)
    if len(tagging.labels) < 2:
        raise _too_few_tags(tagging.labels, args.source)
    targets = LabelMatrix.from_positives(
        tagging.rows, tagging.columns, num_rows=len(located.names), num_labels=len(tagging.labels)
    )
    missing: list[str] = []
    images = keep_found(
        LabelledImages(tuple(range(1, len(targets) + 1)), located.names, targets),
        located.places,
        drop=args.missing_pictures == "drop",
        missing=missing,
        source=str(args.source),
        flag=f"--images {located.base}",
    )
    labels, images, rare = _without_rare(tagging.labels, images, args.min_pictures)
    parts, division = _parts(images, table, located.image_of_row, args)
    notes = [*_overview(table, images, labels), *notes, *tagging.notes]
    if missing:
        notes.append(f"left out {len(missing):,} images that are not there: {name_some(missing, 3)}")
    notes += [*rare, *division]
    unseen = None if args.unseen is None else _named_unseen(args.unseen, labels)
    if unseen is not None:
        notes.append(_unseen_note(unseen))
    return Collected(
        Path(os.path.abspath(args.source)).name if args.source.is_dir() else args.source.stem,
        labels,
        parts,
        image_root=located.root,
        unseen=unseen,
        choose_unseen=_chooser(args.unseen_fraction, args.seed, notes),
        notes=notes,
        missing_pictures=missing,
    )


def _read(args: argparse.Namespace) -> Table:
    source: Path = args.source
    if not source.is_dir():
        return read_table(source, Columns(args.path_column, args.tags_column, args.split_column))
    flags = {
        "--images": args.images,
        "--path-column": args.path_column,
        "--tags-column": args.tags_column,
        "--split-column": args.split_column,
        "--tag-separator": None if args.tag_separator == "auto" else args.tag_separator,
    }
    for flag, value in flags.items():
        if value is not None:
            raise UserError(f"{flag} {value}: --source {source} is a folder, not a table; leave {flag} out")
    table = read_folder(source)
    if table.splits is not None and args.val_fraction is not None:
        raise UserError(
            f"--val-fraction {args.val_fraction}: the folders of --source {source} say which images are for "
            "validation; leave it out"
        )
    return table


def _too_few_tags(labels: Sequence[str], source: Path) -> UserError:
    found = f"only one tag, {labels[0]}" if labels else "no tags at all"
    if not source.is_dir():
        return UserError(f"--source {source}: has {found}; at least two are needed, one seen and one unseen")
    tables = find_tables(source)
    instead = f", or give the table {tables[0]} itself" if tables else ""
    return UserError(f"--source {source}: has {found}; put the images of each tag into a folder of that name{instead}")


def _without_rare(
    labels: Sequence[str], images: LabelledImages, at_least: int
) -> tuple[list[str], LabelledImages, list[str]]:
    """Labels and images without the tags of fewer images, and a note."""
    enough = images.targets.positives_per_label() >= at_least
    if enough.all():
        return list(labels), images, []
    rare = [label for label, kept in zip(labels, enough.tolist(), strict=True) if not kept]
    kept = [label for label, kept in zip(labels, enough.tolist(), strict=True) if kept]
    if len(kept) < 2:
        raise UserError(f"--min-pictures {at_least}: leaves {len(kept)} of {len(labels)} tags; give a smaller number")
    note = f"left out {len(rare):,} tags of fewer than {at_least} images: {name_some(rare, 20)}"
    return kept, images.with_targets(images.targets.select_columns(enough.nonzero()[:, 0])), [note]


def _parts(
    images: LabelledImages, table: Table, image_of_row: Sequence[int], args: argparse.Namespace
) -> tuple[dict[str, LabelledImages], list[str]]:
    """The training and validation images, and how they were told apart."""
    in_val = torch.zeros(len(images), dtype=torch.bool)
    if table.splits is None:
        share = VAL_FRACTION if args.val_fraction is None else args.val_fraction
        chosen = stratified_validation(*images.targets.positives(), *images.targets.shape, share, args.seed)
        in_val[chosen] = True
        notes = [f"chose {len(chosen):,} images for validation (--val-fraction {share}, --seed {args.seed})"]
    else:
        part_of, notes = _part_of_images(table, table.splits, image_of_row)
        in_val = torch.tensor([part_of[int(number) - 1] == "val" for number in images.image_ids])
    rows = {"train": (~in_val).nonzero()[:, 0], "val": in_val.nonzero()[:, 0]}
    empty = [part for part in rows if len(rows[part]) == 0]
    if empty:
        raise UserError(f"--split-column {args.split_column}: no image is {empty[0]}; both train and val are needed")
    return {part: images.rows(own) for part, own in rows.items()}, notes


def _part_of_images(
    table: Table, splits: Sequence[str], image_of_row: Sequence[int]
) -> tuple[dict[int, str], list[str]]:
    """Image -> ``train`` or ``val``, by what the rows say; and a note."""
    part_of: dict[int, str] = {}
    row_of: dict[int, int] = {}
    counts: dict[str, int] = {}
    for row, (split, image) in enumerate(zip(splits, image_of_row, strict=True)):
        value = split.strip().casefold()
        part = PART_OF_SPLIT.get(value)
        if part is None:
            raise UserError(f"{table.place(row)}: the split is {split!r}, which is none of {', '.join(PART_OF_SPLIT)}")
        if part_of.setdefault(image, part) != part:
            raise UserError(
                f"{table.place(row)}: {table.paths[row]} is {part} here, but {part_of[image]} in {table.unit} "
                f"{table.numbers[row_of[image]]}; an image can be only one"
            )
        row_of.setdefault(image, row)
        counts[value] = counts.get(value, 0) + 1
    said = ", ".join(f"{value} {count:,}" for value, count in sorted(counts.items()))
    return part_of, [f"{table.unit}s by split: {said}; all but train are for validation"]


def _overview(table: Table, images: LabelledImages, labels: Sequence[str]) -> list[str]:
    counts = images.targets.positives_per_label()
    most = counts.sort(descending=True, stable=True).indices[:5].tolist()
    frequent = ", ".join(f"{labels[column]} ({int(counts[column]):,})" for column in most)
    untagged = int((images.targets.positives_per_image() == 0).sum())
    notes = [
        f"{table.source}: {len(table.paths):,} {table.unit}s, {len(images):,} images, {len(labels):,} tags; most "
        f"frequent: {frequent}"
    ]
    if any(table.unused):
        notes.append(f"columns not used: {name_some([name for name in table.unused if name], 20)}")
    if untagged:
        notes.append(f"{untagged:,} images without a tag are kept; training does not use them")
    return notes


def _named_unseen(path: Path, labels: Sequence[str]) -> list[str]:
    """The tags that a file names, in any spelling."""
    label_of = {same_tag_key(label): label for label in labels}
    names = read_names(path, "--unseen")
    strangers = [name for name in names if same_tag_key(name) not in label_of]
    if strangers:
        raise UserError(f"--unseen {path}: no such tag: {name_some(strangers)}; name tags that images have")
    return list(dict.fromkeys(label_of[same_tag_key(name)] for name in names))


def _unseen_note(unseen: Sequence[str]) -> str:
    return f"unseen tags: {name_some(list(unseen), 40)}"


def _chooser(share: float, seed: int, notes: list[str]) -> Callable[[Sequence[str], Tensor], list[str]]:
    """Chooses unseen tags once their vectors are known, and adds to ``notes`` which."""

    def choose(labels: Sequence[str], vectors: Tensor) -> list[str]:
        unseen = unseen_by_clusters(labels, vectors, share, seed)
        notes.append(f"{_unseen_note(unseen)} (--unseen-fraction {share}, --seed {seed})")
        return unseen

    return choose
