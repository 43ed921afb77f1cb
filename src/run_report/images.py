"""The images of the page: an example of each frequent confusion, and samples with their tags."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from src.data.images import BadImageError, read_image
from src.errors import name_some
from src.run_report.ranking import Confusion, Ranking
from src.run_report.report import Evaluated

_SIZE = (300, 220)  # pixels; shown at about half the size, so that it is sharp on dense screens
_TAGS = 5  # of a sample
_MISSED = 6  # labels of a sample that are named
_VERDICTS = {1: "right", 0: "wrong", -1: "unknown"}


class Sample(NamedTuple):
    """An image, its best labels each with a verdict on it, and the names of the labels that are missing among them."""

    path: Path
    tags: Sequence[tuple[int, str]]
    missed: str


def thumbnail(path: Path) -> str | None:
    """Return the image as a small data URL; None if it is gone or cannot be read any more."""
    try:
        image = read_image(path)
    except BadImageError:
        return None
    image.thumbnail(_SIZE, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def examples(found: Sequence[Confusion], shown: set[int]) -> list[int]:
    """Choose an image of each confusion, where there is one another than those ``shown``, to which it is added."""
    chosen = []
    for rows in (one.rows.tolist() for one in found):
        chosen.append(next((row for row in rows if row not in shown), rows[0]))
        shown.add(chosen[-1])
    return chosen


def samples(rankings: dict[str, Ranking], evaluated: Evaluated, count: int) -> list[Sample]:
    """Choose evenly spaced images, of those with an unseen label where there are any, with their best labels."""
    ranking = rankings["generalized"]
    places = torch.arange(len(ranking.rows))
    if "zero_shot" in rankings:
        of_both = torch.isin(ranking.rows, rankings["zero_shot"].rows).nonzero()[:, 0]
        places = of_both if len(of_both) else places
    count = min(count, len(places))
    found = []
    for place in places[torch.arange(count) * len(places) // max(count, 1)].tolist():
        row, best = ranking.rows[place], ranking.best[place].tolist()[:_TAGS]
        truth = evaluated.targets(row[None])[0]
        missed = [column for column in ranking.columns.tolist() if truth[column] == 1 and column not in best]
        tags = [(column, _VERDICTS[int(truth[column])]) for column in best]
        names = name_some([evaluated.marked(column) for column in missed], _MISSED)
        found.append(Sample(evaluated.paths[int(row)], tags, names))
    return found
