"""Explain what a batch of a single image does to batch norm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from src.config.train import RunSettings
from src.errors import UserError

_ONE_VALUE = "more than 1 value per channel"  # also where batch norm is compiled or synchronised


@contextmanager
def explained_single_images(settings: RunSettings) -> Iterator[None]:
    """Explain the error of a batch norm that gets one value per channel.

    Raises:
        UserError: it did: a batch holds a single image, whose features have a single pixel.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if _ONE_VALUE not in str(error):
            raise
        raise UserError(
            f"--batch-size {settings.batch_size}: batch norm cannot train on a single image whose features have a "
            "single pixel; give a larger --batch-size or --image-size (and at least two images to each process), or "
            "--freeze-bn"
        ) from error
