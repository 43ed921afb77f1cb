"""Describe checkpoint files, as facts for JSON and as text. Nothing in a file is executed and no model is run.

Files whose weights do not load are described as far as they can be read.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from src.checkpoint.digest import check_digest
from src.checkpoint.info import FORMAT, info_of_dict
from src.checkpoint.released import load_released
from src.errors import UserError, name_some
from src.models.converters import is_released_tresnet
from src.models.state_files import read_state_file, tensors_of

TRAINING_STATE = "sdl-training-state/2"  # the format of src.training.state
KINDS = {
    "sdl": "checkpoint of this project",
    "release": "release file of the released code",
    "bare": "state dict of the released code's train.py",
    "backbone": "backbone of the released code, without a head",
    "training state": "training state for --resume; it holds no checkpoint to tag with",
    "onnx": "ONNX file; use onnx.load or Netron to see what is inside",
}
_NOT_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")  # buffers, which no optimizer changes
_METRICS = ("F1@3", "F1@5", "F1@threshold", "mAP", "mAP_skip", "mAP_verified")


def inspect_file(path: str | Path) -> dict[str, Any]:
    """Collect the facts of a checkpoint file; all values can be written as JSON.

    Returns:
        ``file``, ``kind`` (a key of :data:`KINDS`), ``bytes``, ``sha256`` and ``side_file`` (true, false, or null
        without one), and whatever this kind of file holds: ``model``, ``weights``, ``labels``, ``words``,
        ``calibration``, ``metrics``, ``settings``, ``versions``, ``progress``; ``problem`` if weights of the released
        code fit no model.

    Raises:
        UserError: the file cannot be read, is damaged, or is of another kind.
    """
    path = Path(path)
    digest, agrees = check_digest(path)
    facts = {"file": str(path), "bytes": path.stat().st_size, "sha256": digest, "side_file": agrees}
    if path.suffix.lower() == ".onnx":
        return {"kind": "onnx", **facts}
    content = read_state_file(path)
    form = content.get("format")
    if form == FORMAT:
        found = _inspect_own(content, path)
    elif form == TRAINING_STATE:
        found = _inspect_training_state(content)
    elif form is not None and not isinstance(form, Tensor):
        raise UserError(f"{path} has the format {form!r}; this version reads {FORMAT!r} and {TRAINING_STATE!r}")
    else:
        found = _inspect_released(content, path)
    return _to_json({**found, **facts})


def _inspect_own(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    info = info_of_dict(content, str(path))
    split, space = info.split, info.space
    assert split is not None  # every file of this project has both
    assert space is not None
    neither = sorted({*range(len(split.labels))} - {*split.seen, *split.unseen})
    labels: dict[str, Any] = {"split": split.name, "number": len(split.labels)}
    for side, columns in (("seen", split.seen), ("unseen", split.unseen), ("neither", neither)):
        labels |= {side: len(columns), f"{side}_names": split.names(columns[:8])}
    calibration = None
    if info.calibration is not None:
        calibration = info.calibration.to_dict()
        calibration["own_thresholds"] = int((~calibration.pop("thresholds").isnan()).sum())
    try:
        return {
            "kind": "sdl",
            "model": asdict(info.config),
            "weights": _inspect_weights(tensors_of({"state_dict": content.get("state_dict")}, path)),
            "labels": labels,
            "words": {"dim": space.dim, "probes": list(space.probes), "further": len(info.extra_words)},
            "calibration": calibration,
            "metrics": {"images": info.settings.get("images"), **info.metrics},
            "settings": dict(info.settings),
            "versions": dict(info.versions),
        }
    except (TypeError, ValueError, AttributeError) as error:  # for example a list in place of a dict
        raise UserError(f"{path} is an incomplete checkpoint of this project: {error}") from error


def _inspect_training_state(content: Mapping[str, Any]) -> dict[str, Any]:
    progress, module = content.get("progress", {}), content.get("module", {})
    return {
        "kind": "training state",
        "weights": _inspect_weights({key: value for key, value in module.items() if isinstance(value, Tensor)}),
        "progress": {name: value for name, value in progress.items() if isinstance(value, (bool, int, float, str))},
        "settings": content.get("settings", {}),
    }


def _inspect_released(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    state = tensors_of(content, path)
    found: dict[str, Any] = {
        "kind": "release" if "idx_to_class" in content else "bare",
        "weights": _inspect_weights(state),
    }
    if is_released_tresnet(state) and "embedding.weight" not in state:
        return {**found, "kind": "backbone"}
    try:
        _, info = load_released(content, path, None, None)
    except UserError as error:
        if not is_released_tresnet(state):
            raise
        return {**found, "problem": str(error)}
    found["model"] = asdict(info.config)
    if info.labels:
        found["labels"] = {"number": len(info.labels), "names": info.labels[:8]}
    return found


def _inspect_weights(state: Mapping[str, Tensor]) -> dict[str, Any]:
    not_finite = {key: int((~tensor.isfinite()).sum()) for key, tensor in state.items() if tensor.is_floating_point()}
    return {
        "parameters": sum(tensor.numel() for key, tensor in state.items() if not key.endswith(_NOT_PARAMETERS)),
        "tensors": len(state),
        "dtypes": dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())),
        "not_finite": {key: count for key, count in not_finite.items() if count},
    }


def _to_json(value: Any) -> Any:
    """Convert values that JSON cannot express (NaN, infinity, tensors) to text, also within containers."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def describe(facts: Mapping[str, Any]) -> str:
    """Format the facts of :func:`inspect_file` as text, 120 columns wide."""
    lines = [facts["file"]]
    for title, text in _rows(facts):
        lines += textwrap.wrap(
            text,
            120,
            initial_indent=f"  {title:<13}",
            subsequent_indent=" " * 17,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (title, text); a row without a title continues the one above it."""
    yield "kind", KINDS[facts["kind"]]
    yield "size", f"{facts['bytes']:,} bytes"
    side = {True: "its side file agrees", False: "DIFFERS from its side file", None: "no side file"}
    yield "sha256", f"{facts['sha256']} ({side[facts['side_file']]})"
    if "problem" in facts:
        yield "problem", facts["problem"]
    if model := facts.get("model"):
        yield "model", f"{model['model_name']}, M = {model['num_rows']}, D = {model['wordvec_dim']}"
        yield "images", f"{model['image_size']} x {model['image_size']} pixels, {model['interpolation']}"
    if weights := facts.get("weights"):
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in weights["dtypes"].items())
        yield "weights", f"{weights['parameters']:,} parameters; {weights['tensors']} tensors: {dtypes}"
        if bad := weights["not_finite"]:
            names = name_some([f"{key} ({count:,})" for key, count in bad.items()])
            yield "", f"{sum(bad.values()):,} numbers are NaN OR INFINITE: {names}"
    if "progress" in facts:
        yield "progress", _pairs(facts["progress"])
    yield from _label_rows(facts)
    if "calibration" in facts:
        yield from _calibration_rows(facts["calibration"])
    if "metrics" in facts:
        yield from _metric_rows(facts["metrics"])
    if settings := facts.get("settings"):
        yield "settings", _pairs({name: value for name, value in settings.items() if name != "averaged"})
        for source in settings.get("averaged", []):  # of src.checkpoint.average
            yield "mean of", _pairs(source)
    if "versions" in facts:
        yield "versions", _pairs(facts["versions"])


def _label_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if labels := facts.get("labels"):
        if "split" in labels:
            yield "labels", f"{labels['number']:,} of the split {labels['split']}"
            for side in ("seen", "unseen", "neither"):
                yield "", f"{side}: {_number_and_names(labels[side], labels[f'{side}_names'])}"
        else:
            yield "labels", _number_and_names(labels["number"], labels["names"])
    if words := facts.get("words"):
        yield "words", f"vectors of length {words['dim']}, fingerprint from {name_some(words['probes'], 5)}"
        yield "", f"{words['further']:,} further words"


def _calibration_rows(calibration: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if calibration is None:
        yield "calibration", "none"
        return
    images, positives = calibration["num_images"], calibration["num_positives"]
    yield "calibration", f"fitted on {images:,} images with {positives:,} seen positives"
    yield (
        "",
        f"{calibration['own_thresholds']} labels with a threshold of their own, {calibration['shared_threshold']:.3f} "
        f"for the others; bias of seen labels {calibration['seen_bias']:.3f}",
    )


def _metric_rows(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    title = "metrics"
    for key, setting in (("zero_shot", "zero-shot"), ("generalized", "generalised")):
        values = [f"{name} {_number(metrics[f'{key}.{name}'])}" for name in _METRICS if f"{key}.{name}" in metrics]
        if values:
            counts = [
                f"{_number(metrics[f'{key}.num_{what}'])} {what}"
                for what in ("images", "labels")
                if f"{key}.num_{what}" in metrics
            ]
            yield title, f"{setting}: {', '.join(values)}" + (f" ({', '.join(counts)})" if counts else "")
            title = ""
    if title:
        yield title, "none"
    else:
        yield "", f"in percent; protocol: {metrics.get('images') or 'not recorded'}"


def _number_and_names(number: int, names: list[str]) -> str:
    names = [*names, *[""] * (number - len(names))]  # name_some counts the rest
    return f"{number:,}" + (f" ({name_some(names)})" if names else "")


def _pairs(values: Mapping[str, Any]) -> str:
    """Format the settings that are set, as ``name value, name value``."""
    pairs = [f"{key} {value}" for key, value in values.items() if value is not None and value is not False]
    return ", ".join(pairs) or "none"


def _number(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
