"""What training and validation say about images: progress, unreadable ones, and the targets of the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypedDict

from torch import Tensor
from tqdm import tqdm

from src.data.parts import EvaluationSet


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


class PresentRows(TypedDict):
    """Arguments of :func:`src.evaluation.evaluate`: targets [n, C], and the rows of each setting."""

    targets: Tensor
    zero_shot_rows: Tensor
    generalized_rows: Tensor


def present_rows(evaluation: EvaluationSet, rows: Tensor) -> PresentRows:
    """Targets and settings of the evaluation images that could be read, for :func:`src.evaluation.evaluate`."""
    return {
        "targets": evaluation.targets.dense(rows),
        "zero_shot_rows": evaluation.in_zero_shot[rows].nonzero()[:, 0],
        "generalized_rows": evaluation.in_generalized[rows].nonzero()[:, 0],
    }
