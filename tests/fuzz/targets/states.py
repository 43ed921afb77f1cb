"""States of training runs, which are resumed from and trained on with."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from src.errors import UserError
from src.training.engine import EpochSums, NonFiniteLossError, train_epoch
from src.training.progress import TrainState
from src.training.resume import read_state, restore_latest
from src.training.run_files import STATE
from src.training.state import save_state
from tests.fuzz.harness import Target
from tests.state_helpers import log_entry
from tests.test_train_state import IDENTITY, batch, make


def targets() -> tuple[Target, ...]:
    """Return the reader of training states."""
    errors = (UserError, NonFiniteLossError)
    content = _state()
    return (
        Target("training-state", STATE, (content,), _resume, _torch, errors),
        Target("training-state-bytes", STATE, (_torch(content),), _resume, errors=errors),
    )


def _state() -> dict[str, Any]:
    learner = make(precision=torch.float16)
    train_epoch(learner, [batch(1)], EpochSums())
    entries, best = [log_entry(1)], {"seen": (1.5, 1)}
    progress = TrainState(5, epoch=2, entries=entries, best=best, lr={"head": 0.1}, planned_epochs=4)
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder), learner, progress, IDENTITY)
        return torch.load(Path(folder, STATE), weights_only=True)


def _torch(tree: object) -> bytes:
    stream = io.BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


def _resume(path: Path) -> None:
    learner = make(precision=torch.float16)
    stored = read_state(path.parent)
    assert stored is not None
    _, state = restore_latest(stored, learner, IDENTITY, num_steps=1)
    train_epoch(learner, [batch(9)], state.sums)  # what was loaded can be used
    json.dumps(state.entries, allow_nan=False)
