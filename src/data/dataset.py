"""Pictures on disk with their labels, as a PyTorch data set that survives pictures it cannot read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.images import BadPictureError, read_picture
from src.data.transforms import Transform
from src.errors import UserError, name_some

# Where people keep the pictures of a COCO-format set below the folder they name.
_SUBFOLDERS = ("", "images", "train2014", "val2014", "train2017", "val2017")


class Batch(NamedTuple):
    """Some pictures.

    Attributes:
        pictures: [b, 3, H, W] float32 in [0, 1].
        rows: [b] row of each picture in the data set.
        bad: messages about the pictures of this batch that could not be read; they have no row here.
    """

    pictures: Tensor
    rows: Tensor
    bad: tuple[str, ...]


class PictureDataset(Dataset[tuple[Tensor | None, int, str]]):
    """The pictures of these paths; item i is (tensor, i, ""), or (None, i, reason) if the picture cannot be read."""

    def __init__(self, paths: Sequence[Path], transform: Transform) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor | None, int, str]:
        try:
            return self.transform(read_picture(self.paths[row])), row, ""
        except BadPictureError as error:
            return None, row, str(error)


def collate(items: list[tuple[Tensor | None, int, str]]) -> Batch:
    """Stack the readable pictures of a batch; it may be empty."""
    good = [(tensor, row) for tensor, row, _ in items if tensor is not None]
    pictures = torch.stack([tensor for tensor, _ in good]) if good else torch.empty(0, 3, 1, 1)
    return Batch(
        pictures,
        torch.tensor([row for _, row in good], dtype=torch.long),
        tuple(reason for _, _, reason in items if reason),
    )


def picture_loader(
    dataset: PictureDataset,
    *,
    batch_size: int,
    workers: int,
    shuffle: bool = False,
    seed: int | None = None,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """A loader of :class:`Batch`.

    Args:
        seed: with ``shuffle``, makes the order the same in every run, and with workers the augmentation too, in runs
            with as many workers; None draws a fresh one. Without workers augmentation draws from this process's
            random states (:func:`src.cli.seed_everything`).
    """
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # collate turns items into Batch
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        collate_fn=collate,
        generator=generator,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )


def locate_pictures(file_names: Sequence[str], root: Path, source: str) -> list[Path]:
    """The path of every picture below ``root`` or one of the usual sub-folders (``images``, ``train2014``, ...).

    Folders are listed once each, so that 100,000 names cost no 100,000 look-ups.

    Args:
        file_names: names relative to the root, as a COCO-format file has them.
        root: the picture folder.
        source: the label file, for error messages.

    Raises:
        UserError: pictures are missing; the message counts them and names some.
    """
    listing: dict[Path, set[str]] = {}

    def exists(path: Path) -> bool:
        if path.parent not in listing:
            listing[path.parent] = {entry.name for entry in os.scandir(path.parent)} if path.parent.is_dir() else set()
        return path.name in listing[path.parent]

    found: list[Path] = []
    missing: list[str] = []
    for name in file_names:
        path = next((path for folder in _SUBFOLDERS if exists(path := root / folder / name)), None)
        if path is None:
            missing.append(name)
        else:
            found.append(path)
    if missing:
        raise UserError(
            f"--data {root}: {len(missing)} of the {len(file_names)} pictures that {source} lists are not there "
            f"({name_some(missing, 3)}); "
            "give the folder that the names are relative to"
        )
    return found
