"""Read and embed many images in threads, in the order of their paths.

Pillow, NumPy and PyTorch release the interpreter lock while they decode, resize and compute, so threads overlap like
processes, without starting Python again or copying images between processes.

There are two modes. With one thread that calls the model, other threads read the next batch meanwhile. With several
(ONNX Runtime), each thread reads and embeds its own share of a batch with a single-threaded model. This is faster on
many images: no thread waits for the others after each layer, and an image is still in the cache when it is embedded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from src.data.images import BadImageError, read_image
from src.data.transforms import ImageTransform, Transform, as_floats, read_transformed

_In = TypeVar("_In")
_Out = TypeVar("_Out")
PREVIEW = (1600, 1600)  # pixels; the largest size at which any output shows an image


@dataclass(frozen=True)
class Loading:
    """Options for reading images.

    Attributes:
        batch_size: images per forward pass, unreadable ones included.
        workers: threads that read while the caller's thread embeds; 0 reads in the caller's thread. Ignored where
            ``parallel_calls`` is above 1.
        parallel_calls: threads that read and embed, each its share of a batch.
        previews: also return the images themselves, scaled down to at most :data:`PREVIEW`.
    """

    batch_size: int = 16
    workers: int = 0
    parallel_calls: int = 1
    previews: bool = False


class ReadBatch(NamedTuple):
    """A batch of images as read from disk.

    Attributes:
        paths: [b] of the readable images.
        images: [b, 3, S, S] float32 in [0, 1].
        previews: [b] RGB images; empty if not requested.
        problems: (path, message) of each unreadable image.
    """

    paths: list[Path]
    images: Tensor
    previews: list[Image.Image]
    problems: list[tuple[Path, str]]


class _Item(NamedTuple):
    """One image: transformed [3, S, S] with its preview, or the problem that it has."""

    path: Path
    tensor: Tensor | None
    preview: Image.Image | None
    problem: str


def parallel_calls(num_images: int, loading: Loading) -> int:
    """Return how many threads should read and embed, if the model allows parallel calls.

    A single batch is fastest when all threads compute together, more images when each thread has its own share.
    """
    return max(1, min(loading.workers, torch.get_num_threads())) if num_images > loading.batch_size else 1


def read_and_embed(
    paths: Sequence[Path], transform: Transform, embed: Callable[[Tensor], Tensor], loading: Loading
) -> Iterator[tuple[ReadBatch, Tensor | None]]:
    """Read images in batches and compute the embeddings [b, D*M] of the readable ones; None if a batch has none.

    With parallel calls the first batches hold a single image each, so that results appear early, and up to two shares
    per thread are in progress. If the caller stops early, only images in progress are finished.

    Args:
        paths: files.
        transform: RGB image -> [3, S, S]; called in several threads at once.
        embed: images [b, 3, S, S] -> [b, D*M]; called by ``loading.parallel_calls`` threads at once.
        loading: batch size and threads.
    """

    def embed_batch(batch: ReadBatch) -> tuple[ReadBatch, Tensor | None]:
        return batch, embed(batch.images) if batch.paths else None

    def read_and_embed_share(share: Sequence[Path]) -> tuple[ReadBatch, Tensor | None]:
        return embed_batch(_collate([_read_item(path, transform, loading.previews) for path in share]))

    threads = loading.parallel_calls
    if threads == 1:
        yield from map(embed_batch, read_batches(paths, transform, loading))
        return
    shares = _shares(paths, size=-(-loading.batch_size // threads), singles=threads)
    with _torch_threads(1), closing(_map_ahead(read_and_embed_share, shares, threads, ahead=2 * threads)) as batches:
        yield from batches


def read_batches(paths: Sequence[Path], transform: Transform, loading: Loading) -> Iterator[ReadBatch]:
    """Read images in batches.

    The next batch is read while the caller works on one, and none beyond it, so that at most two are in memory. If the
    caller stops early, only images in progress are finished. See :func:`read_and_embed` for the arguments.
    """

    def read(path: Path) -> _Item:
        return _read_item(path, transform, loading.previews)

    with closing(_map_ahead(read, paths, loading.workers, ahead=loading.batch_size + 1)) as items:
        while batch := list(islice(items, loading.batch_size)):
            yield _collate(batch)


def _map_ahead(
    function: Callable[[_In], _Out], values: Iterable[_In], threads: int, ahead: int
) -> Generator[_Out, None, None]:
    """Yield ``function`` of each value in order, computed by threads for at most ``ahead`` values at a time."""
    if threads == 0:
        yield from map(function, values)
        return
    started: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="image-reader") as pool:
        try:
            for value in values:
                started.append(pool.submit(function, value))
                if len(started) == ahead:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_item(path: Path, transform: Transform, previews: bool) -> _Item:
    try:
        if not previews:
            return _Item(path, read_transformed(path, transform), None, "")
        if isinstance(transform, ImageTransform):
            tensor, image = transform.read_with_image(path, 2 * max(PREVIEW))
        else:
            image = read_image(path)
            tensor = transform(image)
    except BadImageError as error:
        return _Item(path, None, None, str(error))
    image.thumbnail(PREVIEW, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _Item(path, tensor, image, "")


def _collate(items: list[_Item]) -> ReadBatch:
    good = [item for item in items if item.tensor is not None]
    tensors = [item.tensor for item in good if item.tensor is not None]
    return ReadBatch(
        [item.path for item in good],
        as_floats(torch.stack(tensors)) if tensors else torch.empty(0, 3, 1, 1),
        [item.preview for item in good if item.preview is not None],
        [(item.path, item.problem) for item in items if item.problem],
    )


def _shares(paths: Sequence[Path], *, size: int, singles: int) -> Iterator[Sequence[Path]]:
    """Cut into ``singles`` single paths, then parts of ``size``."""
    yield from (paths[place : place + 1] for place in range(min(singles, len(paths))))
    yield from (paths[first : first + size] for first in range(singles, len(paths), size))


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with ``count`` threads: operations shared among threads that are busy would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
