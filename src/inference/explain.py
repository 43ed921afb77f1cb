"""Explain a tag: which principal vector gives its score, and where in the image the score comes from.

The score of a label is linear in the pooled features, s_c = <A[:, m], w_c> with A = W mean_xy F(x, y), so the class
activation map h_c(x, y) = <W_m F(x, y), w_c> of the best principal vector m is exact: its mean over the image is the
score. Class words add a part that is not linear. The map then follows the gradient g_c of the score, and what the
gradient leaves of the score is spread evenly; the mean of the map is the score again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from src.errors import UserError
from src.exported.engines import Embedder
from src.scoring import principal_vectors, score_labels
from src.tags import Explanation

if TYPE_CHECKING:
    from src.models import SDLModel


@torch.no_grad()
def explain(model: Embedder, image: Tensor, word_vectors: Tensor) -> Explanation:
    """Explain the scores of labels for an image.

    Args:
        model: an SDLModel in eval mode whose backbone ends with global average pooling.
        image: [3, S, S] in [0, 1], on the model's device.
        word_vectors: [D, K] of the labels to explain.

    Raises:
        UserError: the model has no PyTorch weights, or its backbone does not end with global average pooling.
    """
    model = _with_weights(model)
    features = feature_map(model, image.unsqueeze(0))[0]  # [F, h, w]
    with torch.inference_mode(False), torch.enable_grad():  # copies, as tensors of inference mode have no gradient
        words = word_vectors.to(features).clone()
        pooled = features.mean(dim=(1, 2)).clone().requires_grad_()  # [F]
        embedding = model.embedding(pooled.unsqueeze(0))  # [1, D*M]
        scores = score_labels(embedding, words)[0]  # [K]
        each = torch.eye(len(scores), device=scores.device)
        (directions,) = torch.autograd.grad(scores, pooled, each, is_grads_batched=True)  # [K, F]: g_c
    winners = (principal_vectors(embedding.detach(), model.wordvec_dim)[0] @ words).argmax(dim=0)  # [M, K] -> [K]
    # h_c(x, y) = <g_c, F(x, y)> + s_c - <g_c, mean F>; the last two cancel for the paper's head, where g_c = W_m^T w_c
    rest = scores.detach() - directions @ pooled.detach()
    maps = torch.einsum("kf,fhw->khw", directions, features) + rest[:, None, None]
    return Explanation(scores.detach(), winners, maps, torch.bincount(winners, minlength=model.num_rows))


def feature_map(model: Embedder, images: Tensor) -> Tensor:
    """Compute the feature map [B, F, h, w], before global average pooling; see :func:`explain` for the errors."""
    model = _with_weights(model)
    places = model.forward_places(images)
    pooled = model.forward_features(images)
    if places.ndim != 4 or places.shape[1] != pooled.shape[1]:
        raise UserError("--explain: this backbone has no feature map; use a convolutional one")
    if not torch.allclose(places.mean(dim=(2, 3)), pooled, rtol=1e-3, atol=1e-4 * pooled.detach().abs().max().item()):
        raise UserError(
            "--explain: this backbone does more than average its feature map, so no map adds up to the score"
        )
    return places


def _with_weights(model: Embedder) -> SDLModel:
    from src.models import SDLModel  # timm takes a second to import, and an exported model does without

    if not isinstance(model, SDLModel):
        raise UserError(
            "--explain needs PyTorch weights, which an exported model does not have; give the checkpoint as "
            "--model_path, with --engine torch"
        )
    return model
