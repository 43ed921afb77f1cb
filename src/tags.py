"""A tag of an image and its explanation, as inference, logging and figures pass them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from src.options import Scores

if TYPE_CHECKING:
    from torch import Tensor


class Tag(msgspec.Struct, frozen=True, omit_defaults=True):
    """A label of an image.

    Attributes:
        label: name of the label.
        score: see :func:`src.scoring.score_labels`.
        unseen: whether the label was not trained on; also true on neither side of a split (15 of COCO's 80 labels).
        probability: probability that the tag is right; None without a calibration.
    """

    label: str
    score: float
    unseen: bool
    probability: float | None = None

    @property
    def marked(self) -> str:
        """The label as the released code prints it: unseen ones between asterisks."""
        return f"*{self.label}*" if self.unseen else self.label

    def shown(self, scores: Scores, digits: int = 4) -> str:
        """Format the score, or the probability in percent."""
        if scores == "probability" and self.probability is not None:
            return f"{100 * self.probability:.{max(digits - 3, 0)}f}%"
        return f"{self.score:.{digits}f}"


class Explanation(NamedTuple):
    """Explanation of K labels of one image.

    Attributes:
        scores: [K].
        winners: [K], index of the principal vector that gives each score.
        maps: [K, h, w]; the mean of each is the score.
        shares: [M], number of the K labels that each principal vector gives the score of.
    """

    scores: Tensor
    winners: Tensor
    maps: Tensor
    shares: Tensor
