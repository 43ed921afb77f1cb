"""How far apart the M principal vectors of an image are, and which of them gives the tags."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from src.loss_functions.SDL_loss import variance_regularizer
from src.run_report.ranking import ROWS
from src.scoring import principal_vectors

_COSINE_IMAGES = 2048


@dataclass(frozen=True, eq=False)
class Spread:
    """The principal vectors of N images.

    Attributes:
        variances: [N], || Var_m(A[d, m]) ||_1 of each image: the loss's regulariser.
        mean_cosines: [M, M], the mean over images of the cosines between principal vectors.
        cosines: [n * M(M-1)/2], those cosines between different vectors, of the n images looked at.
        wins: [M, C], how many of the best tags of all images each principal vector gave, label by label.
    """

    variances: Tensor
    mean_cosines: Tensor
    cosines: Tensor
    wins: Tensor


@torch.inference_mode()
def measure_spread(embeddings: Tensor, word_vectors: Tensor, rows: Tensor, best: Tensor) -> Spread:
    """Measure the spread of images that have more than one principal vector.

    Args:
        embeddings: [N, D*M], N >= 1, M >= 2.
        word_vectors: [D, C].
        rows: [n], images.
        best: [n, k], their best labels.
    """
    dim, num_labels = word_vectors.shape
    variances = [variance_regularizer(principal_vectors(part.float(), dim)) for part in embeddings.split(ROWS)]
    cosines = pairwise_cosines(embeddings[_evenly(len(embeddings), _COSINE_IMAGES)].float(), dim)
    num_rows = cosines.shape[1]
    above = torch.triu(torch.ones(num_rows, num_rows, dtype=torch.bool), diagonal=1)
    wins = torch.zeros(num_rows * num_labels, dtype=torch.int64)
    for part, labels in zip(rows.split(ROWS), best.split(ROWS), strict=True):
        vectors = principal_vectors(embeddings[part].float(), dim)  # [b, M, D]
        # the m that s_c = max_m <A[:, m], w_c> is by
        winners = torch.einsum("bmd,dbk->bmk", vectors, word_vectors[:, labels]).argmax(dim=1)  # [b, k]
        wins += torch.bincount((winners * num_labels + labels).flatten(), minlength=len(wins))
    return Spread(
        torch.cat(variances), cosines.mean(dim=0), cosines[:, above].flatten(), wins.view(num_rows, num_labels)
    )


def pairwise_cosines(embeddings: Tensor, wordvec_dim: int) -> Tensor:
    """[n, D*M] -> [n, M, M], the cosines between the principal vectors of each image; 0 with a vector of zeros."""
    directions = normalize(principal_vectors(embeddings, wordvec_dim), dim=2)
    return directions @ directions.transpose(1, 2)


def _evenly(length: int, most: int) -> Tensor:
    """At most ``most`` indices below ``length``, evenly spaced."""
    return torch.arange(0, length, -(-length // most))
