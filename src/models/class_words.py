"""The classes that a backbone was trained on, as words: what it knows beyond the labels of the training images.

Not part of the paper. The vector of an image is the convex combination of its classes' word vectors (ConSE: Norouzi et
al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014, arXiv 1312.5650).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class ClassWords(nn.Module):
    """Map pooled features [B, F] to a vector [B, D] in the space of the words, of length beta.

    All tensors are buffers: they are saved with the model, and training leaves them as they are.

    Args:
        num_features: F.
        num_classes: K, of the backbone's own classifier.
        wordvec_dim: D.
    """

    weight: Tensor
    bias: Tensor
    words: Tensor
    scale: Tensor

    def __init__(self, num_features: int, num_classes: int, wordvec_dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_classes, num_features))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("words", torch.zeros(num_classes, wordvec_dim))  # a class without a vector is zero
        self.register_buffer("scale", torch.zeros(()))  # beta

    def forward(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, D]."""
        shares = linear(features, self.weight, self.bias).softmax(dim=1)  # [B, K]: p_k
        return self.scale * normalize(shares @ self.words, dim=1)  # v = beta sum_k p_k w_k / |sum_k p_k w_k|


class PrincipalHead(nn.Linear):
    """Map pooled features [B, F] to principal embedding matrices, flattened to [B, D*M].

    The paper's head is one linear layer without bias. ``class_words``, if there are any, add their vector v to every
    principal vector, and so their score to that of every label: max_m <A_m + v, w> = max_m <A_m, w> + <v, w>.

    Args:
        num_features: F.
        wordvec_dim: D.
        num_rows: M.
        num_class_words: K; 0 is the paper's head.
    """

    def __init__(self, num_features: int, wordvec_dim: int, num_rows: int, num_class_words: int = 0) -> None:
        super().__init__(num_features, wordvec_dim * num_rows, bias=False)
        self.num_rows = num_rows
        self.class_words = ClassWords(num_features, num_class_words, wordvec_dim) if num_class_words else None

    def forward(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, D*M]; ``view(B, D, M)`` is the matrix A of the paper, with v in each column."""
        embedding = super().forward(features)
        if self.class_words is None:
            return embedding
        return embedding + self.class_words(features).to(embedding.dtype).repeat_interleave(self.num_rows, dim=1)
