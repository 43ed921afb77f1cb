"""Helpers of the tests of saved training states: log entries, and nested containers with one value changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def log_entry(epoch: int) -> dict[str, Any]:
    """Return a line of log.jsonl with all that curves and reports read."""
    train = dict.fromkeys(("loss", "rank", "diversity", "regularizer", "gradient_norm"), 1.5)
    counts = dict.fromkeys(("num_images", "num_labels", "num_labels_with_positive", "num_positives"), 3)
    metrics = {**counts, "labels_per_image": 1.0, "mAP_skip": 0.1, "mAP": 0.1}
    return {
        "epoch": epoch,
        "train": {**train, "num_images": 9, "skipped_steps": 0, "bad": 1},
        "lr": {"head": 0.1},
        "metrics": {f"zero_shot.{name}": value for name, value in metrics.items()},
        "bad_evaluation_images": 0,
        "seconds": 2.5,
    }


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value in nested containers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def changed(value: Any, place: tuple[Any, ...], *new: Any) -> Any:
    """Copy nested containers with one value replaced, or removed if no new one is given."""
    copy, key = value.copy(), place[0]
    if len(place) > 1:
        copy[key] = changed(copy[key], place[1:], *new)
    elif new:
        copy[key] = new[0]
    else:
        del copy[key]
    return copy
