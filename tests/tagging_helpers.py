"""What the tests of written tags share: drawn results, and runs that write them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.inference.formats import ImageResult, TagRow
from src.inference.results import ResultWriter

SETTINGS = {"top_k": 3, "threshold": None, "weights": "5f0e"}
FORMS = ("json", "csv", "parquet") if importlib.util.find_spec("pyarrow") else ("json", "csv")


def outputs(folder: Path, *forms: str) -> dict[str, Path]:
    """Where the outputs of those formats, or of all, are in the tests."""
    return {form: folder / f"tags.{form}" for form in forms or FORMS}


def writer(folder: Path, *forms: str, settings: dict = SETTINGS, **options: bool) -> ResultWriter:
    return ResultWriter(outputs(folder, *forms), model="models/m.ckpt", settings=settings, **options)


def results(names: list[str], most: int = 3) -> list[ImageResult]:
    """Of each name 0 to ``most`` tags with float32 scores of all sizes, some with probabilities."""
    random = np.random.default_rng(0)
    made = []
    for number, name in enumerate(names):
        scores = np.float32(random.standard_normal(number % (most + 1)) * 10.0 ** random.integers(-30, 30)).tolist()
        tags = [
            TagRow(f"tag, {place} ü", score, place % 2 == 1, float(np.float32(random.random())) if number % 3 else None)
            for place, score in enumerate(scores)
        ]
        made.append(ImageResult(name, tags, f"out/{number}.png" if number % 4 == 1 else None))
    return made


def write(target: ResultWriter, made: list[ImageResult], bad: tuple[str, ...] = ()) -> None:
    """A run: the bad images, and the results that are not there yet."""
    with target:
        _write_all(target, made, bad)


def interrupt(target: ResultWriter, made: list[ImageResult], bad: tuple[str, ...] = ()) -> None:
    """A run that is stopped after these."""
    with suppress(KeyboardInterrupt), target:
        _write_all(target, made, bad)
        raise KeyboardInterrupt


def _write_all(target: ResultWriter, made: list[ImageResult], bad: tuple[str, ...]) -> None:
    for name in bad:
        target.skip(name, f"{name}: broken")
    for result in made:
        if result.image not in target.done:
            target.write(result)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def table_of(made: list[ImageResult]) -> list[ImageResult]:
    """What a table of rows keeps: images with tags, and nothing about annotated ones."""
    return [ImageResult(result.image, result.tags) for result in made if result.tags]


def message_of(act: Callable[[], object]) -> str:
    """The one line that a mistake is told in."""
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message
