"""Every field of a checkpoint of this project, missing or with an odd value: it loads right, or gets one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.calibration.thresholds import Calibration
from src.checkpoint import CheckpointInfo, load_checkpoint
from src.checkpoint.digest import save_with_digest
from src.checkpoint.info import info_of_dict
from src.checkpoint.inspect import describe, inspect_file
from src.checkpoint.own import save_with_calibration
from src.errors import UserError
from src.utils.inert_values import Foreign
from tests.helpers import save_tiny

DROPPED = object()
NESTED: list[Any] = []
for _ in range(900):
    NESTED = [NESTED]
CALIBRATION = Calibration(torch.zeros(6, dtype=torch.float64), 0.5, 0.9, 0.1, 1.0, 0.0, 10, 20)
ODD_VALUES = {
    "dropped": DROPPED, "None": None, "true": True, "zero": 0, "negative": -1, "huge": 10**18, "beyond": 10**400,
    "half": 0.5, "nan": float("nan"), "infinite": float("inf"), "no text": "", "text": "a", "long": "x" * 2_000_000,
    "path": "../../../etc/passwd", "bytes": b"\x00\xff", "list": [], "names": ["a", "b"], "dict": {},
    "odd keys": {5: 1, None: 2}, "nested": NESTED, "tensor": torch.zeros(3),
    "nan tensor": torch.full((4, 6), torch.nan), "integers": torch.ones(4, 6, dtype=torch.int64),
    "complex": torch.ones(4, 6, dtype=torch.complex64), "array": np.zeros(3), "set": {1, 2},
    "foreign": Foreign("some.Class"), "surrogate": "\ud800", "control": "\x1b[2J\n",
}  # fmt: skip


@pytest.fixture(scope="module", params=[False, True], ids=["full", "half"])
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("own") / "x.ckpt"
    save_tiny(
        path,
        half=request.param,
        extra_words=("sea", "sun"),
        extra_vectors=torch.randn(4, 2, generator=torch.Generator().manual_seed(1)),
        calibration=CALIBRATION,
        metrics={"zero_shot.mAP": 12.5},
        settings={"lr": 0.1, "metadata": "data", "data": None},
    )
    return torch.load(path, weights_only=True)


def places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key below every key, without those of the weights' own dict."""
    for key, value in content.items():
        yield (*above, key)
        if isinstance(value, dict) and key != "state_dict":
            yield from places(value, (*above, key))


def changed(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.copy(content)
    inner = made
    for key in place[:-1]:
        inner[key] = copy.copy(inner[key])
        inner = inner[key]
    if value is DROPPED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return made


@pytest.mark.parametrize("odd", ODD_VALUES)
def test_every_field_with_an_odd_value_is_read_right_or_named(odd, content):
    for place in places(content):
        info, message = read(changed(content, place, ODD_VALUES[odd]))
        if info is None:
            assert message.startswith("x.ckpt"), place
            assert len(message) < 1000, place
            assert "\n" not in message.replace("\n  ", ""), place
        else:  # what came through is whole, and can be written as JSON
            assert info.split.word_vectors.shape == (4, 6), place
            assert info.split.word_vectors.isfinite().all()
            assert info.space.dim == 4
            assert all(type(value) is float for value in info.metrics.values()), place
            json.dumps([info.metrics, info.settings, info.versions])
            assert isinstance(info.settings.get("metadata", ""), str), place


def read(content: dict[str, Any]) -> tuple[CheckpointInfo | None, str]:
    try:
        return info_of_dict(content, "x.ckpt"), ""
    except UserError as error:
        return None, str(error)


def test_odd_documentation_of_a_run_does_not_keep_its_model_from_loading(content, tmp_path):
    path = tmp_path / "x.ckpt"
    save_with_digest(path, {**content, "metrics": [1], "settings": {"data": 5}, "versions": None, "space": "gone"})
    _, info = load_checkpoint(path)
    assert (info.metrics, info.settings, info.versions, info.space.dim) == ({}, {}, {}, 4)
    assert "none" in describe(inspect_file(path))
    save_with_calibration(path, tmp_path / "y.ckpt", CALIBRATION)
    assert load_checkpoint(tmp_path / "y.ckpt")[1].calibration is not None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 10**6, "Expected `int` <= 4096"),
        ("image_size", 64, "does not fit the model: 1 wrong shapes: backbone.pos_embed"),
        ("num_rows", 3, "embedding.weight"),
        ("model_name", "../x", "matching regex"),
        ("model_name", "vit_giant_patch14_clip_224", "does not fit the model"),
    ],
)
def test_a_configuration_that_its_weights_deny_is_refused(field, value, message, tmp_path):
    save_tiny(tmp_path / "x.ckpt", name="test_vit")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    save_with_digest(tmp_path / "x.ckpt", changed(content, ("config", field), value))
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "x.ckpt")


def test_a_giant_backbone_is_compared_without_its_memory(content, tmp_path, monkeypatch):
    real, built = torch.nn.Linear.__init__, []

    def noted(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        built.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", noted)
    path = Path(tmp_path / "x.ckpt")
    save_with_digest(path, changed(content, ("config", "model_name"), "vit_giant_patch14_clip_224"))
    with pytest.raises(UserError, match=r"does not fit the model: \d+ missing keys"):
        load_checkpoint(path)
    assert set(built) == {"meta"}
