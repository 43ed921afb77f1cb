r"""NUS-WIDE: 269,648 Flickr photographs; the zero-shot split of 925 seen tags and 81 unseen concepts.

"NUS-WIDE: A Real-World Web Image Database from National University of Singapore" (CIVR 2009). The text files of its
site, unpacked below --source, however nested:

    TrainImagelist.txt, TestImagelist.txt    an image a line, its photo id last: ``actor\0001_2124494179.jpg``
    Train_Tags1k.dat, Test_Tags1k.dat        1,000 zeros and ones a line, a line an image of that list
    TagList1k.txt                            the 1,000 tags, in the order of those columns
    Concepts81.txt                           the 81 concepts
    Labels_<concept>_{Train,Test}.txt        a zero or one a line: that concept's ground truth (TrainTestLabels/)

75 of the concepts are tags too: their labels are the ground truth, as those of the other six, and not the tag. All
1,006 labels are sorted by name, which is the column order of the released code's NUS-WIDE files.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from src.data.labels import LabelledImages, LabelMatrix
from src.data.split import columns_of
from src.errors import UserError, name_some
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
from src.prepare.nus_wide_files import (
    Integers,
    find_photos,
    list_text_files,
    pick_files,
    read_flags,
    read_image_list,
)

HELP = "NUS-WIDE: 269,648 photographs, 925 seen tags and 81 unseen concepts"

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
FILES_OF = {"train": "Train", "val": "Test"}  # what this project calls a part -> what its files are called


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``prepare_data.py nus-wide``."""
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder below which the text files lie (ImageList, NUS_WID_Tags, ConceptsList, Groundtruth)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder below which the images lie, found by the photo id in their names: <nnnn>_<id>.jpg, <id>.jpg or "
        "<concept>_<id>_<secret>_m.jpg; if left out, names are recorded as the lists have them",
    )
    add_missing_pictures_flag(parser)
    parser.add_argument(
        "--unseen", type=Path, metavar="FILE", help="labels to hold out, one a line; the 81 concepts if left out"
    )
    add_output_flags(parser)
    add_vector_flags(parser)
    add_split_flags(parser)


def run(args: argparse.Namespace) -> list[str]:
    """``prepare_data.py nus-wide``: the report."""
    return run_source(args, collect)


def collect(args: argparse.Namespace) -> Collected:
    """Read NUS-WIDE.

    Raises:
        UserError: something is missing or malformed, or the lists of tags and concepts are not those of the 925/81
            split and no other is given.
    """
    if args.missing_pictures != "error" and args.images is None:
        raise UserError(f"--missing-pictures {args.missing_pictures} needs --images, where images may be missing")
    places = None if args.images is None else list_images(args.images)
    files, tags, concepts = _open(args.source)
    if args.unseen is None:
        _check_official(args.source, tags, concepts)
        unseen = concepts
    else:
        unseen = read_names(args.unseen, "--unseen")
    labels = sorted({*tags, *concepts})
    columns_of(unseen, labels, f"--unseen {args.unseen}")
    notes = [f"{len({*tags} & {*concepts})} of the {len(concepts)} concepts are tags too: they have their ground truth"]
    parts = {}
    for part in FILES_OF:
        parts[part], part_notes = _read_part(part, files, tags, concepts, labels)
        notes += part_notes
    notes += _keep_apart(parts)
    missing: list[str] = []
    if places is not None:
        notes += _locate(parts, places, drop=args.missing_pictures == "drop", missing=missing)
    return Collected(
        "nus_wide",
        labels,
        parts,
        image_root=None if args.images is None else os.path.abspath(args.images),
        unseen=unseen,
        notes=notes,
        missing_pictures=missing,
    )


def _open(source: Path) -> tuple[Mapping[str, Path], list[str], list[str]]:
    """All files by their official names, the tags in the order of their columns, and the concepts.

    Raises:
        UserError: files are missing, or there are several different ones of a name: all are listed.
    """
    listed = list_text_files(source)
    concept_lists = listed.get(CONCEPT_LIST.lower())
    concepts = read_names(concept_lists[0], "--source") if concept_lists else list(CONCEPTS_81)
    names = [TAG_LIST, CONCEPT_LIST]
    for kind in FILES_OF.values():
        names += [f"{kind}Imagelist.txt", f"{kind}_Tags1k.dat"]
    names += [_truth_file(concept, part) for part in FILES_OF for concept in concepts]
    files = pick_files(listed, names, source)
    return files, read_names(files[TAG_LIST], "--source"), concepts


def _truth_file(concept: str, part: str) -> str:
    return f"Labels_{concept}_{FILES_OF[part]}.txt"


