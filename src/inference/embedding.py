"""Images in, embeddings out, in the order of the images: the model beside those who read, or several side by side.

A processor gets more images done where each of its threads reads a few and computes their embeddings by itself than
where all compute together while others read: no thread waits for another at the end of every layer, an image is still
in the cache when the model wants it, and the model goes on while results are written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from src.data.transforms import Transform
from src.inference.reading import ReadBatch, read_batch, read_batches


class EmbeddedBatch(NamedTuple):
    """Some images and the embeddings [b, D*M] of those that could be read; None where that is none of them."""

    batch: ReadBatch
    embeddings: Tensor | None


def calls_at_once(num_images: int, *, batch_size: int, workers: int) -> int:
    """How many threads should read and embed side by side, where the model can be called so.

    No more than a batch of images is soonest tagged by all threads together, more by each with its own share.
    """
    return max(1, min(workers, torch.get_num_threads())) if num_images > batch_size else 1


def embed_images(
    paths: Sequence[Path],
    transform: Transform,
    embed: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    workers: int,
    at_once: int,
    previews: bool,
) -> Iterator[EmbeddedBatch]:
    """Read and embed images.

    Args:
        paths, transform, previews: see :func:`src.inference.reading.read_batches`.
        embed: images [b, 3, S, S] -> [b, D*M]; may be called by ``at_once`` threads at a time.
        batch_size: images, readable or not, that go through the model at once.
        workers: with ``at_once`` 1, threads that read while the caller's thread embeds.
        at_once: with more than 1, so many threads read and embed, each its share of a batch, and at first a single
            image, so that there is something to see. Up to twice as many shares are on their way; where the caller
            stops early, only those in hand are finished.
    """

    def embedded(batch: ReadBatch) -> EmbeddedBatch:
        return EmbeddedBatch(batch, embed(batch.images) if batch.paths else None)

    def read_and_embed(some: Sequence[Path]) -> EmbeddedBatch:
        return embedded(read_batch(some, transform, previews))

    if at_once == 1:
        yield from map(
            embedded, read_batches(paths, transform, batch_size=batch_size, workers=workers, previews=previews)
        )
        return
    ahead: deque[Future[EmbeddedBatch]] = deque()
    with _torch_threads(1), ThreadPoolExecutor(at_once, thread_name_prefix="image-reader") as pool:
        try:
            for some in _shares(paths, -(-batch_size // at_once), at_once):
                ahead.append(pool.submit(read_and_embed, some))
                if len(ahead) == 2 * at_once:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _shares(paths: Sequence[Path], size: int, singles: int) -> Iterator[Sequence[Path]]:
    """So many single images, then parts of ``size``."""
    yield from (paths[place : place + 1] for place in range(min(singles, len(paths))))
    yield from (paths[first : first + size] for first in range(singles, len(paths), size))


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """PyTorch computes with so many threads for a while.

    Where all threads have work of their own, an operation that is shared among them waits until the others are let in.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
