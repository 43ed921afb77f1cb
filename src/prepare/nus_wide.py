"""NUS-WIDE (see ``NusWideSettings`` for the layout)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from src.config.data_sets import NusWideSettings
from src.data.labels import LabelledImages, LabelMatrix
from src.errors import UserError, name_some
from src.prepare.collected import Collected
from src.prepare.files import (
    ImageFilter,
    differences,
    images_below,
    keep_apart,
    list_files,
    pick_files,
    read_names,
    read_unseen,
)
from src.prepare.image_names import searched
from src.prepare.nus_wide_files import Integers, find_photos, read_flags, read_image_list

# The 81 concepts with ground truth: the unseen labels of the 925/81 zero-shot split.
CONCEPTS_81 = (
    "airport", "animal", "beach", "bear", "birds", "boats", "book", "bridge", "buildings",
    "cars", "castle", "cat", "cityscape", "clouds", "computer", "coral", "cow", "dancing",
    "dog", "earthquake", "elk", "fire", "fish", "flags", "flowers", "food", "fox",
    "frost", "garden", "glacier", "grass", "harbor", "horses", "house", "lake", "leaf",
    "map", "military", "moon", "mountain", "nighttime", "ocean", "person", "plane", "plants",
    "police", "protest", "railroad", "rainbow", "reflection", "road", "rocks", "running", "sand",
    "sign", "sky", "snow", "soccer", "sports", "statue", "street", "sun", "sunset",
    "surf", "swimmers", "tattoo", "temple", "tiger", "tower", "town", "toy", "train",
    "tree", "valley", "vehicle", "water", "waterfall", "wedding", "whales", "window", "zebra",
)  # fmt: skip
NUM_TAGS, NUM_SEEN = 1000, 925
PUBLISHED = {"train": 161_789, "val": 107_859}  # images of the two lists

TAG_LIST, CONCEPT_LIST = "TagList1k.txt", "Concepts81.txt"
FILES_OF = {"train": "Train", "val": "Test"}  # part -> how its files are called
REMEDY = "unpack ImageList, NUS_WID_Tags, ConceptsList and Groundtruth of the NUS-WIDE site there"


def collect(settings: NusWideSettings) -> Collected:
    """Read NUS-WIDE.

    Raises:
        UserError: something is missing or malformed, or the lists of tags and concepts are not those of the 925/81
            split and no other is given.
    """
    listing = images_below(settings.images, settings.missing_pictures)
    files, tags, concepts = _open(settings.source)
    labels = sorted({*tags, *concepts})
    if settings.unseen is None:
        _check_official(settings.source, tags, concepts)
        unseen = concepts
    else:
        unseen = read_unseen(settings.unseen, labels)
    notes = [f"{len({*tags} & {*concepts})} of the {len(concepts)} concepts are tags too: they have their ground truth"]
    parts: dict[str, LabelledImages] = {}
    for part in FILES_OF:
        parts[part], part_notes = _read_part(part, files, tags, concepts, labels)
        notes += part_notes
    notes += keep_apart(parts, lambda number, name: number, f"--source {settings.source}")
    found = "" if listing is None or settings.images is None else searched(listing.names, settings.images)
    on_disk = ImageFilter(settings.missing_pictures, "--images", found)
    if listing is not None:
        notes += [*listing.notes, *_locate(parts, listing.names, on_disk)]
    return Collected(
        "nus_wide",
        labels,
        parts,
        image_root=None if settings.images is None else os.path.abspath(settings.images),
        unseen=unseen,
        notes=notes,
        missing_pictures=on_disk.missing,
    )


def _open(source: Path) -> tuple[Mapping[str, Path], list[str], list[str]]:
    """Find all files by their official names; read the tags in the order of their columns, and the concepts."""
    listed = list_files(source, (".txt", ".dat"))
    concept_lists = listed.get(CONCEPT_LIST.lower())
    concepts = read_names(concept_lists[0], "--source") if concept_lists else list(CONCEPTS_81)
    names = [TAG_LIST, CONCEPT_LIST]
    for kind in FILES_OF.values():
        names += [f"{kind}Imagelist.txt", f"{kind}_Tags1k.dat"]
    names += [_truth_file(concept, part) for part in FILES_OF for concept in concepts]
    files = pick_files(listed, names, f"--source {source}", REMEDY)
    return files, read_names(files[TAG_LIST], "--source"), concepts


def _truth_file(concept: str, part: str) -> str:
    return f"Labels_{concept}_{FILES_OF[part]}.txt"


def _check_official(source: Path, tags: Sequence[str], concepts: Sequence[str]) -> None:
    """Raise :class:`UserError` if the lists do not make the 925/81 split: its unseen labels would be others."""
    num_seen = len({*tags} - {*concepts})
    if len(tags) == NUM_TAGS and num_seen == NUM_SEEN and {*concepts} == {*CONCEPTS_81}:
        return
    apart = differences(CONCEPTS_81, concepts, "published", "this") or "as published"
    raise UserError(
        f"--source {source}: not the 925/81 split: {TAG_LIST} has {len(tags):,} tags, {num_seen} of them no concept, "
        f"not {NUM_TAGS:,} and {NUM_SEEN}; {CONCEPT_LIST} has {len(concepts)} concepts ({apart}); copy the lists "
        "again, or give --unseen FILE for a split of your own"
    )


def _read_part(
    part: str, files: Mapping[str, Path], tags: Sequence[str], concepts: Sequence[str], labels: Sequence[str]
) -> tuple[LabelledImages, list[str]]:
    """Read the images of a list with their labels, and what to report.

    A photo that is listed again keeps one row, under the name of its first line and with the labels of all its lines.
    """
    list_path = files[f"{FILES_OF[part]}Imagelist.txt"]
    names, ids = read_image_list(list_path)
    lines, columns, lengths = _read_labels(part, files, tags, concepts, labels)
    differing = [f"{path} has {length:,}" for path, length in lengths.items() if length != len(names)]
    if differing:
        raise UserError(
            f"--source: {list_path} lists {len(names):,} images, one per line, but {name_some(differing)}; copy the "
            "files again"
        )
    name_of: dict[int, str] = {}
    for number, name in zip(ids, names, strict=True):
        name_of.setdefault(number, name)
    row_of = {number: row for row, number in enumerate(name_of)}
    row_of_line = torch.tensor([row_of[number] for number in ids])
    targets = LabelMatrix.from_positives(
        row_of_line[torch.from_numpy(lines)], torch.from_numpy(columns), num_rows=len(row_of), num_labels=len(labels)
    )
    notes = [f"{part}: {len(names):,} images in {list_path.name}, {PUBLISHED[part]:,} were published"]
    if len(row_of) < len(names):
        notes.append(f"{part}: merged {len(names) - len(row_of):,} repeated lines")
    return LabelledImages(tuple(row_of), tuple(name_of.values()), targets), notes


def _read_labels(
    part: str, files: Mapping[str, Path], tags: Sequence[str], concepts: Sequence[str], labels: Sequence[str]
) -> tuple[Integers, Integers, dict[Path, int]]:
    """Read tags that are no concept, and concepts: (lines [K], label columns [K], number of lines of each file)."""
    column_of = {label: column for column, label in enumerate(labels)}
    path = files[f"{FILES_OF[part]}_Tags1k.dat"]
    lines, tag_numbers, length = read_flags(path, len(tags))
    lengths = {path: length}
    is_concept = set(concepts)
    columns = np.array([-1 if tag in is_concept else column_of[tag] for tag in tags])[tag_numbers]
    all_lines, all_columns = [lines[columns >= 0]], [columns[columns >= 0]]
    for concept in concepts:
        path = files[_truth_file(concept, part)]
        lines, _, lengths[path] = read_flags(path, 1)
        all_lines.append(lines)
        all_columns.append(np.full(len(lines), column_of[concept]))
    return np.concatenate(all_lines), np.concatenate(all_columns), lengths


def _locate(parts: dict[str, LabelledImages], places: Sequence[str], on_disk: ImageFilter) -> list[str]:
    """Give the images the names they have on disk, which is ``places``; return what to report."""
    names: dict[int | str, str] = {}
    for images in parts.values():
        names |= dict(zip(images.image_ids, images.file_names, strict=True))
    place_of, several = find_photos(places, names)
    for part, images in parts.items():
        places_here = [place_of.get(number) for number in images.image_ids]
        parts[part] = on_disk.keep(images, places_here, f"{FILES_OF[part]}Imagelist.txt")
    if not several:
        return on_disk.notes
    return [
        f"{len(several):,} photos have several files below --images, of which the one named as in the list, or the "
        f"first, is used: {name_some(list(map(str, several)))}",
        *on_disk.notes,
    ]
