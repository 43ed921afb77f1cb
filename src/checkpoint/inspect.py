"""What is in a checkpoint, as plain facts; nothing in the file is executed and no model is run.

A file whose weights do not load is described all the same, as far as it can be read: that is when one looks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from src.calibration.thresholds import Calibration
from src.checkpoint.digest import check_digest, file_digest
from src.checkpoint.info import FORMAT, CheckpointInfo, info_of_dict
from src.checkpoint.released import load_released
from src.data.split import ZeroShotSplit
from src.errors import UserError
from src.models.converters import is_released_tresnet
from src.models.state_files import read_state_file, tensors_of

TRAINING_STATE = "sdl-training-state/1"  # what a training run writes to go on from
# Statistics and counters are in a state dict too, but no optimiser moves them.
_NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")


def inspect_file(path: str | Path) -> dict[str, Any]:
    """The facts of a file, as JSON has them.

    Returns:
        ``file``, ``kind`` (a key of :data:`src.checkpoint.describe.KINDS`), ``bytes``, ``sha256`` and ``side_file``
        (true, false, or null where there is none), and what this kind of file says: ``model``, ``weights``, ``labels``,
        ``words``, ``calibration``, ``metrics``, ``settings``, ``versions``, ``progress``; ``problem`` where weights of
        the released code do not fit a model.

    Raises:
        UserError: it cannot be read, is damaged, or is of another kind.
    """
    path = Path(path)
    digest = file_digest(path)
    facts: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": digest,
        "side_file": check_digest(path, digest),
    }
    if path.suffix.lower() == ".onnx":
        return {"kind": "onnx", **facts}
    content = read_state_file(path)
    found = content.get("format")
    if found == FORMAT:
        described = _describe_own(content, path)
    elif found == TRAINING_STATE:
        described = _describe_state(content)
    elif found is not None and not isinstance(found, Tensor):
        raise UserError(f"{path} has the format {found!r}; this version knows {FORMAT!r} and {TRAINING_STATE!r}")
    else:
        described = _describe_released(content, path)
    return _plain({**described, **facts})


def _describe_own(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    info = info_of_dict(content, str(path))
    assert info.split is not None  # a file of this project has one
    try:
        return {
            "kind": "sdl",
            "model": asdict(info.config),
            "weights": _weight_facts(tensors_of({"state_dict": content.get("state_dict")}, path)),
            "labels": _label_facts(info.split),
            "words": _word_facts(info),
            "calibration": None if info.calibration is None else _calibration_facts(info.calibration),
            "metrics": {"images": info.settings.get("images"), **info.metrics},
            "settings": dict(info.settings),
            "versions": dict(info.versions),
        }
    except (TypeError, ValueError, AttributeError) as error:  # a dict that is none
        raise UserError(f"{path} is an incomplete checkpoint of this project: {error}") from error


def _describe_state(content: Mapping[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": "training state"}
    module = content.get("module")
    if isinstance(module, Mapping):
        described["weights"] = _weight_facts({key: value for key, value in module.items() if isinstance(value, Tensor)})
    progress = content.get("progress")
    if isinstance(progress, Mapping):
        described["progress"] = {
            name: value for name, value in progress.items() if isinstance(value, (bool, int, float, str))
        }
    settings = content.get("settings")
    return {**described, "settings": settings if isinstance(settings, Mapping) else {}}


def _describe_released(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    state = tensors_of(content, path)
    kind = "release" if "idx_to_class" in content else "bare"
    described: dict[str, Any] = {"kind": kind, "weights": _weight_facts(state)}
    if is_released_tresnet(state) and "embedding.weight" not in state:
        return {**described, "kind": "backbone"}
    try:
        _, info = load_released(content, path, None, None)
    except UserError as error:
        if not is_released_tresnet(state):
            raise
        return {**described, "problem": str(error)}
    described["model"] = asdict(info.config)
    if info.labels:
        described["labels"] = {"number": len(info.labels), "names": info.labels[:8]}
    return described


def _weight_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    counts = {
        key: int((~tensor.isfinite()).sum()) for key, tensor in state.items() if tensor.is_floating_point()
    }  # of NaN and infinite numbers
    return {
        "parameters": sum(tensor.numel() for key, tensor in state.items() if not key.endswith(_NO_PARAMETERS)),
        "tensors": len(state),
        "dtypes": dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())),
        "not_finite": {key: count for key, count in counts.items() if count},
    }


def _label_facts(split: ZeroShotSplit) -> dict[str, Any]:
    sided = {*split.seen, *split.unseen}
    neither = [column for column in range(len(split.labels)) if column not in sided]
    facts: dict[str, Any] = {"split": split.name, "number": len(split.labels)}
    for side, columns in (("seen", split.seen), ("unseen", split.unseen), ("neither", neither)):
        facts[side] = len(columns)
        facts[f"{side}_names"] = split.names(columns[:8])
    return facts


def _word_facts(info: CheckpointInfo) -> dict[str, Any]:
    space = info.space
    assert space is not None  # a file with word vectors has one
    return {"dim": space.dim, "probes": list(space.probes), "further": len(info.extra_words)}


def _calibration_facts(calibration: Calibration) -> dict[str, Any]:
    facts = calibration.to_dict()
    thresholds = facts.pop("thresholds")
    return {**facts, "own_thresholds": int((~thresholds.isnan()).sum())}


def _plain(value: Any) -> Any:
    """What JSON has words for; the numbers that it has none for, and all other objects, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
