"""Pictures for people: tags beside a photo, and training curves. The only importer of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from src.files import atomic_write
from src.tagger import Tag

matplotlib.use("Agg")

from matplotlib.figure import Figure  # the backend is chosen first

_SAVED_AS_IS = {".png", ".jpg", ".jpeg"}
_MAX_PIXELS = 65_000  # a side: JPEG and matplotlib can do little more; reached by 1,600 tags
_SEEN, _UNSEEN = "#1a1a1a", "#c0392b"


def picture_path(folder: str | Path, source: str | Path) -> Path:
    """Where the tagged form of ``source`` is saved: its name, as PNG where its own format cannot be written."""
    name = Path(source)
    return Path(folder) / (name.name if name.suffix.lower() in _SAVED_AS_IS else f"{name.stem}.png")


def save_tagged_picture(picture: Image.Image, tags: Sequence[Tag], path: str | Path) -> None:
    """Save the photo with its tags beside it.

    The photo is scaled to fill a panel of fixed height and the text has a fixed size, so that the tags are legible
    beside a thumbnail and beside a 50-megapixel photo alike.

    Args:
        picture: RGB.
        tags: best first.
        path: ``.png`` or ``.jpg``.

    Raises:
        UserError: the file cannot be written.
    """
    rows = len(tags)
    height = max(4.0, 0.36 * rows + 0.9)  # inches
    width, tall = picture.size
    photo_width = float(np.clip(height * width / tall, 2.0, 9.0))
    longest = max(len(f"{tag.marked}  {tag.score:.2f}") for tag in tags)
    text_width = min(max(2.2, 0.115 * longest + 0.6), 8.0)
    dpi = min(110.0, _MAX_PIXELS / height)
    figure = Figure(figsize=(photo_width + text_width, height), dpi=dpi, facecolor="white")
    photo = figure.add_axes((0, 0, photo_width / (photo_width + text_width), 1))
    photo.imshow(picture, interpolation="lanczos" if max(picture.size) > 64 else "nearest")
    photo.set_axis_off()
    panel = figure.add_axes((photo_width / (photo_width + text_width), 0, text_width / (photo_width + text_width), 1))
    panel.set_axis_off()
    panel.set(xlim=(0, 1), ylim=(rows + 1.2, -0.2))
    for row, tag in enumerate(tags):
        colour = _UNSEEN if tag.unseen else _SEEN
        panel.text(0.06, row + 0.5, tag.marked, fontsize=13, va="center", color=colour, parse_math=False)
        panel.text(0.96, row + 0.5, f"{tag.score:.2f}", fontsize=10, va="center", ha="right", color="#777777")
    panel.text(0.06, rows + 0.7, "*tag*: unseen in training", fontsize=8, va="center", color="#777777")
    _save(figure, path)


def save_curves(epochs: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plot loss parts and metrics over epochs, from the lines of ``log.jsonl``."""
    numbers = [entry["epoch"] for entry in epochs]
    figure = Figure(figsize=(12, 3.6), dpi=110, facecolor="white", layout="constrained")
    losses, f1, mean_ap = figure.subplots(1, 3)
    for name in ("loss", "rank", "regularizer"):
        losses.plot(numbers, [entry["train"][name] for entry in epochs], marker="o", label=name)
    for axis, metric in ((f1, "F1@3"), (mean_ap, "mAP")):
        for setting in ("zero_shot", "generalized"):
            key = f"{setting}.{metric}"
            if all(key in entry["metrics"] for entry in epochs):
                axis.plot(
                    numbers, [entry["metrics"][key] for entry in epochs], marker="o", label=setting.replace("_", "-")
                )
    for axis, title in ((losses, "training loss"), (f1, "F1@3 (%)"), (mean_ap, "mAP (%)")):
        axis.set(title=title, xlabel="epoch", xticks=numbers if len(numbers) <= 12 else numbers[:: len(numbers) // 10])
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png" if path.suffix.lower() == ".png" else "jpeg")
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())
