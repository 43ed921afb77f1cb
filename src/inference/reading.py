"""Reading images beside the model: decoded and resized in threads, in the order they were named in.

Pillow, NumPy and PyTorch let go of the interpreter while they decode, resize and compute, so threads overlap with the
model as processes do. They need no second start of Python and PyTorch, and hand an image over without a copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from src.data.images import BadImageError, read_image
from src.data.transforms import ImageTransform, Transform, as_floats, read_transformed

PREVIEW = (1600, 1600)  # pixels; as much as any output shows of an image


class Item(NamedTuple):
    """One image: transformed [3, S, S] and, if asked for, small enough to show; or why it could not be read."""

    path: Path
    tensor: Tensor | None
    preview: Image.Image | None
    problem: str


class ReadBatch(NamedTuple):
    """Some images: those that could be read, stacked, and messages about the others.

    Attributes:
        paths: [b].
        images: [b, 3, S, S] float32 in [0, 1].
        previews: [b] RGB, or empty if they were not asked for.
        problems: (path, why) of each image that could not be read.
    """

    paths: list[Path]
    images: Tensor
    previews: list[Image.Image]
    problems: list[tuple[Path, str]]


def _read_item(path: Path, transform: Transform, previews: bool) -> Item:
    """Read one image."""
    try:
        if not previews:
            return Item(path, read_transformed(path, transform), None, "")
        image = read_image(path)
        tensor = _tensor_of(path, image, transform)
    except BadImageError as error:
        return Item(path, None, None, str(error))
    image.thumbnail(PREVIEW, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Item(path, tensor, image, "")


def _tensor_of(path: Path, image: Image.Image, transform: Transform) -> Tensor:
    """What :func:`read_transformed` gives, from an image that was read whole where that makes no difference.

    An image's tags must not depend on whether it is shown too.
    """
    if not isinstance(transform, ImageTransform):
        return transform(image)
    return transform.read_bytes(path) if transform.reads_less_of(image) else transform.to_bytes(image)


def _collate(items: list[Item]) -> ReadBatch:
    good = [item for item in items if item.tensor is not None]
    tensors = [item.tensor for item in good if item.tensor is not None]
    return ReadBatch(
        [item.path for item in good],
        as_floats(torch.stack(tensors)) if tensors else torch.empty(0, 3, 1, 1),
        [item.preview for item in good if item.preview is not None],
        [(item.path, item.problem) for item in items if item.problem],
    )


def read_batch(paths: Sequence[Path], transform: Transform, previews: bool) -> ReadBatch:
    """Read some images here and now; see :func:`read_batches`."""
    return _collate([_read_item(path, transform, previews) for path in paths])


def read_batches(
    paths: Sequence[Path], transform: Transform, *, batch_size: int, workers: int, previews: bool
) -> Iterator[ReadBatch]:
    """The images in their order, ``batch_size`` at a time.

    While the caller works on a batch the next one is read, and none after it, so that at most two are in memory; while
    the caller waits, two are being read. Where the caller stops early, only the images in hand are read to their end.

    Args:
        paths: files.
        transform: RGB image -> [3, S, S]; is called in several threads at once.
        batch_size: images a batch, readable or not.
        workers: threads that read; 0 reads each batch in the caller's, when it is asked for.
        previews: also give the images themselves, scaled down to at most :data:`PREVIEW`.
    """
    if workers == 0:
        for first in range(0, len(paths), batch_size):
            yield read_batch(paths[first : first + batch_size], transform, previews)
        return
    left = iter(paths)
    ahead: deque[Future[Item]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="image-reader") as pool:

        def start_batch() -> None:
            ahead.extend(pool.submit(_read_item, path, transform, previews) for path in islice(left, batch_size))

        try:
            start_batch()
            while ahead:
                start_batch()
                yield _collate([ahead.popleft().result() for _ in range(min(batch_size, len(ahead)))])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
