"""Watching a training run in TensorBoard, which is optional: without it, or unasked, nothing is written.

Steps and epochs are two runs of one folder, ``steps`` and ``epochs``: they count along different axes, and what a
killed run has left beyond the point from which another goes on is hidden by its place on one axis.
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
from src.inference.tagger import Tag

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FLUSH_SECONDS = 30  # after which what was written is in the files
_PHOTO = (480, 480)  # pixels that a photo is drawn from at most


class Watcher:
    """Watches nothing. :func:`open_watcher` gives one that does, with the same methods; a context manager.

    Attributes:
        active: whether anything becomes of what it is told; where it is costly to find out, ask first.
    """

    active = False

    def step(self, global_step: int, scalars: Mapping[str, float]) -> None:
        """Numbers of an optimisation step, such as ``train/loss`` and ``lr/head``.

        Args:
            global_step: counts over all epochs, upwards.
            scalars: by name; what stands before the slash groups them.
        """

    def histogram(self, global_step: int, name: str, values: Tensor) -> None:
        """How ``values`` (any shape) are distributed at a step; those that are not finite are left out."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Metrics of an epoch: ``zero_shot.F1@3`` is shown as ``zero_shot/F1@3``.

        Counts and ceilings, which no training changes, are left out.
        """

    def images(self, epoch: int, images: Sequence[Image.Image | str | Path], captions: Sequence[Sequence[Tag]]) -> None:
        """Sample images with their tags of this epoch drawn beside them.

        Args:
            epoch: counts from 1.
            images: the same ones in every epoch; files that cannot be read are left out.
            captions: the tags of each, best first.
        """

    def settings(self, settings: Mapping[str, Any]) -> None:
        """The run's hyper-parameters, shown as a table from its first step on."""

    def close(self) -> None:
        """Bring everything to disk; nothing is written afterwards."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_watcher(folder: str | Path | None) -> Watcher:
    """A watcher that writes TensorBoard's files, or for None one that does nothing.

    The folder of an earlier run is gone on with: from the first step and the first epoch that this run tells of, what
    the earlier one wrote is hidden. A new run thus hides all of it, and a resumed one what it does again.

    Args:
        folder: ``tensorboard --logdir FOLDER`` shows it.

    Raises:
        UserError: the tensorboard package is not installed, or the folder cannot be written; the watcher's methods
            raise it too, where the disk is full.
    """
    if folder is None:
        return Watcher()
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
    return _TensorBoard(folder, SummaryWriter)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with the files into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--tensorboard: cannot write {folder}: {error.strerror or error}; choose another output folder, or leave "
            "the flag out"
        ) from error


class _TensorBoard(Watcher):
    """Writes event files with ``make_writer``, torch's SummaryWriter, each opened by the first thing it is to hold."""

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
        if len(values):  # TensorBoard has no histogram of nothing
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
        """The writer of an axis; the first ``place`` is the one from which earlier runs are hidden."""
        with _disk(self._folder):
            if axis not in self._writers:
                self._writers[axis] = self._make_writer(
                    str(self._folder / axis), purge_step=place, flush_secs=_FLUSH_SECONDS
                )
                if axis == "steps" and self._settings:
                    self._writers[axis].add_text("settings", self._settings, place)
            yield self._writers[axis]


def _is_constant(name: str) -> bool:
    """Whether a metric says something of the data alone."""
    *parts, last = name.split(".")
    return "ceiling" in parts or last.startswith("num_") or last == "labels_per_image"


def _small(image: Image.Image | str | Path) -> Image.Image:
    """The photo, no larger than it is drawn."""
    photo = to_rgb(image) if isinstance(image, Image.Image) else read_image(image)
    photo = photo.copy()  # the caller's own stays as it is
    photo.thumbnail(_PHOTO, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return photo


def _cell(value: object) -> str:
    """``value`` as it is, in a cell of a Markdown table."""
    text = "".join(f"\\{sign}" if sign in r"\`*_{}[]<>()#+-.!|" else sign for sign in str(value))
    return " ".join(text.split())
