"""Log a training run to TensorBoard, which is optional.

Steps and epochs are two TensorBoard runs, ``steps`` and ``epochs``, because they count along different axes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from src.data.images import BadImageError, read_image, to_rgb
from src.errors import UserError
from src.tags import Tag

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FLUSH_SECONDS = 30
_PHOTO = (480, 480)  # maximum size of a photo in pixels


class Logger:
    """Log nothing; :func:`open_logger` returns a logger that writes, with the same methods. A context manager.

    Attributes:
        active: whether it writes anything; ask before computing something costly to log.
    """

    active = False

    def step(self, global_step: int, scalars: Mapping[str, float]) -> None:
        """Log numbers of an optimisation step, counted over all epochs, such as ``train/loss`` and ``lr/head``."""

    def histogram(self, global_step: int, name: str, values: Tensor) -> None:
        """Log the distribution of ``values`` (any shape) at a step, without those that are not finite."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, ``zero_shot.F1@3`` as ``zero_shot/F1@3``, without constants of the data."""

    def images(self, epoch: int, images: Sequence[Image.Image | str | Path], captions: Sequence[Sequence[Tag]]) -> None:
        """Log sample images with their tags drawn beside them; unreadable files are left out.

        Args:
            epoch: counts from 1.
            images: the same in every epoch.
            captions: the tags of each, best first.
        """

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Log the settings of the run as a table, with its first step."""

    def close(self) -> None:
        """Flush everything to disk; nothing is written afterwards."""

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_logger(folder: str | Path | None) -> Logger:
    """Open a logger that writes TensorBoard files, or for None one that does nothing.

    The files of an earlier run in the folder stay, but are hidden from the first step and epoch logged here on: a
    resumed run does not show a step twice.

    Args:
        folder: shown by ``tensorboard --logdir FOLDER``.

    Raises:
        UserError: the tensorboard package is not installed, or the folder cannot be written; later also the methods of
            the logger, for example on a full disk.
    """
    if folder is None:
        return Logger()
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard: the tensorboard package is not installed (or older than 1.15); pip install tensorboard, or "
            "leave the flag out"
        ) from error
    folder = Path(folder)
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return _TensorBoardLogger(folder, SummaryWriter)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Convert file errors into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--tensorboard: cannot write {folder}: {error.strerror or error}; choose another output folder, or leave "
            "the flag out"
        ) from error


class _TensorBoardLogger(Logger):
    """Write event files with ``make_writer`` (torch's SummaryWriter); each is opened when it is first needed."""

    active = True

    def __init__(self, folder: Path, make_writer: Callable[..., SummaryWriter]) -> None:
        self._folder, self._make_writer = folder, make_writer
        self._writers: dict[str, SummaryWriter] = {}
        self._settings = ""

    def step(self, global_step: int, scalars: Mapping[str, float]) -> None:
        with self._at("steps", global_step) as writer:
            for name, value in scalars.items():
                writer.add_scalar(name, value, global_step)

    def histogram(self, global_step: int, name: str, values: Tensor) -> None:
        values = values.detach().float().flatten()
        values = values[values.isfinite()]
        if len(values):  # TensorBoard rejects an empty histogram
            with self._at("steps", global_step) as writer:
                writer.add_histogram(name, values, global_step)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        with self._at("epochs", epoch) as writer:
            for name, value in metrics.items():
                if not _is_constant(name):
                    writer.add_scalar(name.replace(".", "/", 1), value, epoch)
            writer.flush()

    def images(self, epoch: int, images: Sequence[Image.Image | str | Path], captions: Sequence[Sequence[Tag]]) -> None:
        from src.visualize import tagged_image  # matplotlib is slow to import

        with self._at("epochs", epoch) as writer:
            for number, (image, tags) in enumerate(zip(images, captions, strict=True), start=1):
                try:
                    photo = _small(image)
                except BadImageError:
                    continue
                drawn = np.asarray(tagged_image(photo, tags))
                writer.add_image(f"images/{number}", drawn, epoch, dataformats="HWC")
            writer.flush()

    def settings(self, settings: Mapping[str, Any]) -> None:
        rows = "".join(f"|{_cell(name)}|{_cell(value)}|\n" for name, value in settings.items())
        self._settings = f"|setting|value|\n|---|---|\n{rows}"

    def close(self) -> None:
        with _disk(self._folder):
            while self._writers:
                self._writers.popitem()[1].close()

    @contextmanager
    def _at(self, axis: Literal["steps", "epochs"], place: int) -> Iterator[SummaryWriter]:
        """Return the writer of an axis; from the first ``place`` on, earlier runs are hidden."""
        with _disk(self._folder):
            if axis not in self._writers:
                self._writers[axis] = self._make_writer(
                    str(self._folder / axis), purge_step=place, flush_secs=_FLUSH_SECONDS
                )
                if axis == "steps" and self._settings:
                    self._writers[axis].add_text("settings", self._settings, place)
            yield self._writers[axis]


def _is_constant(name: str) -> bool:
    """Return whether a metric depends on the data alone."""
    *parts, last = name.split(".")
    return "ceiling" in parts or last.startswith("num_") or last == "labels_per_image"


def _small(image: Image.Image | str | Path) -> Image.Image:
    """Shrink a photo to the size at which it is drawn."""
    photo = to_rgb(image) if isinstance(image, Image.Image) else read_image(image)
    photo = photo.copy()  # thumbnail works in place
    photo.thumbnail(_PHOTO, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return photo


def _cell(value: object) -> str:
    """Escape ``value`` for a cell of a Markdown table."""
    text = "".join(f"\\{sign}" if sign in r"\`*_{}[]<>()#+-.!|" else sign for sign in str(value))
    return " ".join(text.split())
