"""Log a training run to TensorBoard, which is optional.

Steps and epochs are two TensorBoard runs, ``steps`` and ``epochs``, because they count along different axes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from src.data.images import BadImageError, read_image
from src.errors import UserError
from src.tags import Tag
from src.text import printable
from src.utils.files import check_writable
from src.utils.optional import import_extra

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FLUSH_SECONDS = 30
_PHOTO = (480, 480)  # maximum size of a photo in pixels


class Logger:
    """Log a training run; a context manager. Without a folder, every method does nothing.

    The files of an earlier run in the folder stay, but are hidden from the first step and epoch logged here on: a
    resumed run does not show a step twice.

    Args:
        folder: shown by ``tensorboard --logdir FOLDER``; None logs nothing.
        on_file: told the path of each file that was just created.

    Attributes:
        active: whether it writes anything; ask before computing something costly to log.

    Raises:
        UserError: the tensorboard package is not installed, or the folder cannot be written; also from the methods,
            for example on a full disk.
    """

    def __init__(self, folder: Path | None = None, on_file: Callable[[Path], None] = lambda path: None) -> None:
        self.active = folder is not None
        self._folder, self._on_file = folder or Path(), on_file
        self._writers: dict[str, SummaryWriter] = {}  # each is opened when it is first needed
        self._settings = ""
        self._held: list[Callable[[], None]] | None = None  # steps that wait for the folder
        if folder is not None:
            self._make_writer = import_extra("torch.utils.tensorboard", "tensorboard", "--tensorboard").SummaryWriter
            check_writable(folder / "events", "--tensorboard")

    def step(self, global_step: int, scalars: Mapping[str, float]) -> None:
        """Log numbers of an optimisation step, counted over all epochs, such as ``train/loss`` and ``lr/head``."""
        if self._held is not None:
            self._held.append(lambda: self.step(global_step, scalars))
        elif self.active:
            with self._at("steps", global_step) as writer:
                for name, value in scalars.items():
                    writer.add_scalar(name, value, global_step)

    def histogram(self, global_step: int, name: str, values: Tensor) -> None:
        """Log the distribution of ``values`` (any shape) at a step, without those that are not finite."""
        values = values.detach().float().flatten()
        values = values[values.isfinite()]
        if self._held is not None:
            self._held.append(lambda: self.histogram(global_step, name, values))
        elif self.active and len(values):  # TensorBoard rejects an empty histogram
            with self._at("steps", global_step) as writer:
                writer.add_histogram(name, values, global_step)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, ``zero_shot.F1@3`` as ``zero_shot/F1@3``, without constants of the data."""
        if self.active:
            with self._at("epochs", epoch) as writer:
                for name, value in metrics.items():
                    if not _is_constant(name):
                        writer.add_scalar(name.replace(".", "/", 1), value, epoch)
                writer.flush()

    def images(self, epoch: int, paths: Sequence[Path], captions: Sequence[Sequence[Tag]]) -> None:
        """Log sample images with their tags, best first, drawn beside them; unreadable files are left out."""
        if not self.active:
            return
        from src.visualize import tagged_image  # matplotlib is slow to import

        with self._at("epochs", epoch) as writer:
            for number, (path, tags) in enumerate(zip(paths, captions, strict=True), start=1):
                try:
                    photo = read_image(path, at_least=2 * max(_PHOTO))
                except BadImageError:
                    continue
                photo.thumbnail(_PHOTO)
                drawn = np.asarray(tagged_image(photo, tags))
                writer.add_image(f"images/{number}", drawn, epoch, dataformats="HWC")
            writer.flush()

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Log the settings of the run as a Markdown table, with its first step."""
        cells = {name: printable(str(value)).replace("|", "\\|").replace("`", "'") for name, value in settings.items()}
        rows = "".join(f"|{name}|`{cell}`|\n" for name, cell in cells.items())
        self._settings = f"|setting|value|\n|---|---|\n{rows}"

    def hold(self) -> Callable[[], None]:
        """Write no steps until the function that this returns is called; those that came before are written then."""
        self._held = [] if self.active else None
        return self._release

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for write in held:
            write()

    def close(self) -> None:
        """Flush everything to disk; nothing is written afterwards."""
        with self._disk(), ExitStack() as stack:  # which closes all of them, also if one fails
            while self._writers:
                stack.callback(self._writers.popitem()[1].close)

    def __enter__(self) -> Logger:
        self._hook, threading.excepthook = threading.excepthook, self._hear
        return self

    def _hear(self, failed: threading.ExceptHookArgs) -> None:
        """Print nothing about a thread of TensorBoard, whose error the next call raises; pass others on."""
        if not type(failed.thread).__module__.startswith("tensorboard."):
            self._hook(failed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            threading.excepthook = self._hook

    @contextmanager
    def _at(self, axis: Literal["steps", "epochs"], place: int) -> Iterator[SummaryWriter]:
        """Return the writer of an axis; from the first ``place`` on, earlier runs are hidden."""
        with self._disk():
            if axis not in self._writers:
                folder = self._folder / axis
                before = set(folder.glob("*"))
                path = _in_unicode(folder)
                self._writers[axis] = self._make_writer(path, purge_step=place, flush_secs=_FLUSH_SECONDS)
                for file in set(folder.glob("*")) - before:
                    self._on_file(file)
                if axis == "steps" and self._settings:
                    self._writers[axis].add_text("settings", self._settings, place)
            yield self._writers[axis]

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Convert file errors into a :class:`UserError`."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--tensorboard: cannot write {self._folder}: {error.strerror or error}; choose another output folder, "
                "or leave the flag out"
            ) from error


def _in_unicode(folder: Path) -> str:
    """Make a folder; return a path that is valid Unicode, as TensorBoard needs, for as long as this process lives."""
    if printable(folder) == str(folder):
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"  # only Linux has other names


def _is_constant(name: str) -> bool:
    """Return whether a metric depends on the data alone."""
    *parts, last = name.split(".")
    return "ceiling" in parts or last.startswith("num_") or last == "labels_per_image"
