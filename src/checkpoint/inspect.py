"""Describe checkpoint files, as facts for JSON and as text. Nothing in a file is executed and no model is run.

Files whose weights do not load are described as far as they can be read.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from src.checkpoint.info import FORMAT, info_of_dict
from src.checkpoint.released import load_released, released_weights
from src.errors import UserError, name_some
from src.metrics.table import summary
from src.models.converters import is_released_tresnet
from src.models.layouts import tensors_of
from src.models.state_files import read_state_file
from src.utils.digest import check_digest

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


def inspect_file(path: str | Path) -> dict[str, Any]:
    """Collect the facts of a checkpoint file, for JSON.

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
    content = read_state_file(path, verify=False)  # a difference is one of the facts
    form = content.get("format")
    if form == FORMAT:
        found = _inspect_own(content, path)
    elif form == TRAINING_STATE:
        found = _inspect_training_state(content)
    elif form is not None and not isinstance(form, Tensor):
        raise UserError(f"{path} has the format {form!r}; this version reads {FORMAT!r} and {TRAINING_STATE!r}")
    else:
        found = _inspect_released(content, path)
    return {**found, **facts}


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
    return {
        "kind": "sdl",
        "model": asdict(info.config),
        "weights": _inspect_weights(tensors_of({"state_dict": content.get("state_dict")}, path)),
        "labels": labels,
        "words": {"dim": space.dim, "probes": list(space.probes), "further": len(info.extra_words)},
        "calibration": calibration,
        "metrics": {"images": info.settings.get("images"), **info.metrics},
        "settings": info.settings,
        "versions": info.versions,
    }


def _inspect_training_state(content: Mapping[str, Any]) -> dict[str, Any]:
    progress, module = content.get("progress", {}), content.get("module", {})
    return {
        "kind": "training state",
        "weights": _inspect_weights({key: value for key, value in module.items() if isinstance(value, Tensor)}),
        "progress": {name: value for name, value in progress.items() if isinstance(value, (bool, int, float, str))},
        "settings": content.get("settings", {}),
    }


def _inspect_released(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    state = released_weights(content, path).state
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
        found["labels"] = {"number": len(info.labels), "names": list(info.labels[:8])}
    return found


def _inspect_weights(state: Mapping[str, Tensor]) -> dict[str, Any]:
    not_finite = {key: int((~tensor.isfinite()).sum()) for key, tensor in state.items() if tensor.is_floating_point()}
    return {
        "parameters": sum(tensor.numel() for key, tensor in state.items() if not key.endswith(_NOT_PARAMETERS)),
        "tensors": len(state),
        "dtypes": dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())),
        "not_finite": {key: count for key, count in not_finite.items() if count},
    }


def describe(facts: Mapping[str, Any]) -> str:
    """Format the facts of :func:`inspect_file` as text, 120 columns wide."""
    side = {True: "its side file agrees", False: "DIFFERS from its side file", None: "no side file"}
    rows = {
        "kind": KINDS[facts["kind"]],
        "size": f"{facts['bytes']:,} bytes",
        "sha256": f"{facts['sha256']} ({side[facts['side_file']]})",
    }
    rows |= {name: _text(value) for name, value in facts.items() if name not in ("file", "bytes", "side_file", *rows)}
    if "metrics" in facts:
        measured, protocol = summary(facts["metrics"]), facts["metrics"]["images"]
        rows["metrics"] = f"{measured} (percent, {protocol or 'protocol not recorded'})" if measured else "none"
    if bad := facts.get("weights", {}).get("not_finite"):
        rows["weights"] += f"; {sum(bad.values()):,} numbers are NaN OR INFINITE"
    lines = [facts["file"]]
    for title, text in rows.items():
        start = f"  {title:<13}"
        lines += textwrap.wrap(text, 120, initial_indent=start, subsequent_indent=" " * 17, break_on_hyphens=False)
    return "\n".join(lines)


def _text(value: Any, nested: bool = False) -> str:
    """Format a mapping as ``name value, name value`` of the entries that are set, and a list as its first entries."""
    if isinstance(value, Mapping):
        kept = [f"{name} {_text(one, nested=True)}" for name, one in value.items() if one or type(one) in (int, float)]
        text = ", ".join(kept) or "none"
    elif isinstance(value, (list, tuple)):
        text = name_some([_text(one, nested=True) for one in value])
    elif isinstance(value, float):
        return f"{value:g}"
    else:
        return "none" if value is None else f"{value:,}" if type(value) is int else str(value)
    return f"({text})" if nested else text
