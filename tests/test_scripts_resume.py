"""train.py --resume: a resumed run equals an uninterrupted one, to the last bit."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from src.models import create_model
from src.training.epoch_evaluation import EpochEvaluator
from tests.script_helpers import (
    FULL,
    StopAt,
    attempt,
    copy_of,
    edit_json,
    file_names,
    log_of,
    logged_by,
    remove_image,
    same_run,
    snapshot,
    stored,
    train_here,
    user_error,
)

STEPS = 5  # an epoch of the 24 training images, five a batch
EPOCHS = 3
SHORT = ("-b", 5, "--num-epochs", EPOCHS, "--lr", 1e-3)
RUN = (*FULL, *SHORT)
EVERYTHING = (
    "--ema", 0.8, "--accumulate", 2, "--clip-grad-norm", 0.5, "--schedule", "cosine", "--optimizer", "adamw",
    "--save-epochs", 1,
)  # fmt: skip


def stop_and_go(data: Path, folder: Path, stops: list[int], *flags: object, seed: int | None = 3):
    """Stop a run after each of these steps, counted over all epochs, and resume it each time."""
    for step in stops:
        with logged_by(StopAt(step)):
            finished = attempt(data, folder, "--resume", *flags, seed=seed)
        assert finished.returncode == 130, finished.stderr
        assert "resume with the same command and --resume" in finished.stderr
        assert stored(folder / "state.pt")["scheduler"]["last_epoch"] == step  # saved, and nothing done after it
    train_here(data, folder, "--resume", *flags, seed=seed)


@pytest.fixture
def dropout(monkeypatch):
    """Make new models drop three tenths of their features during training."""
    dropped = []

    def drop(module, inputs):
        if module.training:
            dropped.append(module)
        return nnf.dropout(inputs[0], 0.3, training=module.training)

    def with_dropout(*arguments, **options):
        model = create_model(*arguments, **options)
        model.embedding.register_forward_pre_hook(drop)
        return model

    monkeypatch.setattr("src.training.initial_model.create_model", with_dropout)
    yield
    assert dropped


@pytest.fixture(scope="module")
def uninterrupted(sample, tmp_path_factory):
    """Images with full augmentation, read by two processes."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    train_here(sample, folder, *RUN, "-j", 2)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_equals_uninterrupted_run(uninterrupted, sample, tmp_path, workers):
    some = random.Random(workers).sample([step for step in range(1, EPOCHS * STEPS) if step != STEPS], 2)
    stop_and_go(sample, tmp_path / "out", sorted([STEPS, *some]), *RUN, "-j", workers)
    same_run(tmp_path / "out", uninterrupted)


def test_resume_with_frozen_features_and_without_a_seed(sample, tmp_path):
    """Create the random backbone again from the seed that was drawn."""
    flags = ("--freeze-backbone", "--feature-cache", tmp_path / "cache", "-b", 5, "--num-epochs", EPOCHS)
    stop_and_go(sample, tmp_path / "out", [1, 7, 10], *flags, seed=None)
    drawn = stored(tmp_path / "out" / "state.pt")["progress"]["seed"]
    assert stored(tmp_path / "out" / "model-last.ckpt")["settings"]["seed"] is None
    train_here(sample, tmp_path / "uninterrupted", *flags, seed=drawn)
    same_run(tmp_path / "out", tmp_path / "uninterrupted")


@pytest.mark.parametrize("frozen", [False, True])
def test_resume_with_dropout_average_accumulation_clipping_and_cosine(dropout, sample, tmp_path, frozen):
    cached = (*SHORT, "--freeze-backbone", "--feature-cache", tmp_path / "cache")
    flags = (*EVERYTHING, *(cached if frozen else (*RUN, "--lr-backbone-scale", 0.1)))
    train_here(sample, tmp_path / "uninterrupted", *flags)
    stop_and_go(sample, tmp_path / "out", [2, 3, 8], *flags)  # three steps an epoch
    same_run(tmp_path / "out", tmp_path / "uninterrupted")
    assert (tmp_path / "out" / "model-epoch-0002-ema.ckpt").exists()


def test_resume_after_a_stop_during_evaluation(uninterrupted, sample, tmp_path, monkeypatch):
    """Keep the training of the second epoch, and repeat its evaluation."""
    evaluate, calls = EpochEvaluator.__call__, []

    def interrupted(self, module):
        calls.append(1)
        if len(calls) == 2:
            StopAt(0).step(0, {})
        return evaluate(self, module)

    monkeypatch.setattr(EpochEvaluator, "__call__", interrupted)
    finished = attempt(sample, tmp_path / "out", *RUN)
    assert finished.returncode == 130
    progress = stored(tmp_path / "out" / "state.pt")["progress"]
    assert (progress["epoch"], progress["step"], len(progress["entries"])) == (2, STEPS, 1)
    assert len(log_of(tmp_path / "out")) == 1
    train_here(sample, tmp_path / "out", *RUN, "--resume")
    same_run(tmp_path / "out", uninterrupted)


def test_constant_schedule_with_more_epochs_equals_uninterrupted_run(sample, tmp_path):
    flags = (*RUN, "--schedule", "constant", "--warm-up", 0, "--ema", 0.8)
    train_here(sample, tmp_path / "uninterrupted", *flags)
    train_here(sample, tmp_path / "out", *flags, "--num-epochs", 1)
    with logged_by(StopAt(2 * STEPS + 1)):
        attempt(sample, tmp_path / "out", *flags, "--num-epochs", EPOCHS, "--resume")
    train_here(sample, tmp_path / "out", *flags, "--num-epochs", EPOCHS, "--resume")
    same_run(tmp_path / "out", tmp_path / "uninterrupted")
    message = user_error(attempt(sample, tmp_path / "out", *flags, "--num-epochs", 1, "--resume"))
    assert "--num_epochs 1 (was 3): epoch 3 of the run has begun; give at least that many" in message


