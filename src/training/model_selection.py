"""What chooses the best epoch: the test images (the released code's habit), or a part of the training data.

A number that was chosen on the images it is measured on is too good. Held-back training images cost a little
training data and leave the test images out of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.choices import Selection
from src.data.labels import LabelMatrix
from src.data.parts import TrainingSet
from src.data.split import ZeroShotSplit
from src.errors import UserError


@dataclass(frozen=True)
class Division:
    """How the training images and the seen labels are used.

    Attributes:
        select_on: what chooses.
        train_rows, held_rows: [n] rows of the training set to train on, and to choose on; ascending.
        columns: of ``split.seen``, the labels that are trained on.
        posing: of ``split.seen``, the labels that pose as unseen.
    """

    select_on: Selection
    train_rows: Tensor
    held_rows: Tensor
    columns: tuple[int, ...]
    posing: tuple[int, ...] = ()

    def trained_split(self, split: ZeroShotSplit) -> ZeroShotSplit:
        """The split that the trained model knows: labels that pose as unseen are on neither side of it."""
        return replace(split, seen=tuple(split.seen[column] for column in self.columns))

    def train_targets(self, targets: LabelMatrix) -> LabelMatrix:
        """[N, C_seen] -> the columns that are trained on."""
        return targets.select_columns(self.columns)

    @property
    def setting(self) -> str:
        """Which setting of a report on the held-back images chooses: of seen labels alone, or of the posing ones."""
        return "zero_shot" if self.posing else "generalized"


def divide(
    training: TrainingSet, select_on: Selection, *, val_share: float, held_out_labels: float, seed: int
) -> Division:
    """Decide what to train on and what to choose on.

    Args:
        training: all training images.
        select_on: ``test``: everything is trained on. ``seen``: some images are held back. ``held-out``: some
            images are held back, and of the labels that these have, some are kept from training.
        val_share: of the images that are held back.
        held_out_labels: of the seen labels that pose as unseen.
        seed: of both choices.

    Raises:
        UserError: nothing is left to train or to choose on.
    """
    count, num_labels = training.targets.shape
    every = tuple(range(num_labels))
    if select_on == "test":
        return Division(select_on, torch.arange(count), torch.empty(0, dtype=torch.int64), every)
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(count, dtype=torch.bool)
    held[torch.randperm(count, generator=generator)[: round(val_share * count)]] = True
    held_rows = held.nonzero()[:, 0]
    posing = _posing_labels(training, held_rows, held_out_labels, generator) if select_on == "held-out" else ()
    columns = tuple(column for column in every if column not in set(posing))
    has_label = training.targets.select_columns(columns).positives_per_image() > 0
    train_rows = (~held & has_label).nonzero()[:, 0]
    if len(train_rows) == 0 or len(held_rows) == 0:
        raise UserError(
            f"--val-share {val_share:g}: of {count} training images that leaves {len(train_rows)} to train on and "
            f"{len(held_rows)} to choose on; give another share, or --select-on test"
        )
    return Division(select_on, train_rows, held_rows, columns, posing)


def _posing_labels(
    training: TrainingSet, held_rows: Tensor, share: float, generator: torch.Generator
) -> tuple[int, ...]:
    """Labels that held-back images have, drawn at random, ascending."""
    count = training.targets.num_labels
    present = (training.targets.select_rows(held_rows).positives_per_label() > 0).nonzero()[:, 0]
    wanted = round(share * count)
    if not 0 < wanted < count or len(present) < wanted:
        raise UserError(
            f"--held-out-labels {share:g}: that is {wanted} of {count} seen labels, of which {len(present)} are on "
            "held-back images; give another share, or a larger --val-share"
        )
    drawn = present[torch.randperm(len(present), generator=generator)[:wanted]]
    return tuple(sorted(drawn.tolist()))
