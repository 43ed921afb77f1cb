"""Progress bars, and warnings about unreadable images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from src.text import on_screen


@contextmanager
def progress(total: int, title: str, every: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar over images on standard error; silent if that is no terminal.

    Args:
        total: images.
        title: in front of the bar.
        every: images between two updates; None: chosen by tqdm.
    """
    with tqdm(total=total, desc=title, unit="img", disable=None, leave=False, miniters=every) as bar:
        yield bar.update


def warn_about_bad_images(bad: tuple[str, ...], known: set[str]) -> None:
    """Print messages about unreadable images, each once per run."""
    for message in bad:
        if message not in known:
            known.add(message)
            print(f"skipped: {on_screen(message)}", file=sys.stderr)
