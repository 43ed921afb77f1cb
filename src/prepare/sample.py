"""A small data set that the code draws itself (see ``SampleSettings``)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from src.config.sources import SampleSettings
from src.data.labels import LabelledImages, LabelMatrix
from src.prepare.collected import Collected
from src.word_vectors.lookup import LabelVectors, label_vectors
from src.word_vectors.source import open_word_vectors

WORDS = Path(__file__).with_name("sample_words.txt")  # their vectors
WIDTH, HEIGHT, HORIZON = 160, 120, 70
UNSEEN = ("moon", "cloud", "flower", "boat", "snow", "fence")

Draw = ImageDraw.ImageDraw
Random = np.random.Generator
Painter = Callable[[Draw, Random], None]


def _place(random: Random, low: int, high: int) -> tuple[int, int, int]:
    """Draw x, y (between two heights) and size of an object."""
    return int(random.integers(20, WIDTH - 20)), int(random.integers(low, high)), int(random.integers(8, 17))


def _upper(colour: tuple[int, int, int]) -> Painter:
    def paint(draw: Draw, random: Random) -> None:
        shade = random.integers(-12, 13, 3)
        for y in range(HORIZON):
            draw.line((0, y, WIDTH, y), fill=tuple(int(v) for v in np.clip(np.add(colour, shade) + y // 3, 0, 255)))

    return paint


def _lower(colour: tuple[int, int, int], speckle: int) -> Painter:
    def paint(draw: Draw, random: Random) -> None:
        draw.rectangle((0, HORIZON, WIDTH, HEIGHT), fill=colour)
        for x, y, change in zip(
            random.integers(0, WIDTH, 400),
            random.integers(HORIZON, HEIGHT, 400),
            random.integers(-speckle, speckle + 1, 400),
            strict=True,
        ):
            draw.line((x, y, x + 4, y), fill=tuple(int(v) for v in np.clip(np.add(colour, change), 0, 255)))

    return paint


def _sun(draw: Draw, random: Random) -> None:
    x, y, r = _place(random, 15, 35)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 220, 60), outline=(255, 170, 40), width=3)


def _moon(draw: Draw, random: Random) -> None:
    x, y, r = _place(random, 15, 35)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(235, 235, 215))
    draw.ellipse((x - r // 3, y - r, x + r + r // 2, y + r - 2), fill=(60, 66, 96))


def _star(draw: Draw, random: Random) -> None:
    for _ in range(12):
        x, y, _size = _place(random, 4, 60)
        draw.line((x - 3, y, x + 3, y), fill="white")
        draw.line((x, y - 3, x, y + 3), fill="white")


def _cloud(draw: Draw, random: Random) -> None:
    x, y, r = _place(random, 15, 40)
    for dx, dy in ((-r, 2), (0, -4), (r, 2), (r // 2, 5), (-r // 2, 5)):
        draw.ellipse((x + dx - r, y + dy - r // 2, x + dx + r, y + dy + r // 2), fill=(245, 245, 250))


def _mountain(draw: Draw, random: Random) -> None:
    x, _, size = _place(random, 40, 41)
    draw.polygon((x - 3 * size, HORIZON, x, HORIZON - 3 * size, x + 3 * size, HORIZON), fill=(120, 105, 98))


def _tree(draw: Draw, random: Random) -> None:
    x, y, r = _place(random, 78, 95)
    draw.rectangle((x - 2, y - r, x + 2, y + r // 2), fill=(96, 60, 30))
    draw.ellipse((x - r, y - 3 * r, x + r, y - r + 4), fill=(24, 105, 40))


def _flower(draw: Draw, random: Random) -> None:
    for _ in range(3):
        x, y, _size = _place(random, 88, 112)
        draw.line((x, y, x, y + 8), fill=(20, 110, 30), width=2)
        for dx, dy in ((-4, 0), (4, 0), (0, -4), (0, 4)):
            draw.ellipse((x + dx - 3, y + dy - 3, x + dx + 3, y + dy + 3), fill=(225, 60, 140))


def _house(draw: Draw, random: Random) -> None:
    x, y, r = _place(random, 75, 95)
    draw.rectangle((x - r, y - r, x + r, y + r // 2), fill=(190, 150, 110))
    draw.polygon((x - r - 3, y - r, x, y - 2 * r, x + r + 3, y - r), fill=(150, 50, 40))
    draw.rectangle((x - 3, y - r // 3, x + 3, y + r // 2), fill=(80, 50, 40))


def _boat(draw: Draw, random: Random) -> None:
    x, y, r = _place(random, 82, 105)
    draw.polygon((x - r, y, x + r, y, x + r - 5, y + 7, x - r + 5, y + 7), fill=(120, 70, 40))
    draw.polygon((x, y - 2, x, y - 2 * r, x + r, y - 4), fill="white")


def _car(draw: Draw, random: Random) -> None:
    x, y, r = _place(random, 88, 108)
    draw.rectangle((x - r - 4, y - 6, x + r + 4, y + 3), fill=(200, 30, 40))
    draw.rectangle((x - r // 2, y - 13, x + r // 2, y - 6), fill=(160, 200, 220))
    for dx in (-r // 2 - 2, r // 2 + 2):
        draw.ellipse((x + dx - 4, y, x + dx + 4, y + 8), fill=(20, 20, 20))


def _ball(draw: Draw, random: Random) -> None:
    x, y, r = _place(random, 90, 108)
    draw.ellipse((x - r // 2, y - r // 2, x + r // 2, y + r // 2), fill=(240, 120, 20), outline="black")
    draw.line((x - r // 2, y, x + r // 2, y), fill="black")


def _fence(draw: Draw, random: Random) -> None:
    y = int(random.integers(80, 100))
    for x in range(0, WIDTH, 12):
        draw.rectangle((x, y - 10, x + 4, y + 8), fill=(235, 230, 220))
    draw.rectangle((0, y - 5, WIDTH, y - 2), fill=(235, 230, 220))


_UPPER = {"sky": _upper((120, 175, 235)), "night": _upper((18, 20, 48))}
_LOWER = {
    "grass": _lower((70, 150, 60), 30),
    "water": _lower((40, 95, 165), 25),
    "sand": _lower((222, 196, 140), 15),
    "snow": _lower((238, 242, 248), 8),
}
_OBJECTS = {
    "mountain": _mountain, "sun": _sun, "moon": _moon, "star": _star, "cloud": _cloud, "tree": _tree, "house": _house,
    "fence": _fence, "boat": _boat, "car": _car, "ball": _ball, "flower": _flower,
}  # fmt: skip
# Objects that need a background, and those that do not go on water.
_NEEDS = {"sun": "sky", "cloud": "sky", "moon": "night", "star": "night", "boat": "water"}
_NOT_ON_WATER = {"tree", "house", "fence", "car", "ball", "flower"}
LABELS = (*_UPPER, *_LOWER, *_OBJECTS)


def draw_image(random: Random) -> tuple[Image.Image, list[str]]:
    """Draw a landscape, 160 x 120; return it and its labels."""
    upper = str(random.choice(list(_UPPER)))
    lower = str(random.choice(list(_LOWER)))
    possible = [
        name
        for name in _OBJECTS
        if _NEEDS.get(name, upper) in (upper, lower) and not (lower == "water" and name in _NOT_ON_WATER)
    ]
    chosen = set(
        random.choice(possible, size=int(random.integers(1, min(4, len(possible)) + 1)), replace=False).tolist()
    )
    objects = [name for name in _OBJECTS if name in chosen]  # far ones first
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for painter in (_UPPER[upper], _LOWER[lower], *(_OBJECTS[name] for name in objects)):
        painter(draw, random)
    return image, [upper, lower, *objects]


def collect(settings: SampleSettings) -> Collected:
    """Draw the data set; the same seed draws the same images."""
    random = np.random.default_rng(settings.seed)
    files: dict[str, bytes] = {}
    parts: dict[str, LabelledImages] = {}
    for part, count in (("train", settings.train_images), ("val", settings.val_images)):
        first = len(files) + 1
        ids = range(first, first + count)
        targets = torch.zeros(count, len(LABELS), dtype=torch.int8)
        for row, number in enumerate(ids):
            image, labels = draw_image(random)
            encoded = io.BytesIO()
            image.save(encoded, "jpeg", quality=92)
            files[f"images/{number:05d}.jpg"] = encoded.getvalue()
            targets[row, [LABELS.index(label) for label in labels]] = 1
        names = tuple(f"{number:05d}.jpg" for number in ids)
        parts[part] = LabelledImages(tuple(ids), names, LabelMatrix.from_dense(targets))
    return Collected("sample", LABELS, parts, image_root="images", unseen=UNSEEN, own_vectors=_vectors, files=files)


def _vectors() -> tuple[LabelVectors, None]:
    """Return the vectors of the labels, which ship with the code."""
    return label_vectors(open_word_vectors(str(WORDS)), LABELS), None
