"""The facts of :mod:`src.checkpoint.inspect` as lines for people."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from src.errors import name_some

KINDS = {
    "sdl": "checkpoint of this project",
    "release": "release file of the released code",
    "bare": "state dict of the released code's train.py",
    "backbone": "backbone of the released code, without a head",
    "training state": "state of a training run, to go on from; no checkpoint to tag with",
    "onnx": "ONNX file, which is not looked into here; onnx.load and Netron show what is inside",
}
_MEASURES = ("F1@3", "F1@5", "F1@threshold", "mAP", "mAP_skip", "mAP_verified")
_SETTINGS = (("zero_shot", "zero-shot"), ("generalized", "generalised"))


def describe(facts: Mapping[str, Any]) -> str:
    """The facts of :func:`src.checkpoint.inspect.inspect_file` as lines for people."""
    side = {True: "its side file agrees", False: "DIFFERS from its side file", None: "no side file"}
    lines = [
        facts["file"],
        _line("kind", KINDS[facts["kind"]]),
        _line("size", f"{facts['bytes']:,} bytes"),
        _line("sha256", f"{facts['sha256']} ({side[facts['side_file']]})"),
    ]
    writers: dict[str, Callable[[Any], list[str]]] = {
        "problem": lambda problem: [_line("problem", problem)],
        "model": _model_lines,
        "weights": _weight_lines,
        "progress": lambda progress: [_line("progress", _pairs(progress))],
        "labels": _label_lines,
        "words": _word_lines,
        "calibration": _calibration_lines,
        "metrics": _metric_lines,
        "settings": _setting_lines,
        "versions": lambda versions: [_line("versions", _pairs(versions))],
    }
    for name, write in writers.items():
        if name in facts:
            lines += write(facts[name])
    return "\n".join(lines)


def _line(title: str, text: str) -> str:
    """A title of a fixed width and its text, wrapped behind it."""
    return textwrap.fill(
        text,
        120,
        initial_indent=f"  {title:<13}",
        subsequent_indent=" " * 17,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _pairs(values: Mapping[str, Any]) -> str:
    """``name value`` of what is set."""
    told = [f"{name} {value}" for name, value in values.items() if value is not None and value is not False]
    return ", ".join(told) or "none"


def _model_lines(model: Mapping[str, Any]) -> list[str]:
    size = model["image_size"]
    return [
        _line("model", f"{model['model_name']}, M = {model['num_rows']}, D = {model['wordvec_dim']}"),
        _line("images", f"{size} x {size} pixels, {model['interpolation']}"),
    ]


def _weight_lines(weights: Mapping[str, Any]) -> list[str]:
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in weights["dtypes"].items())
    lines = [_line("weights", f"{weights['parameters']:,} parameters; {weights['tensors']} tensors: {dtypes}")]
    if weights["not_finite"]:
        bad = [f"{key} ({count:,})" for key, count in weights["not_finite"].items()]
        total = sum(weights["not_finite"].values())
        lines.append(_line("", f"{total:,} numbers are NaN OR INFINITE: {name_some(bad)}"))
    return lines


def _label_lines(labels: Mapping[str, Any]) -> list[str]:
    if "seen" not in labels:
        return [_line("labels", _counted(labels["number"], labels["names"]))]
    lines = [_line("labels", f"{labels['number']:,} of the split {labels['split']}")]
    for side in ("seen", "unseen", "neither"):
        lines.append(_line("", f"{side}: {_counted(labels[side], labels[f'{side}_names'])}"))
    return lines


def _counted(number: int, names: list[str]) -> str:
    names = [*names, *[""] * (number - len(names))]  # name_some counts the rest
    return f"{number:,}" + (f" ({name_some(names)})" if names else "")


def _word_lines(words: Mapping[str, Any]) -> list[str]:
    return [
        _line("words", f"vectors of length {words['dim']}; the space is known by {name_some(words['probes'], 5)}"),
        _line("", f"{words['further']:,} further words"),
    ]


def _calibration_lines(calibration: Mapping[str, Any] | None) -> list[str]:
    if calibration is None:
        return [_line("calibration", "no")]
    return [
        _line(
            "calibration",
            f"yes, from {calibration['num_images']:,} images with {calibration['num_positives']:,} seen positives",
        ),
        _line(
            "",
            f"{calibration['own_thresholds']} labels have thresholds of their own, the others "
            f"{calibration['shared_threshold']:.3f}; seen labels lose {calibration['seen_bias']:.3f}",
        ),
    ]


def _metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for key, title in _SETTINGS:
        values = {name: metrics[f"{key}.{name}"] for name in _MEASURES if f"{key}.{name}" in metrics}
        if values:
            told = ", ".join(f"{name} {_number(value)}" for name, value in values.items())
            counts = ", ".join(
                f"{_number(metrics[f'{key}.{name}'])} {what}"
                for name, what in (("num_images", "images"), ("num_labels", "labels"))
                if f"{key}.{name}" in metrics
            )
            lines.append(_line("" if lines else "metrics", f"{title}: {told}" + (f" ({counts})" if counts else "")))
    if lines:
        lines.append(_line("", f"percent; protocol: {metrics.get('images') or 'not said'}"))
    return lines or [_line("metrics", "none: not measured")]


def _setting_lines(settings: Mapping[str, Any]) -> list[str]:
    """The flags; what a mean is of (``averaged``, see :mod:`src.checkpoint.average`) a file a line."""
    flags = {name: value for name, value in settings.items() if name != "averaged"}
    lines = [_line("settings", _pairs(flags))]
    if isinstance(sources := settings.get("averaged"), list):
        lines += [_line("" if number else "mean of", _source(source)) for number, source in enumerate(sources)]
    return lines


def _source(source: Any) -> str:
    return _pairs(source) if isinstance(source, Mapping) else str(source)


def _number(value: Any) -> str:
    """Counts as they are, percentages with two digits, and whatever else a file may hold."""
    return f"{value:,.2f}" if isinstance(value, float) else f"{value}"
