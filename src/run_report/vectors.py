"""Spread of the principal vectors of an image, and the share of tags that each gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from src.loss_functions.SDL_loss import variance_regularizer
from src.run_report.charts import Chart, histogram, number
from src.run_report.ranking import ROWS, Ranking
from src.run_report.report import Evaluated
from src.scoring import principal_vectors

_COSINE_IMAGES = 2048  # whose cosines are measured; of more images evenly spaced ones


@dataclass(frozen=True, eq=False)
class Spread:
    """The principal vectors of N images.

    Attributes:
        variances: [N], || Var_m(A[d, m]) ||_1 of each image: the loss's regulariser.
        mean_cosines: [M, M], the mean over images of the cosines between principal vectors.
        cosines: [n * M(M-1)/2], the cosines between different vectors of n images.
        wins: [M, C], how many of the best tags of all images each principal vector gave, label by label.
    """

    variances: Tensor
    mean_cosines: Tensor
    cosines: Tensor
    wins: Tensor


@torch.inference_mode()
def measure_spread(evaluated: Evaluated, ranking: Ranking) -> Spread | None:
    """Measure the spread of the evaluated images; None with one principal vector, or without images."""
    embeddings, word_vectors = evaluated.embeddings, evaluated.split.word_vectors
    (dim, num_labels), num_vectors = word_vectors.shape, evaluated.num_vectors
    if num_vectors == 1 or not len(embeddings):
        return None
    variances = [variance_regularizer(principal_vectors(part.float(), dim)) for part in embeddings.split(ROWS)]
    some = embeddings[:: -(-len(embeddings) // _COSINE_IMAGES)].float()
    directions = normalize(principal_vectors(some, dim), dim=2)  # of zeros: zeros, whose cosines are 0
    cosines = directions @ directions.transpose(1, 2)  # [n, M, M]
    above = torch.ones(num_vectors, num_vectors, dtype=torch.bool).triu(diagonal=1)
    wins = torch.zeros(num_vectors * num_labels, dtype=torch.int64)
    for rows, labels in zip(ranking.rows.split(ROWS), ranking.best.split(ROWS), strict=True):
        vectors = principal_vectors(embeddings[rows].float(), dim)  # [b, M, D]
        # the m of the maximum in s_c = max_m <A[:, m], w_c>
        winners = torch.einsum("bmd,dbk->bmk", vectors, word_vectors[:, labels]).argmax(dim=1)  # [b, k]
        wins += torch.bincount((winners * num_labels + labels).flatten(), minlength=len(wins))
    return Spread(
        torch.cat(variances), cosines.mean(dim=0), cosines[:, above].flatten(), wins.view(num_vectors, num_labels)
    )


def spread_charts(spread: Spread) -> list[Chart]:
    """Draw how variance and cosines are distributed."""
    variance, cosine = number(float(spread.variances.mean())), number(float(spread.cosines.mean()))
    return [
        histogram(
            "Spread of an image, ‖Var_m(A[d, m])‖₁",
            spread.variances.numpy(),
            f"The term that the regulariser holds down: {variance} on average. Near 0 all vectors are the same.",
        ),
        histogram(
            "Cosines between vectors of an image",
            spread.cosines.numpy(),
            f"{cosine} on average. Near 1 the vectors say the same.",
        ),
    ]


def vector_rows(spread: Spread, most: int = 5) -> list[tuple[float, list[tuple[int, int]]]]:
    """Return for each principal vector its share of the best tags in percent, and (label, times) of its ``most``."""
    shares = 100 * spread.wins.sum(dim=1) / spread.wins.sum().clamp(min=1)
    counts, columns = spread.wins.topk(min(most, spread.wins.shape[1]), dim=1)
    pairs = zip(columns.tolist(), counts.tolist(), strict=True)
    given = [[(column, count) for column, count in zip(*row, strict=True) if count] for row in pairs]
    return list(zip(shares.tolist(), given, strict=True))
