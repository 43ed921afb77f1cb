"""Turn what a batch of the wrong size does to PyTorch into a message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from src.config.train import RunSettings
from src.errors import UserError, first_line

_ONE_VALUE = "more than 1 value per channel"  # of batch norm, also compiled or synchronised
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # of CUDA, and of the CPU on each system


@contextmanager
def explained_failures(settings: RunSettings) -> Iterator[None]:
    """Explain errors that come from the number of images in a batch.

    Raises:
        UserError: batch norm got one image with features of a single pixel, or the memory is too small for the batch.
    """
    try:
        yield
    except (ValueError, RuntimeError, MemoryError) as error:
        size, text = f"--batch-size {settings.batch_size}", str(error)
        if _ONE_VALUE in text:
            raise UserError(
                f"{size}: batch norm cannot train on a single image whose features have a single pixel; give a larger "
                "--batch-size or --image-size (and at least two images to each process), or --freeze-bn"
            ) from error
        if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
            raise UserError(
                f"{size}: there is not enough memory ({first_line(error)}); give a smaller --batch-size (with "
                "--accumulate for steps of the same size), or --grad-checkpointing"
            ) from error
        raise
