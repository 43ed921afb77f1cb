"""Your own images and tags (see ``TableSettings`` for the forms)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from src.config.sources import TableSettings
from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError, name_some
from src.prepare.choosing import stratified_validation, unseen_by_clusters
from src.prepare.collected import Collected
from src.prepare.files import ImageFilter, holds_out_none, read_names
from src.prepare.table_files import PART_OF_SPLIT, Table, read_folder, read_table
from src.prepare.table_images import Located, locate
from src.prepare.table_tags import Tagging, join_tags, same_tag_key, split_cells
from src.text import shortened

VAL_FRACTION = 0.2


def collect(settings: TableSettings) -> Collected:
    """Read a table or folder, and find its images.

    Raises:
        UserError: it is missing or malformed, images are not there, or there are too few tags or images.
    """
    return collect_table(_read(settings), settings)


def collect_table(table: Table, settings: TableSettings) -> Collected:
    """Find the images of a table, and divide images and tags.

    Raises:
        UserError: images are not there, or there are too few tags or images.
    """
    source = settings.source
    tags, notes = split_cells(table.tags, settings.tag_separator, table.place)
    located = locate(table, settings.images or (source if source.is_dir() else source.parent))
    tagging = join_tags(tags, located.image_of_row)
    if len(tagging.labels) < 2:
        found = f"only one tag, {tagging.labels[0]}" if tagging.labels else "no tags at all"
        raise UserError(
            f"--source {source}: has {found}; at least two are needed, one seen and one unseen; give a table of images "
            "and tags, or a folder with a folder of images for each tag"
        )
    targets = _targets(tagging, table, located)
    on_disk = ImageFilter(settings.missing_pictures, f"--images {located.base}", located.searched)
    images = LabelledImages(tuple(range(1, len(targets) + 1)), located.names, targets)
    images = on_disk.keep(images, located.places, str(source), located.doubtful)
    labels, images, rare = _without_rare(tagging.labels, images, settings.min_pictures)
    parts, division = _parts(images, table, located.image_of_row, settings)
    notes = [
        *_overview(table, images, labels),
        *table.notes,
        *located.notes,
        *notes,
        *tagging.notes,
        *on_disk.notes,
        *rare,
        *division,
    ]
    unseen = None if settings.unseen is None else named_unseen(settings.unseen, labels)
    if unseen is not None:
        notes.append(_unseen_note(unseen))

    def choose_unseen(labels: Sequence[str], vectors: Tensor) -> list[str]:
        chosen = unseen_by_clusters(labels, vectors, settings.unseen_fraction, settings.seed)
        notes.append(f"{_unseen_note(chosen)} (--unseen-fraction {settings.unseen_fraction}, --seed {settings.seed})")
        return chosen

    return Collected(
        Path(os.path.abspath(source)).name if source.is_dir() else source.stem,
        labels,
        parts,
        image_root=located.root,
        unseen=unseen,
        choose_unseen=choose_unseen,
        notes=notes,
        missing_pictures=on_disk.missing,
    )


def _targets(tagging: Tagging, table: Table, located: Located) -> LabelMatrix:
    """Return the labels of the images; a tag that some row gives and another calls unknown is positive."""
    column_of = {same_tag_key(label): column for column, label in enumerate(tagging.labels)}
    doubtful = [
        (image, column_of[key])
        for image, tags in zip(located.image_of_row, table.unknown, strict=False)
        for key in map(same_tag_key, tags)
        if key in column_of
    ]
    rows, columns = torch.tensor(doubtful, dtype=torch.int64).reshape(-1, 2).unbind(dim=1)
    return LabelMatrix.from_entries(
        torch.cat([tagging.rows, rows]),
        torch.cat([tagging.columns, columns]),
        torch.cat([torch.ones(len(tagging.rows)), -torch.ones(len(rows))]),
        unlisted=torch.zeros(len(located.names), dtype=torch.int8),
        num_labels=len(tagging.labels),
    )


def _read(settings: TableSettings) -> Table:
    source = settings.source
    if not source.is_dir():
        return read_table(settings)
    for name in ("images", "path_column", "tags_column", "tag_columns", "split_column", "tag_separator"):
        flag, value = f"--{name.replace('_', '-')}", getattr(settings, name)
        if value not in (None, "auto"):
            shown = " ".join(value) if isinstance(value, list) else value
            raise UserError(f"{flag} {shown}: --source {source} is a folder, not a table; leave {flag} out")
    table = read_folder(source)
    if table.splits is not None and settings.val_fraction is not None:
        raise UserError(
            f"--val-fraction {settings.val_fraction}: the folders of --source {source} define the images for "
            "validation; leave it out"
        )
    return table


def _without_rare(
    labels: Sequence[str], images: LabelledImages, at_least: int
) -> tuple[list[str], LabelledImages, list[str]]:
    """Leave out the tags of fewer images; return labels, images and what to report."""
    enough = images.targets.positives_per_label() >= at_least
    rare, kept = ([labels[column] for column in (enough == side).nonzero()[:, 0]] for side in (False, True))
    if len(kept) < 2:
        raise UserError(f"--min-pictures {at_least}: leaves {len(kept)} of {len(labels)} tags; give a smaller number")
    note = f"left out {len(rare):,} tags of fewer than {at_least} images: {name_some(rare, 20)}"
    targets = images.targets.select_columns(enough.nonzero()[:, 0])
    return kept, images.with_targets(targets), [note] if rare else []


def _parts(
    images: LabelledImages, table: Table, image_of_row: Sequence[int], settings: TableSettings
) -> tuple[dict[str, LabelledImages], list[str]]:
    """Divide the images into training and validation; return what to report too."""
    in_val = torch.zeros(len(images), dtype=torch.bool)
    if table.splits is None:
        share = VAL_FRACTION if settings.val_fraction is None else settings.val_fraction
        chosen = stratified_validation(*images.targets.positives(), *images.targets.shape, share, settings.seed)
        in_val[chosen] = True
        notes = [f"chose {len(chosen):,} images for validation (--val-fraction {share}, --seed {settings.seed})"]
    else:
        part_of, notes = _part_of_images(table, table.splits, image_of_row)
        in_val = torch.tensor([part_of[int(number) - 1] == "val" for number in images.image_ids])
    rows = {"train": (~in_val).nonzero()[:, 0], "val": in_val.nonzero()[:, 0]}
    empty = [part for part in rows if len(rows[part]) == 0]
    if empty:
        where = f"--split-column {settings.split_column}" if settings.split_column else f"--source {settings.source}"
        raise UserError(f"{where}: no {empty[0]} image; both train and val are needed")
    return {part: images.rows(own) for part, own in rows.items()}, notes


def _part_of_images(
    table: Table, splits: Sequence[str], image_of_row: Sequence[int]
) -> tuple[dict[int, str], list[str]]:
    """Return the part of each image by the values of the split column, and what to report."""
    part_of: dict[int, str] = {}
    values = [split.strip().casefold() for split in splits]
    for row, (value, image) in enumerate(zip(values, image_of_row, strict=True)):
        part = PART_OF_SPLIT.get(value)
        if part is None:
            raise UserError(
                f"{table.place(row)}: the split is {shortened(splits[row], 80)!r}, which is none of "
                f"{', '.join(PART_OF_SPLIT)}"
            )
        if part_of.setdefault(image, part) != part:
            raise UserError(
                f"{table.place(row)}: {shortened(table.paths[row], 200)} is {part} here, but {part_of[image]} before; "
                "an image can be only one"
            )
    counts = ", ".join(f"{value} {count:,}" for value, count in sorted(Counter(values).items()))
    return part_of, [f"{table.unit}s by split: {counts}; all but train are for validation"]


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


def named_unseen(path: Path, labels: Sequence[str]) -> list[str]:
    """Read the tags that ``--unseen`` holds out, in any spelling, or ``none``.

    Raises:
        UserError: the file cannot be read, is empty, or names no tag.
    """
    label_of = {same_tag_key(label): label for label in labels}
    if holds_out_none(path):
        return []
    names = read_names(path, "--unseen")
    strangers = [name for name in names if same_tag_key(name) not in label_of]
    if strangers:
        raise UserError(f"--unseen {path}: no such tag: {name_some(strangers)}; name tags that images have")
    return list(dict.fromkeys(label_of[same_tag_key(name)] for name in names))


def _unseen_note(unseen: Sequence[str]) -> str:
    return f"unseen tags: {name_some(list(unseen), 40) if unseen else 'none'}"
