"""The score of a label for an image: the one equation that the loss, validation, inference and export all call.

Paper: "Semantic Diversity Learning for Zero-Shot Multi-label Classification" (ICCV 2021). An image is a set of M
principal vectors, a label is its word vector, and the label's score is the best match among them.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The largest [B, M, block] intermediate of score_labels: 2**21 float32 numbers are 8 MiB. The maximum then reads the
# products from the cache, and the allocator reuses the same pages for every block.
MAX_BLOCK_ELEMENTS = 1 << 21


def principal_vectors(embedding: Tensor, wordvec_dim: int) -> Tensor:
    """Read a model's output as principal vectors: [B, D*M] -> [B, M, D].

    The flat output is the matrix A [D, M] in row-major order, so principal vector m is ``x[m::M]`` (released code,
    ``x.view(B, D, M)``).

    Args:
        embedding: [B, D*M], any floating dtype.
        wordvec_dim: D, the length of a word vector.

    Raises:
        ValueError: ``embedding`` is not two-dimensional, or its length is not a multiple of D.
    """
    if embedding.ndim != 2:
        raise ValueError(f"embedding must be [B, D*M], got shape {tuple(embedding.shape)}")
    if wordvec_dim < 1 or embedding.shape[1] == 0 or embedding.shape[1] % wordvec_dim:
        raise ValueError(
            f"embedding length {embedding.shape[1]} is not a positive multiple of the word-vector length {wordvec_dim}"
        )
    rows = embedding.shape[1] // wordvec_dim  # M; -1 would be ambiguous for a batch of no images
    return embedding.reshape(embedding.shape[0], wordvec_dim, rows).transpose(1, 2)  # [B, D, M] -> [B, M, D]


def score_labels(
    embedding: Tensor,
    word_vectors: Tensor,
    *,
    max_block_elements: int | None = MAX_BLOCK_ELEMENTS,
    out: Tensor | None = None,
) -> Tensor:
    """Score every label for every image: s_c = max_m <A[:, m], w_c>.

    Works in the embedding's dtype (under autocast, in autocast's) and on its device. Large vocabularies are scored in
    blocks of labels, so that the [B, M, C] products never exist at once: without a gradient, 400,000 labels for 32
    images need two blocks' products, 16 MiB, beside the result.

    Args:
        embedding: [B, D*M], the model's output.
        word_vectors: [D, C], one column a label; unit norm is expected but not required.
        max_block_elements: the largest number of products held at once. None never cuts into blocks: their number
            depends on B, which a model exported for batches of any size does not know.
        out: [B, C] tensor of the scores' dtype and device to write to; it carries no gradient.

    Returns:
        [B, C] scores, or ``out``. C = 0 gives an empty [B, 0].

    Raises:
        ValueError: the shapes do not fit each other, or ``out`` is given where a gradient is required.
    """
    if word_vectors.ndim != 2:
        raise ValueError(f"word_vectors must be [D, C], got shape {tuple(word_vectors.shape)}")
    dim, num_labels = word_vectors.shape
    vectors = principal_vectors(embedding, dim)  # [B, M, D]
    batch, rows, _ = vectors.shape
    if out is not None and out.shape != (batch, num_labels):
        raise ValueError(f"out must be [B, C] = {(batch, num_labels)}, got shape {tuple(out.shape)}")
    flat = vectors.reshape(batch * rows, dim)  # [B*M, D]: one matrix product for all images and principal vectors
    words = word_vectors.to(device=embedding.device, dtype=embedding.dtype)
    block = max(1, num_labels if max_block_elements is None else max_block_elements // max(1, batch * rows))

    def products_of(start: int) -> Tensor:
        return (flat @ words[:, start : start + block]).unflatten(0, (batch, rows))  # [B, M, c]: <A[:, m], w_c>

    starts = range(0, max(num_labels, 1), block)
    first = products_of(0)
    # s_c = max_m <A[:, m], w_c>. max gives the whole gradient to the first of several best principal vectors; amax
    # keeps no index and is many times as fast.
    if first.requires_grad:
        if out is not None:
            raise ValueError("out cannot be written to where a gradient is required: leave it out, or use no_grad")
        parts = [first.max(dim=1).values, *(products_of(start).max(dim=1).values for start in starts[1:])]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    if out is None and len(starts) == 1:
        return first.amax(dim=1)
    # Straight into the result: a part kept in memory would occupy the pages of the last block's products, which the
    # next block could then not reuse.
    result = first.new_empty(batch, num_labels) if out is None else out
    torch.amax(first, dim=1, out=result[:, :block])
    del first
    for start in starts[1:]:
        torch.amax(products_of(start), dim=1, out=result[:, start : start + block])
    return result


def top_k_labels(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select the k best labels of every image, best first; among equal scores the lower index comes first.

    ``torch.topk`` guarantees no order among ties, so that a tie at the k-th place would change precision from machine
    to machine.

    Args:
        scores: [B, C].
        k: 1 <= k <= C.

    Returns:
        (scores [B, k], label indices [B, k]).

    Raises:
        ValueError: k is out of range, or a score is NaN.
    """
    num_labels = scores.shape[1]
    if not 1 <= k <= num_labels:
        raise ValueError(f"k must be between 1 and the number of labels {num_labels}, got {k}")
    best, labels = scores.topk(min(k + 1, num_labels), dim=1)  # one more shows whether the k-th place is tied
    if best.isnan().any():  # topk ranks NaN above every number
        raise ValueError("scores contain NaN")
    labels = labels[:, :k].sort(dim=1).values
    if k < num_labels:
        tied = (best[:, k - 1] == best[:, k]).nonzero()[:, 0]
        if len(tied):  # topk may have taken any of the tied labels
            labels[tied] = _lowest_top_k(scores[tied], best[tied, k - 1 : k], k)
    values, order = scores.gather(1, labels).sort(dim=1, descending=True, stable=True)
    return values, labels.gather(1, order)


def _lowest_top_k(scores: Tensor, kth_best: Tensor, k: int) -> Tensor:
    """Select the labels [B, k] above the k-th best score [B, 1], and the lowest that equal it; by ascending index."""
    above = scores > kth_best
    tied = scores == kth_best
    places_left = k - above.sum(dim=1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(dim=1) <= places_left))  # exactly k a row
    return chosen.nonzero()[:, 1].view(len(scores), k)
