"""Several metadata folders that prepare_data.py made, as one data set (see ``CombineSettings`` for the rules)."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
class _Part:
    """The images of a part of a folder, and where they go.

    Attributes:
        targets: [n, C of the folder]; a label that was hidden is still 0 or 1 here.
        known: [C of the folder] bool, the labels that the part says something about.
        columns: [C of the folder] int64, the column of each label in the combination.
        paths: [n], of the image files.
        in_val: [n] bool, the images that are for validation here.
        rows: [n] int64, their rows in the part where they go.
    """

    targets: LabelMatrix
    known: Tensor
    columns: Tensor
    paths: Sequence[str]
    in_val: Tensor
    rows: Tensor


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
    paths = {
        (number, part): _paths(images, roots[number], metadata.folder)
        for number, (metadata, parts) in enumerate(made)
        for part, images in parts.items()
    }
    real = {key: [os.path.realpath(path) for path in those] for key, those in paths.items()}
    places: dict[str, dict[str, int]] = {"train": {}, "val": {}}  # of each part: real path -> row
    first_paths: dict[str, list[str]] = {"train": [], "val": []}
    tested = {path for (_, part), those in real.items() if part == "val" for path in those}
    joined: list[_Part] = []
    moved: set[str] = set()
    for (number, part), those in sorted(real.items(), key=lambda item: item[0][1] == "train"):  # validation first
        metadata, parts = made[number]
        rows = []
        for path, file in zip(paths[number, part], those, strict=True):
            side = "val" if file in tested else "train"
            if file not in places[side]:
                places[side][file] = len(places[side])
                first_paths[side].append(path)
            rows.append(places[side][file])
        in_val = torch.tensor([file in tested for file in those], dtype=torch.bool)
        known = torch.ones(len(metadata.split.labels), dtype=torch.bool)
        if part == "train":
            known[list(metadata.split.unseen)] = False  # hidden, which is not the same as absent
            moved |= {file for file in those if file in tested}
        columns = torch.tensor(labels.columns[number], dtype=torch.int64)
        joined.append(_Part(parts[part].targets, known, columns, those, in_val, torch.tensor(rows, dtype=torch.int64)))
    common = os.path.commonpath([*roots, *{os.path.dirname(path) for those in paths.values() for path in those}])
    prefix = os.path.join(common, "")
    combined: dict[str, LabelledImages] = {}
    for part in ("train", "val"):
        if any(part in parts for _, parts in made):
            first = 1 + (len(places["train"]) if part == "val" else 0)
            names = tuple(path.removeprefix(prefix).replace(os.sep, "/") for path in first_paths[part])
            targets = _merge(joined, part == "val", len(names), len(labels.names))
            combined[part] = LabelledImages(tuple(range(first, first + len(names))), names, targets)
    listed = sum(map(len, real.values()))
    notes = []
    if (repeated := listed - sum(map(len, places.values()))) > 0:
        notes.append(f"{repeated:,} times an image was listed again, which became one image with the labels of all")
    if moved:
        notes.append(
            f"train: left out {len(moved):,} images that are in val of one of the folders "
            f"({name_some(sorted(path.removeprefix(prefix) for path in moved), 3)})"
        )
    return combined, common, notes


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


def _merge(parts: Sequence[_Part], for_val: bool, num_rows: int, num_labels: int) -> LabelMatrix:
    """Merge the labels of the images that go to one part, block by block: present before absent before unknown."""
    blocks = []
    size = max(1, _BLOCK // num_labels)
    for start in range(0, num_rows, size):
        stop = min(start + size, num_rows)
        dense = torch.full((stop - start, num_labels), -1, dtype=torch.int8)
        for part in parts:
            own = ((part.in_val == for_val) & (part.rows >= start) & (part.rows < stop)).nonzero()[:, 0]
            said = part.targets.dense(own)
            said[:, ~part.known] = -1
            wide = torch.full((len(own), num_labels), -1, dtype=torch.int8)
            wide.scatter_reduce_(1, part.columns.expand(len(own), -1), said, "amax")
            dense.scatter_reduce_(0, (part.rows[own] - start)[:, None].expand(-1, num_labels), wide, "amax")
        blocks.append(_sparse(dense))
    return _stacked(blocks, num_labels)


def _sparse(dense: Tensor) -> LabelMatrix:
    """Store labels [n, C] such that the label file stays small, where an absent one takes less room than an unknown."""
    unlisted = -((dense == -1).sum(dim=1) * 16 > (dense == 0).sum(dim=1)).to(torch.int8)
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
