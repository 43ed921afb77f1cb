"""Hold out training images, and labels, to select the best epoch on.

The released code selects on the evaluation images, which biases the result. Held-out training images cost a little
training data instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.config.train import SelectionSettings
from src.data.parts import TrainingSet
from src.data.split import ZeroShotSplit
from src.errors import UserError


@dataclass(frozen=True)
class TrainValSplit:
    """Training images divided into those to train on and those to select the best epoch on.

    Attributes:
        all: every training image with all seen labels.
        train_rows, val_rows: ascending rows of ``all``.
        train: the images and labels to train on; without the pseudo-unseen labels.
        val: the held-out images, none if the evaluation images select; in its split the labels of ``train`` are seen,
            and the pseudo-unseen ones unseen.
    """

    all: TrainingSet
    train_rows: Tensor
    val_rows: Tensor
    train: TrainingSet
    val: TrainingSet

    def trained(self, split: ZeroShotSplit) -> ZeroShotSplit:
        """Take the pseudo-unseen labels out of the seen labels of ``split``, the split of the metadata folder."""
        return replace(split, seen=tuple(split.seen[column] for column in self.val.split.seen))


def split_training_set(training: TrainingSet, settings: SelectionSettings, seed: int) -> TrainValSplit:
    """Hold out images (``seen``), and also labels that these images have (``held-out``), or nothing (``test``).

    Args:
        training: all training images.
        settings: images to select on, and fractions to hold out.
        seed: of the draws.

    Raises:
        UserError: no image is left to train or to select on.
    """
    count, num_labels = training.targets.shape
    is_held_out = torch.zeros(count, dtype=torch.bool)
    pseudo_unseen: tuple[int, ...] = ()
    if settings.select_on != "test":
        generator = torch.Generator().manual_seed(seed)
        is_held_out[torch.randperm(count, generator=generator)[: round(settings.val_share * count)]] = True
        if settings.select_on == "held-out":
            pseudo_unseen = _draw_labels(training, is_held_out, settings.held_out_labels, generator)
    columns = tuple(column for column in range(num_labels) if column not in set(pseudo_unseen))
    train = training.select_labels(columns)
    train_rows = (~is_held_out & (train.targets.positives_per_image() > 0)).nonzero()[:, 0]
    val_rows = is_held_out.nonzero()[:, 0]
    if settings.select_on != "test" and (len(train_rows) == 0 or len(val_rows) == 0):
        raise UserError(
            f"--val-share {settings.val_share:g}: of {count} training images it leaves {len(train_rows)} to train on "
            f"and {len(val_rows)} to select on; choose another fraction, or --select-on test"
        )
    val = training.select_rows(val_rows)
    val = replace(val, split=replace(val.split, seen=columns, unseen=pseudo_unseen))
    return TrainValSplit(training, train_rows, val_rows, train.select_rows(train_rows), val)


def _draw_labels(
    training: TrainingSet, is_held_out: Tensor, fraction: float, generator: torch.Generator
) -> tuple[int, ...]:
    """Draw pseudo-unseen labels among those of the held-out images; ascending columns."""
    count = training.targets.num_labels
    held_out = training.targets.select_rows(is_held_out.nonzero()[:, 0])
    present = (held_out.positives_per_label() > 0).nonzero()[:, 0]
    wanted = round(fraction * count)
    if not 0 < wanted < count or len(present) < wanted:
        raise UserError(
            f"--held-out-labels {fraction:g}: that is {wanted} of {count} seen labels, and {len(present)} are on "
            "held-out images; choose another fraction, or a larger --val-share"
        )
    return tuple(sorted(present[torch.randperm(len(present), generator=generator)[:wanted]].tolist()))
