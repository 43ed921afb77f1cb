"""What training and validation print about images: progress, and those that cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(total: int, title: str, every: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar over images on standard error; silent where that is no terminal.

    Args:
        total: images.
        title: in front of the bar.
        every: images between two updates; None: what is pleasant to look at.
    """
    with tqdm(total=total, desc=title, unit="img", disable=None, leave=False, miniters=every) as bar:
        yield bar.update


def warn_about_bad_images(bad: tuple[str, ...], known: set[str]) -> None:
    """Name images that could not be read, each once a run."""
    for message in bad:
        if message not in known:
            known.add(message)
            print(f"skipped: {message}", file=sys.stderr)
