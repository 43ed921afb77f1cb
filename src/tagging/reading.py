"""Reading pictures beside the model: decoded and resized in other processes, in the order they were named in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.images import BadPictureError, read_picture
from src.data.transforms import Transform
from src.errors import UserError

PREVIEW = (1600, 1600)  # pixels; as much as any output shows of a picture
_WORTH_WORKERS = 16  # pictures; fewer are read before another process has started


class Item(NamedTuple):
    """One picture: transformed [3, S, S] and, if asked for, small enough to show; or why it could not be read."""

    path: Path
    tensor: Tensor | None
    preview: Image.Image | None
    problem: str


class ReadBatch(NamedTuple):
    """Some pictures: those that could be read, stacked, and messages about the others.

    Attributes:
        paths: [b].
        pictures: [b, 3, S, S] in [0, 1].
        previews: [b] RGB, or empty if they were not asked for.
        problems: (path, why) of each picture that could not be read.
    """

    paths: list[Path]
    pictures: Tensor
    previews: list[Image.Image]
    problems: list[tuple[Path, str]]


class _Pictures(Dataset[Item]):
    def __init__(self, paths: Sequence[Path], transform: Transform, previews: bool) -> None:
        self._paths, self._transform, self._previews = list(paths), transform, previews

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Item:
        path = self._paths[row]
        try:
            picture = read_picture(path)
        except BadPictureError as error:
            return Item(path, None, None, str(error))
        tensor = self._transform(picture)
        if not self._previews:
            return Item(path, tensor, None, "")
        picture.thumbnail(PREVIEW, Image.Resampling.LANCZOS, reducing_gap=2.0)
        return Item(path, tensor, picture, "")


def _collate(items: list[Item]) -> ReadBatch:
    good = [item for item in items if item.tensor is not None]
    tensors = [item.tensor for item in good if item.tensor is not None]
    return ReadBatch(
        [item.path for item in good],
        torch.stack(tensors) if tensors else torch.empty(0, 3, 1, 1),
        [item.preview for item in good if item.preview is not None],
        [(item.path, item.problem) for item in items if item.problem],
    )


def read_batches(
    paths: Sequence[Path], transform: Transform, *, batch_size: int, workers: int, previews: bool
) -> Iterator[ReadBatch]:
    """The pictures in their order, ``batch_size`` at a time.

    Args:
        paths: files.
        transform: RGB picture -> [3, S, S].
        batch_size: pictures a batch, readable or not.
        workers: processes that read; a few pictures are read in this one.
        previews: also give the pictures themselves, scaled down to at most :data:`PREVIEW`.

    Raises:
        UserError: a process that reads died. Use the batches within :func:`naming_dead_workers` too.
    """
    processes = workers if len(paths) >= _WORTH_WORKERS else 0
    loader = DataLoader(
        _Pictures(paths, transform, previews),
        batch_size=batch_size,
        num_workers=processes,
        collate_fn=_collate,
        # A preview takes 7 MB, and each process has this many batches of them ready
        prefetch_factor=(1 if previews else 2) if processes else None,
    )
    with naming_dead_workers():
        yield from loader


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Say what can be done where a process that reads died, for want of memory, say.

    PyTorch raises that from a signal handler, so wherever this process happens to be.

    Raises:
        UserError: one died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"--workers: a process that reads pictures died, perhaps for want of memory ({_first_sentence(error)}); "
            "give fewer, or -j 0 to read in this process"
        ) from error


def _first_sentence(error: RuntimeError) -> str:
    return str(error).splitlines()[0].split(". ")[0].rstrip(". ")
