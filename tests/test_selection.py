"""What is held back to choose an epoch, and what is not trained on then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.choices import SELECTIONS
from src.data.labels import LabelMatrix
from src.data.parts import TrainingSet
from src.errors import UserError
from src.training.model_selection import divide
from tests.helpers import make_toy_split

COUNT, LABELS = 60, 10


def training_set(count: int = COUNT, density: float = 0.3) -> TrainingSet:
    targets = (torch.rand(count, LABELS, generator=torch.Generator().manual_seed(1)) < density).to(torch.int8)
    targets[:, 0] = torch.where(targets.sum(dim=1) == 0, 1, targets[:, 0])  # each image has a label
    split = make_toy_split(LABELS, num_unseen=0)
    return TrainingSet([Path(f"{row}.jpg") for row in range(count)], LabelMatrix.from_dense(targets), split)


def divided(select_on: str, seed: int = 0, val_share: float = 0.2, held_out_labels: float = 0.3):
    return divide(training_set(), select_on, val_share=val_share, held_out_labels=held_out_labels, seed=seed)


def test_the_test_images_cost_no_training_data():
    division = divided("test")
    assert division.train_rows.tolist() == list(range(COUNT))
    assert len(division.held_rows) == 0
    assert (division.columns, division.posing) == (tuple(range(LABELS)), ())


def test_held_back_images_are_not_trained_on():
    division = divided("seen")
    assert len(division.held_rows) == 12
    assert sorted([*division.train_rows.tolist(), *division.held_rows.tolist()]) == list(range(COUNT))
    assert division.train_rows.tolist() == sorted(division.train_rows.tolist())
    assert (division.columns, division.posing, division.setting) == (tuple(range(LABELS)), (), "generalized")


def test_posing_labels_are_not_trained_on_and_each_is_on_a_held_back_image():
    division = divided("held-out")
    assert len(division.posing) == 3
    assert sorted([*division.columns, *division.posing]) == list(range(LABELS))
    assert division.setting == "zero_shot"
    targets = training_set().targets.dense()
    assert (targets[division.held_rows][:, list(division.posing)].sum(dim=0) > 0).all()
    kept = targets[division.train_rows][:, list(division.columns)]
    assert (kept.sum(dim=1) > 0).all()  # an image whose only labels pose as unseen would teach nothing
    left_out = set(range(COUNT)) - set(division.train_rows.tolist()) - set(division.held_rows.tolist())
    assert all(targets[row, list(division.columns)].sum() == 0 for row in left_out)
    assert torch.equal(division.train_targets(training_set().targets).dense(), targets[:, list(division.columns)])


@pytest.mark.parametrize("select_on", SELECTIONS)
def test_the_seed_alone_decides(select_on):
    torch.manual_seed(5)
    first = divided(select_on)
    torch.manual_seed(6)
    again, other = divided(select_on), divided(select_on, seed=1)
    assert torch.equal(first.held_rows, again.held_rows)
    assert first.posing == again.posing
    assert select_on == "test" or not torch.equal(first.held_rows, other.held_rows)


def test_posing_labels_are_on_neither_side_of_the_trained_split():
    split = make_toy_split(num_labels=12, num_unseen=2)
    division = divided("held-out")
    trained = division.trained_split(split)
    assert trained.seen == tuple(split.seen[column] for column in division.columns)
    assert (trained.unseen, trained.labels) == (split.unseen, split.labels)
    assert divided("test").trained_split(split) == split


@pytest.mark.parametrize(
    ("select_on", "shares", "message"),
    [
        ("seen", {"val_share": 0.001}, "--val-share 0.001: of 60 training images that leaves 60 to train on and 0"),
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
def test_impossible_shares_are_user_errors(select_on, shares, message):
    with pytest.raises(UserError, match=message):
        divided(select_on, **shares)
