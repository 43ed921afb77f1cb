"""MS-COCO, or own data in COCO format (see ``CocoSettings`` for the layout)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from src.config.data_sets import CocoSettings
from src.data.coco import COCO_CLASSES
from src.data.labels import LabelledImages
from src.errors import UserError, name_some
from src.prepare.coco_facts import SPLITS, TEST_LIST, compare_images, compare_labels
from src.prepare.coco_files import LabelFile, label_files, read_parts
from src.prepare.coco_images import CocoImages, identity
from src.prepare.collected import Collected
from src.prepare.files import (
    ImageFilter,
    ImageListing,
    differences,
    keep_apart,
    list_images,
    read_label_names,
    read_unseen,
)
from src.utils.files import read_lines


def collect(settings: CocoSettings) -> Collected:
    """Read the label files and find the images.

    Raises:
        UserError: flags contradict each other, a file or image is missing or malformed, or does not fit the others.
    """
    files = label_files(settings)
    notes: list[str] = []
    labels, parts = read_parts(files, drop_crowds=settings.crowd == "drop", notes=notes)
    seen, unseen = _sides(settings, labels)
    comparable = settings.unseen is None and settings.split == "48_17" and settings.crowd == "keep"
    for part, file in files.items():
        notes += compare_images(file.release, len(parts[part])) if labels == COCO_CLASSES else []
        notes += compare_labels(file.release, parts[part].targets) if comparable else []
    if settings.test_ids is not None:
        if "val" not in parts:
            raise UserError(f"--test-ids {settings.test_ids} chooses among validation images; give --val too")
        parts["val"] = _only(parts["val"], settings.test_ids, notes)
        if comparable and files["val"].release == "val2014":
            notes += compare_labels(TEST_LIST, parts["val"].targets)
    missing: list[str] = []
    image_root = _find_images(parts, files, settings, missing, notes)
    _check_distinct(parts, files)
    first = next(iter(files.values()))
    notes += keep_apart(parts, identity, f"{first.flag} {first.name}")
    return Collected(
        "coco" if labels == COCO_CLASSES else "coco_format",
        labels,
        parts,
        image_root,
        unseen=unseen,
        seen=seen,
        notes=notes,
        missing_pictures=missing,
    )


def _sides(settings: CocoSettings, labels: Sequence[str]) -> tuple[Sequence[str] | None, Sequence[str]]:
    """Return the seen labels (None for all others) and the unseen ones."""
    if settings.unseen is None:
        if settings.seen is not None:
            raise UserError(f"--seen {settings.seen} needs --unseen; --split defines both sides itself")
        if labels != COCO_CLASSES:
            apart = differences(COCO_CLASSES, labels, "COCO", "the label file")
            raise UserError(
                f"--split {settings.split} is about COCO's 80 classes, which these are not ({apart}); "
                "give the labels to hold out with --unseen FILE, or --unseen none"
            )
        return SPLITS[settings.split]
    unseen = read_unseen(settings.unseen, labels)
    if settings.seen is None:
        return None, unseen
    seen = read_label_names(settings.seen, "--seen", labels)
    both = [name for name in seen if name in unseen]
    if both:
        raise UserError(f"--seen {settings.seen}: --unseen names these too: {name_some(both)}; name them once")
    return seen, unseen


def _only(images: LabelledImages, path: Path, notes: list[str]) -> LabelledImages:
    """Return the images whose ids a file lists, in the order of the label file."""
    listed = [line for line in read_lines(path, "--test-ids") if line]
    if not listed:
        raise UserError(f"--test-ids {path}: is empty; give one image id per line")
    row_of = {str(image_id): row for row, image_id in enumerate(images.image_ids)}
    chosen = list(dict.fromkeys(listed))
    strangers = [image_id for image_id in chosen if image_id not in row_of]
    if strangers:
        raise UserError(
            f"--test-ids {path}: {len(strangers):,} of the {len(chosen):,} ids are not among the validation images "
            f"({name_some(strangers, 3)}); is the list meant for another release?"
        )
    notes.append(f"val: {len(chosen):,} of the {len(images):,} images, those that {path.name} lists")
    if len(chosen) < len(listed):
        notes.append(f"val: {path.name} repeats {len(listed) - len(chosen):,} of its ids")
    return images.rows(sorted(row_of[image_id] for image_id in chosen))


def _find_images(
    parts: dict[str, LabelledImages],
    files: dict[str, LabelFile],
    settings: CocoSettings,
    missing: list[str],
    notes: list[str],
) -> str | None:
    """Replace the names of the images by those on disk; return the folder that these are relative to, or None."""
    flag, root = ("--images", settings.images) if settings.images is not None else ("--source", settings.source)
    found, passed_over = ImageListing([], []) if root is None else list_images(root, flag)
    notes += passed_over
    if root is None or not found:
        if settings.images is not None:
            raise UserError(f"--images {root}: there are no images in it")
        if settings.missing_pictures == "drop":
            raise UserError("--missing-pictures drop needs the images: give their folder with --images DIR")
        notes.append("images were not looked up: no --images; their names are those of the label files")
        return None
    index = CocoImages(found, root)
    on_disk = ImageFilter(settings.missing_pictures, f"{flag} {root}", index.names.searched)
    matched, match_notes = index.locate(parts)
    for part, file in files.items():
        places = [matched.place_of.get(name) for name in parts[part].file_names]
        parts[part] = on_disk.keep(parts[part], places, file.short_name, matched.doubtful)
    notes += match_notes
    missing += on_disk.missing
    notes += on_disk.notes
    return os.path.abspath(root)


def _check_distinct(parts: dict[str, LabelledImages], files: dict[str, LabelFile]) -> None:
    for part, images in parts.items():
        repeated = [name for name, count in Counter(images.file_names).items() if count > 1]
        if repeated:
            raise UserError(
                f"{files[part].flag} {files[part].name}: {len(repeated):,} files are listed under several image ids "
                f"({name_some(repeated, 3)}); merge these entries"
            )
