"""Figures as image files: tags beside a photo, explanations, calibration and training curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from src.calibration.platt import Reliability
from src.tags import Explanation, Tag
from src.utils.files import atomic_write
from src.utils.fonts import drawable, drawn_width
from src.utils.plotting import Figure, own_settings

SOFTWARE = "sdl-zero-shot-tagging"  # in the metadata of PNG files
_MAX_PIXELS = 65_000  # of a side, near the limits of JPEG and matplotlib; reached by 1,600 tags
_MAX_LETTERS = 56  # of a tag; as many fit beside its score in the widest panel
_TITLE_LETTERS = 34  # as many fit above a panel of an explanation
_SEEN, _UNSEEN = "#1a1a1a", "#c0392b"


def save_tagged_image(
    image: Image.Image, tags: Sequence[Tag], path: str | Path, show: Literal["raw", "probability"] = "raw"
) -> None:
    """Save the RGB photo with its tags beside it, best first, and their scores or probabilities.

    The photo is scaled to fill a panel of fixed height and the text has a fixed size, so that the tags are legible
    beside a thumbnail and beside a 50-megapixel photo alike.

    Raises:
        UserError: the file (``.png`` or ``.jpg``) cannot be written.
    """
    _save(_tagged_figure(image, tags, show), path)


def tagged_image(image: Image.Image, tags: Sequence[Tag]) -> Image.Image:
    """Draw the image that :func:`save_tagged_image` saves; RGB."""
    with Image.open(_encoded(_tagged_figure(image, tags, "raw"), "png")) as drawn:
        return drawn.convert("RGB")


@own_settings()
def _tagged_figure(image: Image.Image, tags: Sequence[Tag], show: Literal["raw", "probability"]) -> Figure:
    rows = max(len(tags), 1)
    height = max(4.0, 0.36 * rows + 0.9)  # inches
    width, tall = image.size
    photo_width = float(np.clip(height * width / tall, 2.0, 9.0))
    lines = [(*_drawn(tag.marked, _MAX_LETTERS), tag.shown(show, 2), tag.unseen) for tag in tags]
    lines = lines or [(*_drawn("no tag", _MAX_LETTERS), "", False)]
    longest = max(drawn_width(f"{name}  {score}") for name, _, score, _ in lines)
    text_width = min(max(2.2, 0.115 * longest + 0.6), 8.0)
    dpi = min(110.0, _MAX_PIXELS / height)
    figure = Figure(figsize=(photo_width + text_width, height), dpi=dpi, facecolor="white")
    photo = figure.add_axes((0, 0, photo_width / (photo_width + text_width), 1))
    photo.imshow(image, interpolation="lanczos" if max(image.size) > 64 else "nearest")
    photo.set_axis_off()
    panel = figure.add_axes((photo_width / (photo_width + text_width), 0, text_width / (photo_width + text_width), 1))
    panel.set_axis_off()
    panel.set(xlim=(0, 1), ylim=(rows + 1.2, -0.2))
    for row, (name, fonts, score, unseen) in enumerate(lines):
        colour = _UNSEEN if unseen else _SEEN
        panel.text(0.06, row + 0.5, name, fontsize=13, va="center", color=colour, parse_math=False, fontfamily=fonts)
        panel.text(0.96, row + 0.5, score, fontsize=10, va="center", ha="right", color="#777777")
    panel.text(0.06, rows + 0.7, "*tag*: unseen in training", fontsize=8, va="center", color="#777777")
    return figure


def _drawn(name: str, width: int) -> tuple[str, list[str]]:
    """Return a name as it can be drawn in this width, in average letters, and its fonts."""
    text, fonts = drawable(name[: 2 * width])
    if drawn_width(text) > width or len(name) > 2 * width:
        while drawn_width(text) >= width:
            text = text[:-1]
        text += "…"
    return text, fonts


@own_settings()
def save_explanation(image: Image.Image, tags: Sequence[Tag], explanation: Explanation, path: str | Path) -> None:
    """Save the photo beside a heat map for each tag, named with its score and the principal vector that gave it.

    All maps have one colour scale: positive contributions to a score are warm, negative ones cold, and zero is pale.
    The mean of a map is the score. The last panel counts the tags by the principal vector that gave them.

    Args:
        image: RGB, before it was resized to the model's square.
        tags: those that are explained.
        explanation: of the same tags.
        path: ``.png`` or ``.jpg``.

    Raises:
        UserError: the file cannot be written.
    """
    columns = min(len(tags) + 2, 4)
    rows = -(-(len(tags) + 2) // columns)
    width, tall = image.size
    panel = 3.0 * float(np.clip(tall / width, 0.5, 1.6))  # inches
    figure = Figure(figsize=(3.0 * columns, rows * (panel + 0.7)), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    maps = explanation.maps.float().cpu().numpy()
    limit = float(np.abs(maps).max()) or 1.0
    axes[0].imshow(image)
    axes[0].set_title("image", fontsize=11)
    for axis, tag, winner, places in zip(axes[1:], tags, explanation.winners.tolist(), maps, strict=False):
        heat = np.asarray(Image.fromarray(places).resize(image.size, Image.Resampling.BICUBIC))
        axis.imshow(image.convert("L"), cmap="gray", alpha=0.55)
        axis.imshow(heat, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.6)
        name, fonts = _drawn(tag.marked, _TITLE_LETTERS)
        title = f"{name}  {tag.score:.2f}\nprincipal vector {winner + 1}"
        colour = _UNSEEN if tag.unseen else _SEEN
        axis.set_title(title, fontsize=11, color=colour, parse_math=False, fontfamily=fonts)
    for axis in axes[: len(tags) + 1]:
        axis.set_axis_off()
    counts = axes[len(tags) + 1]
    shares = explanation.shares.tolist()
    counts.bar(range(1, len(shares) + 1), shares, color="#5b7fa6")
    counts.set(xticks=range(1, len(shares) + 1), yticks=range(max(shares) + 1))
    counts.set_title("tags by principal vector", fontsize=11)
    for axis in axes[len(tags) + 2 :]:
        axis.set_axis_off()
    _save(figure, path)


@own_settings()
def save_reliability(curve: Reliability, path: str | Path) -> None:
    """Plot a reliability diagram, the share of right labels for each probability, above a histogram.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(4.6, 5.4), dpi=110, facecolor="white", layout="constrained")
    shares, counts = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    shares.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    shares.plot(curve.predicted.tolist(), curve.observed.tolist(), marker="o", color="#2d6cdf")
    shares.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    shares.set_title(f"expected calibration error {100 * curve.error:.2f} points", fontsize=11)
    counts.bar(curve.predicted.tolist(), curve.counts.tolist(), width=0.06, color="#5b7fa6")
    counts.set(yscale="log", ylabel="labels", xlabel="probability")
    _save(figure, path)


@own_settings()
def save_curves(epochs: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plot the parts of the loss and the metrics over epochs, the lines of ``log.jsonl``.

    Raises:
        UserError: the file (``.png`` or ``.jpg``) cannot be written.
    """
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


def is_own_plot(path: Path) -> bool:
    """Return whether a file is a PNG that this module saved; other files may raise any of Pillow's errors."""
    with Image.open(path, formats=["PNG"]) as image:
        return image.info.get("Software") == SOFTWARE


def _save(figure: Figure, path: str | Path) -> None:
    buffer = _encoded(figure, "png" if Path(path).suffix.lower() == ".png" else "jpeg")
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())


@own_settings()
def _encoded(figure: Figure, form: Literal["png", "jpeg"]) -> io.BytesIO:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata={"Software": SOFTWARE} if form == "png" else None)
    return buffer
