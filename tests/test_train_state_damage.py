"""Training states that another program has saved again: every value missing, or of another kind."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from src.errors import UserError
from src.training.engine import EpochSums, train_epoch
from src.training.progress import TrainState
from src.training.resume import read_state, restore_latest
from src.training.state import PREVIOUS, STATE, save_state
from tests.state_helpers import changed, log_entry, places
from tests.test_train_state import IDENTITY, batch, make, tensors

ODD = (
    None, True, -1, 10**30, 0.5, math.nan, math.inf, "text", b"bytes", [], {}, [[[]]], {"a": 1}, torch.ones(2),
    torch.full((8, 6), math.nan), torch.ones(8, 6, dtype=torch.float64), torch.ones(8, 6).to_sparse(),
)  # fmt: skip


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Any]:
    """Save two states after real steps; returns the content of the latest."""
    for steps in (1, 2):
        learner = make(precision=torch.float16)
        train_epoch(learner, [batch(seed) for seed in range(steps)], EpochSums())
        state = TrainState(
            5, epoch=2, step=steps - 1, entries=[log_entry(1)], best={"seen": (1.5, 1)}, lr={"head": 0.1},
            planned_epochs=4,
        )  # fmt: skip
        save_state(tmp_path, learner, state, IDENTITY)
    return torch.load(tmp_path / STATE, weights_only=True)


def resumed(folder: Path) -> str | None:
    """Resume a run and make a step; returns the name of the state that was taken, or None for a user error."""
    learner = make(precision=torch.float16)
    before = [tensor.clone() for tensor in tensors(learner)]
    try:
        stored = read_state(folder)
        assert stored is not None
        stored, state = restore_latest(stored, learner, IDENTITY, num_steps=1)
    except UserError:
        assert all(map(torch.equal, before, tensors(learner)))  # nothing was loaded by half
        return None
    train_epoch(learner, [batch(9)], state.sums)  # what was loaded can be used
    json.dumps(state.entries, allow_nan=False)
    return stored.path.name


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_state_with_a_missing_or_odd_value_is_passed_over(whole, tmp_path):
    outcomes: Counter[str | None] = Counter()
    for number, place in enumerate(places(whole)):
        new = () if number % 2 else (ODD[number // 2 % len(ODD)],)
        torch.save(changed(whole, place, *new), tmp_path / STATE)
        outcomes[resumed(tmp_path)] += 1
    assert outcomes[STATE] > 5  # what is not used may be missing, such as switches of PyTorch's own
    assert outcomes[PREVIOUS] > 50
    assert outcomes[None] > 2  # other flags or data


@pytest.mark.parametrize("part", ["progress", "module", "average", "optimizer", "scheduler", "scaler", "settings"])
def test_state_without_a_part_falls_back_and_says_so(part, whole, tmp_path, capsys):
    torch.save(changed(whole, (part,)), tmp_path / STATE)
    assert resumed(tmp_path) == PREVIOUS
    assert f"resuming from {tmp_path / PREVIOUS}: {tmp_path / STATE} is no whole" in capsys.readouterr().err
    (tmp_path / PREVIOUS).unlink()
    with pytest.raises(UserError, match=rf"--resume: no state in .*\(.*no {part}\); to start a new run, "):
        read_state(tmp_path)


def test_state_of_another_model_is_refused_where_no_other_is_left(whole, tmp_path):
    for name in (STATE, PREVIOUS):
        torch.save(changed(whole, ("module", "0.weight"), torch.ones(9, 6)), tmp_path / name)
    stored = read_state(tmp_path)
    assert stored is not None
    with pytest.raises(UserError, match=r"--resume: no state in .*: weights 0.weight of shape \(9, 6\).*--overwrite"):
        restore_latest(stored, make(precision=torch.float16), IDENTITY, num_steps=1)


def test_containers_that_hold_themselves_are_refused(whole, tmp_path):
    circle: list[Any] = []
    circle.append(circle)
    (tmp_path / PREVIOUS).unlink()
    torch.save(changed(whole, ("progress", "bad"), circle), tmp_path / STATE)
    assert resumed(tmp_path) is None