def _check_official(source: Path, tags: Sequence[str], concepts: Sequence[str]) -> None:
    """Raise :class:`UserError` where the lists do not make the 925/81 split: its unseen labels would be others."""
    faults = []
    if len(tags) != NUM_TAGS:
        faults.append(f"{TAG_LIST} has {len(tags):,} tags, not {NUM_TAGS:,}")
    strangers, absent = sorted({*concepts} - {*CONCEPTS_81}), sorted({*CONCEPTS_81} - {*concepts})
    if strangers or absent:
        differing = [f"+{name}" for name in strangers] + [f"-{name}" for name in absent]
        faults.append(
            f"{CONCEPT_LIST} has {len(concepts)} concepts, not those {len(CONCEPTS_81)} ({name_some(differing)})"
        )
    num_seen = len({*tags} - {*concepts})
    if num_seen != NUM_SEEN:
        faults.append(f"{num_seen} tags are no concept, not {NUM_SEEN}")
    if faults:
        raise UserError(
            f"--source {source}: not the 925/81 split: {'; '.join(faults)}; copy the lists again, or give --unseen "
            "FILE for a split of your own"
        )


def _read_part(
    part: str, files: Mapping[str, Path], tags: Sequence[str], concepts: Sequence[str], labels: Sequence[str]
) -> tuple[LabelledImages, list[str]]:
    """The images of one list with all their labels, and what was found.

    A photo that is listed again keeps one row, under the name of its first line and with the labels of all its lines.
    """
    list_path = files[f"{FILES_OF[part]}Imagelist.txt"]
    names, ids = read_image_list(list_path)
    column_of = {label: column for column, label in enumerate(labels)}
    lines, columns, lengths = _read_labels(part, files, tags, concepts, column_of)
    differing = [f"{path} has {length:,}" for path, length in lengths.items() if length != len(names)]
    if differing:
        raise UserError(
            f"--source: {list_path} lists {len(names):,} images, a line each, but {name_some(differing)}; copy the "
            "files again"
        )
    row_of: dict[int, int] = {}
    name_of: dict[int, str] = {}
    repeated: list[str] = []
    for number, name in zip(ids, names, strict=True):
        if number in row_of:
            repeated.append(str(number))
            continue
        row_of[number] = len(row_of)
        name_of[number] = name
    row_of_line = torch.tensor([row_of[number] for number in ids])
    targets = LabelMatrix.from_positives(
        row_of_line[torch.from_numpy(lines)], torch.from_numpy(columns), num_rows=len(row_of), num_labels=len(labels)
    )
    notes = [f"{part}: {len(names):,} images in {list_path.name}, {PUBLISHED[part]:,} were published"]
    if repeated:
        notes.append(f"{part}: merged {len(repeated):,} repeated lines: photos {name_some(repeated)}")
    return LabelledImages(tuple(row_of), tuple(name_of.values()), targets), notes


def _read_labels(
    part: str, files: Mapping[str, Path], tags: Sequence[str], concepts: Sequence[str], column_of: Mapping[str, int]
) -> tuple[Integers, Integers, dict[Path, int]]:
    """(lines [K], label columns [K], number of lines of each file): tags that are no concept, and concepts."""
    path = files[f"{FILES_OF[part]}_Tags1k.dat"]
    with tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        lines, tag_numbers, length = read_flags(path, len(tags), progress=bar.update)
    lengths = {path: length}
    is_concept = set(concepts)
    columns = np.array([-1 if tag in is_concept else column_of[tag] for tag in tags])[tag_numbers]
    all_lines, all_columns = [lines[columns >= 0]], [columns[columns >= 0]]
    for concept in tqdm(concepts, desc=f"{FILES_OF[part]} ground truth", unit="file", disable=None, leave=False):
        path = files[_truth_file(concept, part)]
        lines, _, lengths[path] = read_flags(path, 1)
        all_lines.append(lines)
        all_columns.append(np.full(len(lines), column_of[concept]))
    return np.concatenate(all_lines), np.concatenate(all_columns), lengths


def _keep_apart(parts: dict[str, LabelledImages]) -> list[str]:
    """Leave training images that are in the test list too out of training; what was found."""
    train = parts["train"]
    tested = set(parts["val"].image_ids)
    both = [str(number) for number in train.image_ids if number in tested]
    if not both:
        return []
    if len(both) == len(train):
        raise UserError("--source: every image of TrainImagelist.txt is in TestImagelist.txt too; copy both again")
    parts["train"] = train.rows([row for row, number in enumerate(train.image_ids) if number not in tested])
    return [f"train: left out {len(both):,} images that are in the test list too: photos {name_some(both)}"]


def _locate(parts: dict[str, LabelledImages], places: Sequence[str], *, drop: bool, missing: list[str]) -> list[str]:
    """Give the images the names they have on disk, which is ``places``; what was found. See :func:`keep_found`."""
    names: dict[int | str, str] = {
        number: name
        for images in parts.values()
        for number, name in zip(images.image_ids, images.file_names, strict=True)
    }
    place_of, several = find_photos(places, names)
    notes = []
    if several:
        numbers = name_some([str(number) for number in several])
        notes.append(
            f"{len(several):,} photos have several files below --images, of which the one named as in the list, or the "
            f"first, is used: {numbers}"
        )
    for part, images in parts.items():
        places_here = [place_of.get(number) for number in images.image_ids]
        source = f"{FILES_OF[part]}Imagelist.txt"
        parts[part] = keep_found(images, places_here, drop=drop, missing=missing, source=source)
        if len(parts[part]) < len(images):
            notes.append(f"{part}: left out {len(images) - len(parts[part]):,} images that are not below --images")
    return notes
