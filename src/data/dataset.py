"""Images on disk as PyTorch data sets that tolerate unreadable images."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.images import BadImageError
from src.data.transforms import Transform, as_floats, read_transformed
from src.errors import UserError, first_line, name_some

_REPLACEMENTS = 20  # tried for an image that cannot be read
# Usual sub-folders of the images of a COCO-format set.
_SUBFOLDERS = ("", "images", "train2014", "val2014", "train2017", "val2017")


class Batch(NamedTuple):
    """A batch of images.

    Attributes:
        images: [b, 3, H, W] float32 in [0, 1].
        rows: [b] row of each image in the data set.
        bad: messages about the images of this batch that could not be read; they have no entry here.
    """

    images: Tensor
    rows: Tensor
    bad: tuple[str, ...]


# The tensor of an image or None, its row, and messages about images that could not be read.
Item = tuple[Tensor | None, int, tuple[str, ...]]


class ImageDataset(Dataset[Item]):
    """Image files; item i is (tensor, i, ()), or (None, i, (reason,)) if it cannot be read."""

    def __init__(self, paths: Sequence[Path], transform: Transform) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Item:
        try:
            return read_transformed(self.paths[row], self.transform), row, ()
        except BadImageError as error:
            return None, row, (str(error),)


def collate(items: list[Item]) -> Batch:
    """Stack the readable images of a batch; it may be empty."""
    good = [(tensor, row) for tensor, row, _ in items if tensor is not None]
    images = as_floats(torch.stack([tensor for tensor, _ in good])) if good else torch.empty(0, 3, 1, 1)
    return Batch(
        images,
        torch.tensor([row for _, row in good], dtype=torch.long),
        tuple(reason for _, _, reasons in items for reason in reasons),
    )


class TrainingImages(Dataset[Item]):
    """Augmented images; item (epoch, i) is (tensor, row, reasons).

    The random state of each item follows from the seed, the epoch and the row alone, so that a run can be resumed in
    the middle of an epoch. An image that cannot be read is replaced by another one, drawn with the same random state;
    ``row`` is that of the replacement (tensor None: none could be read), ``reasons`` tell about the unreadable ones.
    """

    def __init__(self, paths: Sequence[Path], transform: Transform, seed: int) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, row = key
        reasons: list[str] = []
        with seeded(self.seed, epoch, row):
            for _ in range(_REPLACEMENTS):
                try:
                    return read_transformed(self.paths[row], self.transform), row, tuple(reasons)
                except BadImageError as error:
                    reasons.append(str(error))
                    row = int(torch.randint(len(self.paths), ()).item())
        return None, row, tuple(reasons)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the random numbers of Python, NumPy and PyTorch with ``numbers``; restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(2, np.uint64).tolist()
    random.seed(seed[0])
    np.random.seed(seed[0] % 2**32)
    torch.default_generator.manual_seed(seed[1])  # only the CPU's: images are augmented there
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class TrainingLoader:
    """Loader of the training images of an epoch, batch by batch.

    Args:
        dataset: the images.
        workers: number of worker processes, which live as long as this object; 0 reads in this process.
        pin_memory: pin batches in memory, for a GPU.
    """

    def __init__(self, dataset: TrainingImages, *, workers: int, pin_memory: bool = False) -> None:
        self._keys: list[list[tuple[int, int]]] = []  # of each batch of the epoch: (epoch, row)
        self._loader = _loader(dataset, workers, pin_memory, batch_sampler=self._keys)

    def batches(self, epoch: int, rows: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """Yield the images of these batches of rows, in this order."""
        self._keys[:] = [[(epoch, row) for row in batch] for batch in rows]
        return iter(self._loader)


def _outlive_signals(worker: int) -> None:
    """Ignore signals that a terminal or a cluster sends to all processes: the trainer handles them and needs images.

    A second SIGTERM ends the process: it is Python's way to end a worker that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def image_loader(
    dataset: ImageDataset,
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
    rows: Sequence[int] | None = None,
) -> DataLoader[Batch]:
    """Return a loader of the images, or of some rows, in order; for the other arguments see :class:`TrainingLoader`."""
    return _loader(dataset, workers, pin_memory, batch_size=batch_size, sampler=rows)


def _loader(dataset: Dataset[Item], workers: int, pin_memory: bool, **sampling: Any) -> DataLoader[Batch]:
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # collate turns items into Batch
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_outlive_signals,
        **sampling,
    )


@contextmanager
def guard_workers() -> Iterator[None]:
    """Turn the death of a worker process, mostly for lack of memory, into a message; end all workers afterwards.

    PyTorch raises the error anywhere in this process; a batch that is just being received may fail first.

    Raises:
        UserError: a worker process died.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionResetError, ConnectionRefusedError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"--workers: a worker process died, perhaps for lack of memory ({first_line(error)}); give fewer workers, "
            "or -j 0 to read in this process"
        ) from error
    finally:
        _end_workers()


def _end_workers() -> None:
    """Kill workers that are left: they survive the one SIGTERM that Python sends at exit, where it waits for them."""
    workers = multiprocessing.active_children()
    in_main_thread = threading.current_thread() is threading.main_thread()  # which alone sets signal handlers
    if not workers or not in_main_thread or sys.platform == "win32":
        return
    on_death = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises an error for each
    for worker in workers:
        worker.kill()
        worker.join()
    signal.signal(signal.SIGCHLD, on_death)


def file_lookup() -> Callable[[str], bool]:
    """Return a function that tells whether a file exists; it lists each folder once, faster than asking for each name.

    Raises (when called):
        UserError: a folder cannot be listed.
    """
    listing: dict[str, set[str]] = {}

    def exists(path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in listing:
            try:
                entries = os.scandir(folder) if os.path.isdir(folder) else ()
                listing[folder] = {entry.name for entry in entries if not entry.is_dir()}
            except OSError as error:
                raise UserError(f"{folder}: cannot be listed: {error.strerror or error}") from error
        return name in listing[folder]

    return exists


def locate_images(file_names: Sequence[str], root: Path, source: str) -> list[Path]:
    """Find every image below ``root`` or one of the usual sub-folders (``images``, ``train2014``, ...).

    Raises:
        UserError: images are missing; the message counts them, names some, and the label file ``source``.
    """
    exists = file_lookup()
    folders = [os.path.join(root, folder) for folder in _SUBFOLDERS]
    found: list[Path] = []
    missing: list[str] = []
    for name in file_names:
        path = next((path for folder in folders if exists(path := os.path.join(folder, name))), None)
        if path is None:
            missing.append(name)
        else:
            found.append(Path(path))
    if missing:
        raise UserError(
            f"--data {root}: {len(missing)} of the {len(file_names)} images that {source} lists are not there "
            f"({name_some(missing, 3)}); looked in it and in its {', '.join(_SUBFOLDERS[1:])}; give the folder "
            "that the names are relative to"
        )
    return found
