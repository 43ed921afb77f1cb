"""The semantic diversity learning loss.

Paper: "Semantic Diversity Learning for Zero-Shot Multi-label Classification" (ICCV 2021). For one image with positive
labels P, negative labels N and principal vectors A [D, M]:

    L_rank = 1/|P| sum_p sum_n log(1 + exp(s_n - s_p))         ranking term (paper: also 1/|N|)
    omega  = 1 + sum_d Var_{p in P}(w_p[d])                    semantic diversity weight
    L_reg  = sum_d Var_m(A[d, m])                              regulariser, the L1 norm of the variances
    L      = 2 [ (1 - lambda) omega L_rank + lambda L_reg ]    official; the paper has no factor 2

The deviations of the released code from the paper, and of this code from both, are listed once, in docs/method.md.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from src.options import Normalization, Unknown
from src.scoring import principal_vectors, score_labels


class SDLParts(NamedTuple):
    """Batch means of the three parts of the loss, detached, for logging (names as in the paper's equations)."""

    rank: Tensor
    diversity: Tensor
    regularizer: Tensor


def ranking_term(
    scores: Tensor, positive: Tensor, negative: Tensor, normalization: Normalization = "official"
) -> Tensor:
    """Compute L_rank of every image: every positive label should score above every negative one.

    Memory and time grow with (number of positives in the batch) x C, not with C x C. ``softplus`` keeps value and
    gradient finite for any gap, where log(1 + exp(gap)) overflows past 88 in float32.

    Args:
        scores: [B, C].
        positive: [B, C] bool.
        negative: [B, C] bool, disjoint from ``positive``; a label in neither is ignored.
        normalization: ``"official"`` divides by |P|; ``"paper"`` by |P||N|. An image with positives and no negative is
            ranked against a score of zero by ``"official"`` (as in the released code) and gives 0 under ``"paper"``.

    Returns:
        [B]; 0 for an image without positives.
    """
    image, label = positive.nonzero(as_tuple=True)  # [T], [T]: the T positives of the whole batch
    positive_score = scores[image, label]  # [T]
    # log(1 + exp(-inf)) is 0, and so is its gradient: labels that are not negative are masked per image, not per pair
    negative_score = scores.masked_fill(~negative, -torch.inf)  # [B, C]
    gap = negative_score.index_select(0, image) - positive_score.unsqueeze(1)  # [T, C]: s_n - s_p
    of_positive = softplus(gap).sum(dim=1)  # [T]: sum_n log(1 + exp(s_n - s_p))
    if normalization == "official":
        no_negative = ~negative.any(dim=1)
        of_positive = torch.where(no_negative.index_select(0, image), softplus(-positive_score), of_positive)
    total = scores.new_zeros(scores.shape[0]).index_add(0, image, of_positive)  # [B]
    pairs = positive.sum(dim=1).clamp(min=1)  # |P|
    if normalization == "paper":
        pairs = pairs * negative.sum(dim=1).clamp(min=1)  # |P||N|
    return total / pairs


def diversity_weight(word_vectors: Tensor, positive: Tensor) -> Tensor:
    """Compute omega of every image: 1 + sum_d Var_{p in P}(w_p[d]), unbiased.

    For unit vectors this is 2 minus the mean pairwise cosine of the positives: 1 for synonyms, 2 for unrelated words.

    Args:
        word_vectors: [D, C].
        positive: [B, C] bool.

    Returns:
        [B]; 1 for an image with one positive or none.
    """
    image, label = positive.nonzero(as_tuple=True)  # [T], [T]
    words = word_vectors.t().index_select(0, label)  # [T, D]
    count = positive.sum(dim=1)  # |P|, [B]
    total = words.new_zeros(positive.shape[0], words.shape[1]).index_add(0, image, words)  # [B, D]
    mean = total / count.clamp(min=1).unsqueeze(1)
    # Deviations from the mean first, squares second: the one-pass form loses all digits for vectors that are close to
    # each other.
    squared = (words - mean.index_select(0, image)).square().sum(dim=1)  # [T]
    return 1 + words.new_zeros(positive.shape[0]).index_add(0, image, squared) / (count - 1).clamp(min=1)


def variance_regularizer(vectors: Tensor) -> Tensor:
    """Compute L_reg of every image: || Var_m(A[d, m]) ||_1 over d, unbiased.

    It keeps the principal vectors from drifting apart.

    Args:
        vectors: [B, M, D] principal vectors.

    Returns:
        [B]; 0 for M = 1.
    """
    rows = vectors.shape[1]  # M
    if rows == 1:
        return vectors.new_zeros(vectors.shape[0])
    # A small matrix product subtracts the mean: torch.var is many times slower over so short and strided a dimension
    centring = torch.eye(rows, dtype=vectors.dtype, device=vectors.device) - 1 / rows  # [M, M]
    deviations = centring @ vectors  # [B, M, D]: A[d, m] - mean_m A[d, m]
    return deviations.square().sum(dim=(1, 2)) / (rows - 1)  # a variance is never negative: its L1 norm is its sum


class SDLLoss(nn.Module):
    """The SDL loss of a batch, computed in float32 whatever the model's precision.

    Args:
        weight: lambda, the share of the regulariser, 0 <= lambda <= 1; None leaves the regulariser out (omega L_rank
            alone, without the released code's factor 2). With M = 1 there is nothing to regularise, and the loss is
            that of None for any lambda.
        reduction: ``"mean"`` or ``"sum"`` over images.
        wordvec_array: word vectors of the C training labels, [D, C] or [1, D, C], tensor or array.
        normalization: ``"official"``, the released code's scale (the default), or ``"paper"``: 1/(|P||N|) and no factor
            2.
        unknown: how a label of -1 counts: as ``"negative"`` (as in the released code), or ``"ignore"``.

    Shape:
        x [B, D*M], y [B, C] with 1 positive, 0 negative, -1 unknown (any integer, floating or boolean dtype) -> scalar.

    y must be on x's device; the word vectors follow x. An image without positives contributes its regulariser only.
    ``torch.compile`` works, with a graph break where the positives are listed.

    Raises:
        ValueError: an argument is out of its range, the word vectors are missing, or shapes do not fit.

    >>> words = torch.eye(3)
    >>> loss = SDLLoss(weight=None, wordvec_array=words)
    >>> round(loss(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[1, 0, 0]])).item(), 4)  # 2 log(1 + exp(-2))
    0.2539
    """

    wordvec_array: Tensor

    def __init__(
        self,
        weight: float | None = 0.3,
        reduction: Literal["mean", "sum"] = "mean",
        wordvec_array: Any = None,
        *,
        normalization: Normalization = "official",
        unknown: Unknown = "negative",
    ) -> None:
        super().__init__()
        if wordvec_array is None:
            raise ValueError("wordvec_array is required: the word vectors of the training labels, [D, C] or [1, D, C]")
        words = torch.as_tensor(wordvec_array).detach().float()
        if words.ndim == 3 and words.shape[0] == 1:
            words = words[0]
        if words.ndim != 2:
            raise ValueError(f"wordvec_array must be [D, C] or [1, D, C], got shape {tuple(words.shape)}")
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"weight (lambda) must be between 0 and 1, or None, got {weight}")
        for name, value, allowed in (
            ("reduction", reduction, ("mean", "sum")),
            ("normalization", normalization, ("official", "paper")),
            ("unknown", unknown, ("negative", "ignore")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
        self.weight = weight
        self.reduction = reduction
        self.normalization: Normalization = normalization
        self.unknown = unknown
        # A copy: the caller may change its array in place.
        own_words = words.clone(memory_format=torch.contiguous_format)
        self.register_buffer("wordvec_array", own_words, persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return self.with_parts(x, y)[0]

    def with_parts(self, x: Tensor, y: Tensor) -> tuple[Tensor, SDLParts]:
        """Return the loss of the batch, and the batch means of its parts."""
        words = self.wordvec_array.to(x.device)
        if y.ndim != 2 or y.shape != (x.shape[0], words.shape[1]):
            raise ValueError(f"targets must be [B, C] = {(x.shape[0], words.shape[1])}, got shape {tuple(y.shape)}")
        if x.shape[0] == 0:
            raise ValueError("the batch is empty")
        # Sums over |N| labels and exponentials of score gaps do not survive half precision.
        with torch.autocast(device_type=x.device.type, enabled=False):
            x = x.float()
            positive = y == 1
            negative = ~positive if self.unknown == "negative" else y == 0
            vectors = principal_vectors(x, words.shape[0])  # [B, M, D]
            rank = ranking_term(score_labels(x, words), positive, negative, self.normalization)  # [B]
            omega = diversity_weight(words, positive)  # [B]
            regularizer = variance_regularizer(vectors)  # [B]
            per_image = self._combine(rank, omega, regularizer, num_rows=vectors.shape[1])
            loss = per_image.mean() if self.reduction == "mean" else per_image.sum()
        return loss, SDLParts(rank.detach().mean(), omega.detach().mean(), regularizer.detach().mean())

    def _combine(self, rank: Tensor, omega: Tensor, regularizer: Tensor, num_rows: int) -> Tensor:
        if self.weight is None or num_rows == 1:
            return omega * rank
        # L = (1 - lambda) omega L_rank + lambda L_reg; the released code doubles it
        loss = (1 - self.weight) * omega * rank + self.weight * regularizer
        return 2 * loss if self.normalization == "official" else loss