def test_warm_up_stays_as_long_as_it_was_when_epochs_are_added(sample, tmp_path):
    flags = (*RUN, "--schedule", "constant", "--warm-up", 0.8)
    train_here(sample, tmp_path / "out", *flags, "--num-epochs", 1)  # four steps of five
    for epochs in (2, 3):
        train_here(sample, tmp_path / "out", *flags, "--num-epochs", epochs, "--resume")
    rates = [entry["lr"]["head"] for entry in log_of(tmp_path / "out")]
    assert rates == pytest.approx([1e-3] * 3)


def test_early_stop_is_final_when_epochs_are_added(sample, tmp_path):
    flags = (*RUN, "--schedule", "constant", "--lr", 1e-20, "--early-stopping", 1)
    train_here(sample, tmp_path / "out", *flags, "--num-epochs", 2)
    train_here(sample, tmp_path / "out", *flags, "--num-epochs", 5, "--resume")
    assert len(log_of(tmp_path / "out")) == 2


def test_resume_leaves_a_finished_run_unchanged(uninterrupted, sample, tmp_path):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    drawn_anew = {".sdl-manifest.jsonl", "settings.toml", "curves.png", "report.html", "report.html.sha256"}
    before = {name: facts for name, facts in snapshot(folder).items() if name not in drawn_anew}
    finished = train_here(sample, folder, *RUN, "--resume")
    assert {name: facts for name, facts in snapshot(folder).items() if name not in drawn_anew} == before
    assert "last epoch:" in finished.stdout


def test_resume_accepts_flags_that_change_no_number(uninterrupted, sample, tmp_path):
    with logged_by(StopAt(7)):
        attempt(sample, tmp_path / "out", *RUN, "--save-steps", 2)
    others = ("-j", 1, "--device", "cpu", "--save-steps", 3, "--max_bad_images", 4)
    train_here(sample, tmp_path / "out", *RUN, "--resume", *others)
    same_run(tmp_path / "out", uninterrupted)


@pytest.fixture
def stopped(sample, tmp_path):
    """A folder with a run that was stopped in its first epoch, and its data, which may be changed."""
    data = copy_of(sample, tmp_path / "data")
    with logged_by(StopAt(2)):
        attempt(data, tmp_path / "out", *RUN)
    return data, tmp_path / "out"


def test_resume_refuses_other_flags_and_names_both_values(stopped):
    data, folder = stopped
    before = snapshot(folder)
    message = user_error(attempt(data, folder, *RUN, "--resume", "--lr", 0.01, "-b", 6, "--seed", 4, "--ema", 0.9))
    assert "--resume: the run was started with other flags" in message
    for words in ("--lr 0.01 (was 0.001)", "--batch_size 6 (was 5)", "--seed 4 (was 3)", "--ema 0.9 (was None)"):
        assert words in message
    assert "give those again" in message
    assert snapshot(folder) == before  # settings.toml too


def test_resumed_run_computes_in_the_precision_of_its_start(sample, tmp_path, monkeypatch):
    """Keep bf16 without the flag; refuse another precision, and fp16 on a CPU."""
    train_here(sample, tmp_path / "uninterrupted", *RUN, "--precision", "bf16")
    with logged_by(StopAt(7)):
        attempt(sample, tmp_path / "out", *RUN, "--precision", "bf16")
    message = user_error(attempt(sample, tmp_path / "out", *RUN, "--resume", "--precision", "float32"))
    assert "--precision float32 (was bf16)" in message
    train_here(sample, tmp_path / "out", *RUN, "--resume")
    same_run(tmp_path / "out", tmp_path / "uninterrupted")
    (tmp_path / "out" / ".sdl-manifest.jsonl").unlink()  # a changed state is not the run's
    content = stored(tmp_path / "out" / "state.pt")
    torch.save({**content, "settings": {**content["settings"], "precision": "fp16"}}, tmp_path / "out" / "state.pt")
    assert "--precision fp16, which a CPU" in user_error(attempt(sample, tmp_path / "out", *RUN, "--resume"))


def rename_image(data: Path) -> None:
    name = file_names(data, "train")[3]
    (data / "images" / name).rename(data / "images" / f"new-{name}")
    path = data / "train.json"
    path.write_text(path.read_text(encoding="utf-8").replace(json.dumps(name), json.dumps(f"new-{name}")))


def remove_label(data: Path) -> None:
    edit_json(data / "train.json", lambda content: {**content, "annotations": content["annotations"][1:]})


def negate_word_vector(data: Path) -> None:
    vectors = np.load(data / "word_vectors.npy")
    vectors[:, 3] = -vectors[:, 3]
    np.save(data / "word_vectors.npy", vectors)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (rename_image, "images with their labels"),
        (remove_label, "images with their labels"),
        (remove_image, "training images 23 (was 24)"),
        (negate_word_vector, "labels and word vectors"),
    ],
)
def test_resume_refuses_changed_data(stopped, change, named):
    data, folder = stopped
    change(data)
    before = snapshot(folder)
    message = user_error(attempt(data, folder, *RUN, "--resume"))
    assert "--resume: the data are not those of the run" in message
    assert named in message
    assert snapshot(folder) == before


def test_resume_does_not_replace_a_run_without_a_state(uninterrupted, sample, tmp_path):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    for name in ("state.pt", "state-previous.pt"):
        (folder / name).unlink()
    before = snapshot(folder)
    message = user_error(attempt(sample, folder, *RUN, "--resume"))
    assert f"--path_output {folder} holds a training run without a state to resume from" in message
    assert "--overwrite" in message
    assert snapshot(folder) == before
