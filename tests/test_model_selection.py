"""Images and labels that are held out of training to select an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.config.train import SelectionSettings
from src.data.labels import LabelMatrix
from src.data.parts import TrainingSet
from src.errors import UserError
from src.options import SELECTIONS
from src.training.model_selection import TrainValSplit, split_training_set
from tests.helpers import make_toy_split

COUNT, LABELS = 60, 10


def training_set(count: int = COUNT, density: float = 0.3) -> TrainingSet:
    targets = (torch.rand(count, LABELS, generator=torch.Generator().manual_seed(1)) < density).to(torch.int8)
    targets[:, 0] = torch.where(targets.sum(dim=1) == 0, 1, targets[:, 0])  # each image has a label
    split = make_toy_split(LABELS, num_unseen=0)
    return TrainingSet([Path(f"{row}.jpg") for row in range(count)], LabelMatrix.from_dense(targets), split)


def divided(select_on: str, seed: int = 0, val_share: float = 0.2, held_out_labels: float = 0.3) -> TrainValSplit:
    settings = SelectionSettings("positive-only", select_on, val_share, held_out_labels, "F1@3")
    return split_training_set(training_set(), settings, seed)


def test_selection_on_test_images_holds_nothing_out():
    divided_set = divided("test")
    assert divided_set.train_rows.tolist() == list(range(COUNT))
    assert len(divided_set.val_rows) == len(divided_set.val.paths) == 0
    assert divided_set.train.split.labels == training_set().split.labels


def test_held_out_images_are_not_trained_on():
    divided_set = divided("seen")
    assert len(divided_set.val_rows) == 12
    assert sorted([*divided_set.train_rows.tolist(), *divided_set.val_rows.tolist()]) == list(range(COUNT))
    assert divided_set.train_rows.tolist() == sorted(divided_set.train_rows.tolist())
    assert divided_set.train.paths == [Path(f"{row}.jpg") for row in divided_set.train_rows.tolist()]
    assert divided_set.val.paths == [Path(f"{row}.jpg") for row in divided_set.val_rows.tolist()]
    assert (len(divided_set.val.split.seen), divided_set.val.split.unseen) == (LABELS, ())


def test_pseudo_unseen_labels_are_on_held_out_images_and_not_trained_on():
    divided_set = divided("held-out")
    seen, unseen = divided_set.val.split.seen, divided_set.val.split.unseen
    assert len(unseen) == 3
    assert sorted([*seen, *unseen]) == list(range(LABELS))
    targets, split = training_set().targets.dense(), training_set().split
    assert torch.equal(divided_set.val.targets.dense(), targets[divided_set.val_rows])
    assert (divided_set.val.targets.dense()[:, list(unseen)].sum(dim=0) > 0).all()
    assert torch.equal(divided_set.train.targets.dense(), targets[divided_set.train_rows][:, list(seen)])
    assert torch.equal(divided_set.train.split.word_vectors, split.word_vectors[:, list(seen)])
    assert (divided_set.train.targets.dense().sum(dim=1) > 0).all()  # an image without a label would teach nothing
    left_out = set(range(COUNT)) - set(divided_set.train_rows.tolist()) - set(divided_set.val_rows.tolist())
    assert all(targets[row, list(seen)].sum() == 0 for row in left_out)


@pytest.mark.parametrize("select_on", SELECTIONS)
def test_split_depends_on_the_seed_alone(select_on):
    torch.manual_seed(5)
    first = divided(select_on)
    torch.manual_seed(6)
    again, other = divided(select_on), divided(select_on, seed=1)
    assert torch.equal(first.val_rows, again.val_rows)
    assert first.val.split.unseen == again.val.split.unseen
    assert select_on == "test" or not torch.equal(first.val_rows, other.val_rows)


def test_pseudo_unseen_labels_are_on_neither_side_of_the_trained_split():
    split = make_toy_split(num_labels=12, num_unseen=2)
    divided_set = divided("held-out")
    trained = divided_set.trained(split)
    assert trained.seen == tuple(split.seen[column] for column in divided_set.val.split.seen)
    assert (trained.unseen, trained.labels) == (split.unseen, split.labels)
    assert divided("test").trained(split) == split


@pytest.mark.parametrize(
    ("select_on", "shares", "message"),
    [
        ("seen", {"val_share": 0.001}, "--val-share 0.001: of 60 training images it leaves 60 to train on and 0"),
        ("seen", {"val_share": 0.999}, "--val-share 0.999: .* leaves 0 to train on and 60"),
        ("held-out", {"held_out_labels": 0.01}, "--held-out-labels 0.01: that is 0 of 10 seen labels"),
        ("held-out", {"held_out_labels": 0.99}, "--held-out-labels 0.99: that is 10 of 10 seen labels"),
        (
            "held-out",
            {"val_share": 0.02, "held_out_labels": 0.9},
            "--held-out-labels 0.9: that is 9 .* larger --val-share",
        ),
    ],
)
def test_impossible_fractions_are_user_errors(select_on, shares, message):
    with pytest.raises(UserError, match=message):
        divided(select_on, **shares)
