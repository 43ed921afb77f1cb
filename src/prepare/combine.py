"""Several metadata folders that prepare_data.py made, as one data set (see ``CombineSettings`` for the rules)."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from src.config.sources import CombineSettings
from src.data.dataset import file_lookup
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata import Metadata
from src.errors import UserError, name_some
from src.prepare.collected import Collected
from src.prepare.combined_labels import CombinedLabels, combine_labels
from src.prepare.combined_vectors import combine_vectors
from src.prepare.table import named_unseen
from src.prepare.word_vectors import read_made_folder

_BLOCK = 1 << 24  # labels of a block of images that are merged at once


@dataclass(frozen=True)
class _Listing:
    """The images of a part of a folder, and where they go.

    Attributes:
        part: ``train`` or ``val``, in the folder.
        targets: [n, C of the folder]; a label that was hidden is still 0 or 1 here.
        known: [C of the folder] bool, the labels that the part says something about.
        columns: [C of the folder] int64, the column of each label in the combination.
        paths: [n], of the image files, as recorded.
        files: [n], the same with links followed: equal for one and the same image.
    """

    part: str
    targets: LabelMatrix
    known: Tensor
    columns: Tensor
    paths: Sequence[str]
    files: Sequence[str]


def collect(settings: CombineSettings) -> Collected:
    """Read the folders and put them together.

    Raises:
        UserError: a folder cannot be read, is named twice, or records no image folder, images are not there, or a flag
            is about labels that no folder has.
    """
    folders = _distinct(settings.folders)
    made = [read_made_folder(folder) for folder in folders]
    sources = [metadata for metadata, _ in made]
    roots = [_root_of(metadata) for metadata in sources]
    labels = combine_labels(sources, settings.same or [])
    parts, common, image_notes = _combine_images(made, roots, labels)
    if "train" in parts and not len(parts["train"]):
        raise UserError(
            f"combine {folders[0]}: every training image is a validation image of one of the folders; combine folders "
            "that divide their images in the same way"
        )
    notes = [*_counts(made), *labels.notes, *image_notes]
    if "train" in parts and parts["train"].targets.num_unknown():
        notes.append("labels that a folder lacks are unknown on its images: give train.py --unknown ignore")
    if settings.unseen is None:
        seen, unseen = labels.seen, labels.unseen
        notes += labels.notes_on_sides
    else:
        seen, unseen = None, named_unseen(settings.unseen, labels.names)
        notes += labels.notes_on_hidden
    return Collected(
        "+".join(_name_of(metadata) for metadata in sources),
        labels.names,
        parts,
        image_root=common,
        seen=seen,
        unseen=unseen,
        own_vectors=lambda: combine_vectors(sources, labels),
        notes=notes,
    )


def _distinct(folders: Sequence[Path]) -> Sequence[Path]:
    """Return the folders; raise :class:`UserError` unless there are at least two, and different ones."""
    real = [os.path.realpath(folder) for folder in folders]
    twice = [str(folder) for number, folder in enumerate(folders) if real[number] in real[:number]]
    if twice:
        raise UserError(f"combine {twice[0]}: is named twice; name each folder once")
    if len(folders) < 2:
        raise UserError(f"combine {folders[0]}: is only one metadata folder; name at least two")
    return folders


def _name_of(metadata: Metadata) -> str:
    split = metadata.split
    return split.name.removesuffix(f"_{len(split.seen)}_{len(split.unseen)}")


def _root_of(metadata: Metadata) -> str:
    if metadata.image_root is None:
        raise UserError(
            f"combine {metadata.folder}: records no image folder, so its file names cannot be told from those of other "
            "folders; make it again with --images DIR"
        )
    return os.path.abspath(metadata.image_root)


def _counts(made: Sequence[tuple[Metadata, dict[str, LabelledImages]]]) -> list[str]:
    """Describe each folder: images and labels."""
    return [
        f"{metadata.folder}: {' and '.join(f'{len(images):,} {part}' for part, images in parts.items())} images, "
        f"{len(metadata.split.seen):,} seen and {len(metadata.split.unseen):,} unseen labels"
        for metadata, parts in made
    ]


def _combine_images(
    made: Sequence[tuple[Metadata, dict[str, LabelledImages]]], roots: Sequence[str], labels: CombinedLabels
) -> tuple[dict[str, LabelledImages], str, list[str]]:
    """Put the parts together; return them, the folder that their file names are relative to, and what to report."""
    listings = [
        _listing(part, parts[part], metadata, root, columns)
        for part in ("val", "train")
        for (metadata, parts), root, columns in zip(made, roots, labels.columns, strict=True)
        if part in parts
    ]
    tested = {file for listing in listings if listing.part == "val" for file in listing.files}
    there = {listing.part for listing in listings}
    paths: dict[str, dict[str, str]] = {part: {} for part in ("train", "val") if part in there}  # of each part, by file
    for listing in listings:
        for path, file in zip(listing.paths, listing.files, strict=True):
            paths["val" if file in tested else "train"].setdefault(file, path)
    common = _common_folder({*roots, *(os.path.dirname(path) for listing in listings for path in listing.paths)})
    prefix = os.path.join(common, "")
    parts: dict[str, LabelledImages] = {}
    first = 1
    for part, path_of in paths.items():
        names = tuple(path.removeprefix(prefix).replace(os.sep, "/") for path in path_of.values())
        row_of = {file: row for row, file in enumerate(path_of)}
        targets = _merge(listings, row_of, len(labels.names))
        parts[part] = LabelledImages(tuple(range(first, first + len(names))), names, targets)
        first += len(names)
    notes = []
    if (repeated := sum(len(listing.files) for listing in listings) - (first - 1)) > 0:
        notes.append(f"{repeated:,} times an image was listed again, which became one image with the labels of all")
    moved = {file for listing in listings if listing.part == "train" for file in listing.files if file in tested}
    if moved:
        some = sorted(paths["val"][file].removeprefix(prefix) for file in moved)
        notes.append(
            f"train: left out {len(moved):,} images that are in val of one of the folders ({name_some(some, 3)})"
        )
    return parts, common, notes


def _common_folder(folders: Collection[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError as error:  # Windows
        raise UserError("combine: the image folders are on different drives; move them to one") from error


def _listing(part: str, images: LabelledImages, metadata: Metadata, root: str, columns: Sequence[int]) -> _Listing:
    known = torch.ones(len(columns), dtype=torch.bool)
    if part == "train":
        known[list(metadata.split.unseen)] = False  # hidden, which is not the same as absent
    paths = _paths(images, root, metadata.folder)
    files = [os.path.realpath(path) for path in paths]
    return _Listing(part, images.targets, known, torch.tensor(columns, dtype=torch.int64), paths, files)


def _paths(images: LabelledImages, root: str, folder: Path) -> list[str]:
    """Return the path of each image file, without links followed; raise :class:`UserError` where one is missing."""
    paths = [os.path.normpath(os.path.join(root, name)) for name in images.file_names]
    exists = file_lookup()
    missing = [path for path in paths if not exists(path)]
    if missing:
        raise UserError(
            f"combine {folder}: {len(missing):,} of {len(paths):,} images are not in the image folder that it records "
            f"({name_some(missing, 3)}); put them back, or make the metadata folder again"
        )
    return paths


def _merge(listings: Sequence[_Listing], row_of: Mapping[str, int], num_labels: int) -> LabelMatrix:
    """Merge the labels of the images of one part, block by block: present before absent before unknown.

    Args:
        listings: all images.
        row_of: file -> row, of the images of this part.
        num_labels: C.
    """
    rows_of = [
        torch.tensor([row_of.get(file, -1) for file in listing.files], dtype=torch.int64) for listing in listings
    ]
    blocks = []
    size = max(1, _BLOCK // num_labels)
    for start in range(0, len(row_of), size):
        stop = min(start + size, len(row_of))
        dense = torch.full((stop - start, num_labels), -1, dtype=torch.int8)
        for listing, rows in zip(listings, rows_of, strict=True):
            own = ((rows >= start) & (rows < stop)).nonzero()[:, 0]
            said = listing.targets.dense(own)
            said[:, ~listing.known] = -1
            wide = torch.full((len(own), num_labels), -1, dtype=torch.int8)
            wide.scatter_reduce_(1, listing.columns.expand(len(own), -1), said, "amax")
            dense.scatter_reduce_(0, (rows[own] - start)[:, None].expand(-1, num_labels), wide, "amax")
        blocks.append(_sparse(dense))
    return _stacked(blocks, num_labels)


def _sparse(dense: Tensor) -> LabelMatrix:
    """Store labels [n, C] with few entries: unknown or absent, whichever an image has more of, is its default."""
    unlisted = -((dense == -1).sum(dim=1) > (dense == 0).sum(dim=1)).to(torch.int8)
    rows, columns = (dense != unlisted[:, None]).nonzero(as_tuple=True)
    return LabelMatrix.from_entries(rows, columns, dense[rows, columns], unlisted=unlisted, num_labels=dense.shape[1])


def _stacked(blocks: Sequence[LabelMatrix], num_labels: int) -> LabelMatrix:
    """Return the rows of all blocks, in order."""
    if not blocks:
        return LabelMatrix.from_dense(torch.zeros(0, num_labels, dtype=torch.int8))
    lengths = torch.cat([block.offsets.diff() for block in blocks])
    return LabelMatrix(
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        torch.cat([block.columns for block in blocks]),
        torch.cat([block.values for block in blocks]),
        torch.cat([block.unlisted for block in blocks]),
        num_labels,
    )
