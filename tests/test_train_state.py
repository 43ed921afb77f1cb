"""The training state: restoring it exactly, refusing others, and its backup."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.data.labels import LabelMatrix
from src.data.parts import TrainingSet
from src.errors import UserError
from src.loss_functions.SDL_loss import SDLLoss
from src.training.engine import EpochSums, Learner, TrainBatch, train_epoch
from src.training.optim import MovingAverage, make_schedule, parameter_groups
from src.training.progress import TrainState
from src.training.resume import StoredState, read_state, restore
from src.training.state import PREVIOUS, STATE, RunIdentity, data_facts, save_state
from tests.helpers import make_toy_split
from tests.state_helpers import log_entry

SETTINGS = {"lr": 0.02, "num_epochs": 4, "workers": 2, "precision": "float32", "schedule": "one_cycle"}
IDENTITY = RunIdentity(SETTINGS, {"training images": 9})


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(kind: str = "one_cycle", precision: torch.dtype | None = None) -> Learner:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    optimizer = torch.optim.Adam(parameter_groups(module, 0.02, 0.05))
    loss = SDLLoss(0.3, wordvec_array=nn.functional.normalize(draw(4, 5, seed=1), dim=0))
    schedule = make_schedule(kind, optimizer, 12, 0.25)
    average = MovingAverage(module, 0.9)
    return Learner(module, loss, optimizer, schedule, torch.device("cpu"), average=average, precision=precision)


def batch(seed: int) -> TrainBatch:
    return TrainBatch(draw(4, 6, seed=seed), (draw(4, 5, seed=seed + 50) > 0).int(), torch.arange(4))


def state_in(folder: Path) -> StoredState:
    stored = read_state(folder)
    assert stored is not None
    return stored


def tensors(learner: Learner) -> list[Tensor]:
    assert learner.average is not None
    return [*learner.module.state_dict().values(), *learner.average.module.state_dict().values()]


@pytest.mark.parametrize("precision", [None, torch.float16])
@pytest.mark.parametrize("kind", ["one_cycle", "cosine", "constant"])
def test_resume_equals_uninterrupted_run(tmp_path, kind, precision):
    whole, sums = make(kind, precision), EpochSums()
    train_epoch(whole, [batch(seed) for seed in range(7)], sums)
    first, first_sums = make(kind, precision), EpochSums()
    train_epoch(first, [batch(seed) for seed in range(3)], first_sums)
    save_state(tmp_path, first, TrainState(5, epoch=2, step=3, sums=first_sums, entries=[log_entry(1)]), IDENTITY)
    second = make(kind, precision)
    state = restore(state_in(tmp_path), second, IDENTITY)
    assert (state.epoch, state.step, state.seed) == (2, 3, 5)
    train_epoch(second, [batch(seed) for seed in range(3, 7)], state.sums)
    assert all(torch.equal(one, other) for one, other in zip(tensors(whole), tensors(second), strict=True))
    assert state.sums == sums
    assert second.scheduler.get_last_lr() == whole.scheduler.get_last_lr()


def test_state_is_restored(tmp_path):
    state = TrainState(
        2**40, epoch=3, step=7, sums=EpochSums(*map(float, range(8))), entries=[log_entry(1), log_entry(2)],
        best={"seen": (12.5, 2)}, bad=["a.jpg: cut short"], lr={"head": 0.1}, seconds=3.5, finished=True,
        planned_epochs=2,
    )  # fmt: skip
    save_state(tmp_path, make(), state, IDENTITY)
    assert restore(state_in(tmp_path), make(), IDENTITY) == state


@pytest.mark.parametrize("saved", [None, torch.float16])
def test_state_of_another_precision_is_refused(tmp_path, saved):
    """Only float16 has a loss scaler, on a CPU too."""
    save_state(tmp_path, make(precision=saved), TrainState(5), IDENTITY)
    other = make(precision=torch.float16 if saved is None else None)
    with pytest.raises(UserError, match=r"--resume: .* with(out)? a loss scaler; give the --precision of"):
        restore(state_in(tmp_path), other, IDENTITY)
    restore(state_in(tmp_path), make(precision=saved), IDENTITY)


def saved_twice(folder: Path) -> None:
    for epoch in (1, 2):
        save_state(folder, make(), at(epoch), IDENTITY)


def at(epoch: int) -> TrainState:
    return TrainState(0, epoch=epoch, entries=[log_entry(number) for number in range(1, epoch)])


def epoch_of(stored: StoredState | None) -> int | None:
    return None if stored is None else stored.progress.epoch


def test_previous_state_is_a_backup(tmp_path):
    assert read_state(tmp_path) is None
    saved_twice(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, STATE]
    assert epoch_of(read_state(tmp_path)) == 2
    (tmp_path / STATE).unlink()
    assert epoch_of(read_state(tmp_path)) == 1


@pytest.mark.parametrize("kept", [0, 1, 100, -1000])  # bytes; negative: that many are missing
def test_damaged_state_is_reported_and_the_previous_one_used(tmp_path, capsys, kept):
    saved_twice(tmp_path)
    state = tmp_path / STATE
    state.write_bytes(state.read_bytes()[:kept])
    assert epoch_of(read_state(tmp_path)) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"resuming from {tmp_path / PREVIOUS}: {state} ")
    (tmp_path / PREVIOUS).write_bytes(b"y")
    with pytest.raises(
        UserError, match=r"--resume: no state in .* can be read .*; to start a new run, move these .* give --overwrite"
    ):
        read_state(tmp_path)


def test_file_of_another_kind_is_refused(tmp_path):
    torch.save({"format": "sdl-checkpoint/1"}, tmp_path / STATE)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / STATE} is no training state of this version")):
        read_state(tmp_path)


def test_failed_write_keeps_the_latest_state(tmp_path, monkeypatch):
    saved_twice(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda *arguments: pytest.fail("the disk is full"))
        with pytest.raises(pytest.fail.Exception):
            save_state(tmp_path, make(), at(3), IDENTITY)
    assert epoch_of(read_state(tmp_path)) == 2
    save_state(tmp_path, make(), at(4), IDENTITY)
    assert epoch_of(read_state(tmp_path)) == 4


def test_other_flags_and_data_are_refused_but_free_flags_are_not(tmp_path):
    saved_twice(tmp_path)
    stored = state_in(tmp_path)
    restore(stored, make(), replace(IDENTITY, settings={**SETTINGS, "workers": 0}))
    with pytest.raises(UserError, match=r"--resume: .*: --lr 0.5 \(was 0.02\), --num_epochs 9 \(was 4\); give"):
        restore(stored, make(), replace(IDENTITY, settings={**SETTINGS, "lr": 0.5, "num_epochs": 9}))
    with pytest.raises(UserError, match=r"--resume: the data are not those of the run: training images 8 \(was 9\)"):
        restore(stored, make(), replace(IDENTITY, data={"training images": 8}))


def test_flag_that_the_earlier_version_did_not_have_counts_as_its_default(tmp_path):
    saved_twice(tmp_path)
    newer = replace(IDENTITY, settings={**SETTINGS, "new_flag": 7}, defaults={"new_flag": 7, "lr": 1})
    restore(state_in(tmp_path), make(), newer)
    with pytest.raises(UserError, match=r"--new_flag 8 \(was 7\)"):
        restore(state_in(tmp_path), make(), replace(newer, settings={**SETTINGS, "new_flag": 8}))


# Another number of epochs


def with_epochs(schedule: str, epochs: int) -> RunIdentity:
    return replace(IDENTITY, settings={**SETTINGS, "schedule": schedule, "num_epochs": epochs})


def test_constant_schedule_goes_on_for_more_epochs_or_for_as_many_as_have_begun(tmp_path):
    save_state(tmp_path, make("constant"), replace(at(3), step=1), with_epochs("constant", 4))
    for epochs in (3, 9):
        restore(state_in(tmp_path), make("constant"), with_epochs("constant", epochs))
    with pytest.raises(UserError, match=r"--resume: --num_epochs 2 \(was 4\): epoch 3 of the run has begun"):
        restore(state_in(tmp_path), make("constant"), with_epochs("constant", 2))


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_other_schedules_explain_why_they_cannot(schedule, tmp_path):
    save_state(tmp_path, make(schedule), at(3), with_epochs(schedule, 4))
    with pytest.raises(UserError, match=r"--num_epochs 9 \(was 4\); .*learning rates of all epochs .*--model-path"):
        restore(state_in(tmp_path), make(schedule), with_epochs(schedule, 9))


def test_data_facts_change_with_images_labels_and_vectors():
    def facts(names: str = "abc", positive: int = 0, num_unseen: int = 2, seed: int = 0) -> dict[str, Any]:
        targets = LabelMatrix.from_positives(torch.tensor([0]), torch.tensor([positive]), num_rows=3, num_labels=4)
        split = make_toy_split(num_unseen=num_unseen, seed=seed)
        return data_facts(TrainingSet([Path(f"{name}.jpg") for name in names], targets, split), split)

    assert facts() == facts()
    others = [facts("abd"), facts("acb"), facts(positive=1), facts(num_unseen=1), facts(seed=1)]
    assert all(other != facts() for other in others)
