"""A backbone with the principal-embedding-matrix head of the paper."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from src.errors import UserError, first_line
from src.models.class_words import PrincipalHead


class SDLModel(nn.Module):
    """Map images [B, 3, H, W] in [0, 1] to principal embedding matrices, flattened to [B, D*M].

    The backbone's pooled features pass through the head (:class:`src.models.class_words.PrincipalHead`). The model
    applies the normalisation that its backbone was trained with (none for TResNet, that of timm's configuration for
    others).

    Args:
        backbone: a module that maps images to pooled features [B, F].
        num_features: F.
        num_rows: M, the number of principal vectors.
        wordvec_dim: D, the length of a word vector.
        mean, std: normalisation of the backbone, one number per channel, in units of the [0, 1] image.
        num_class_words: number of classes of the backbone's own classifier that the head knows as words.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        num_rows: int,
        wordvec_dim: int,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
        num_class_words: int = 0,
    ) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.wordvec_dim = wordvec_dim
        self.num_features = num_features
        self.backbone = backbone
        self.embedding = PrincipalHead(num_features, wordvec_dim, num_rows, num_class_words)
        # Not part of the state dict: they follow from the name of the backbone.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self._normalizes = any(mean) or any(value != 1 for value in std)

    def forward_features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> pooled backbone features [B, F]."""
        return self.backbone(self._normalize(images))

    def forward_places(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> the backbone's features before pooling, [B, F, h, w] for convolutional ones."""
        return self.backbone.forward_features(self._normalize(images))  # type: ignore[operator]

    def _normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std if self._normalizes else images

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, D*M]; ``view(B, D, M)`` is the matrix A of the paper."""
        return self.embedding(self.forward_features(images))


def with_head(model: SDLModel, module: nn.Module) -> SDLModel:
    """Return ``module`` if it is a whole model; if it is a head, ``model``'s backbone with this head."""
    if isinstance(module, SDLModel):
        return module
    whole = copy.copy(model)
    whole._modules = {**model._modules, "embedding": module}
    return whole.eval()


def create_model(
    model_name: str = "tresnet_m",
    num_rows: int = 7,
    wordvec_dim: int = 300,
    *,
    num_class_words: int = 0,
    image_size: int | None = None,
    pretrained: bool = False,
    grad_checkpointing: bool = False,
    inplace_abn: bool = False,
    **backbone_options: Any,
) -> SDLModel:
    """Build an SDL model on any timm backbone.

    Args:
        model_name: ``tresnet_m`` (the paper's), ``tresnet_l``, ``tresnet_xl``, or the name of any timm model.
        num_rows: M, the number of principal vectors.
        wordvec_dim: D, the length of a word vector.
        num_class_words: number of classes of the backbone's own classifier that the head knows as words.
        image_size: side of the square input in pixels, for backbones that are built for one size (vision transformers).
        pretrained: download timm's weights from its hub.
        grad_checkpointing: recompute activations in the backward pass: less memory, more time, equal loss and
            gradients. Batch norms see each batch twice, so their running statistics follow twice as fast.
        inplace_abn: use InPlaceABN, which saves training memory; TResNet only, needs the ``inplace-abn`` package.
        **backbone_options: passed on to ``timm.create_model`` (``drop_path_rate``, ...).

    Raises:
        UserError: the name is unknown, the backbone lacks an option, the download fails, or InPlaceABN is missing.
    """
    import timm  # takes a second

    if not _is_known(model_name):
        similar = ", ".join(timm.list_models(f"*{model_name[:9]}*")[:5])
        raise UserError(
            f"--model-name {model_name}: no such backbone; use tresnet_m, tresnet_l, tresnet_xl or a name from "
            "timm.list_models()" + (f" (similar: {similar})" if similar else "")
        )
    if image_size is not None and timm.get_pretrained_cfg(model_name).fixed_input_size:
        backbone_options["img_size"] = image_size
    try:
        backbone = timm.create_model(model_name, pretrained=pretrained, num_classes=0, **backbone_options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise UserError(f"--model-path timm: no weights of {model_name} from timm's hub: {error}") from error
    if grad_checkpointing:
        enable_grad_checkpointing(backbone, model_name)
    if inplace_abn:
        from src.models.inplace_abn import use_inplace_abn  # an optional dependency

        use_inplace_abn(backbone, model_name)
    num_features = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    config = backbone.pretrained_cfg
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return SDLModel(backbone, num_features, num_rows, wordvec_dim, mean, std, num_class_words)


def _is_known(model_name: str) -> bool:
    """Return whether timm has the model, and its pretrained tag if the name has one after a dot."""
    import timm

    try:
        return timm.is_model(model_name) and timm.get_pretrained_cfg(model_name) is not None
    except RuntimeError:  # no such tag
        return False


def freeze_batch_norm(module: nn.Module) -> None:
    """Make every batch norm use its stored statistics, until the next ``module.train()``.

    Batches of a small data set have other statistics than the images that the backbone was trained on.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) or type(layer).__name__ == "InPlaceABN":
            layer.eval()


def enable_grad_checkpointing(backbone: nn.Module, model_name: str) -> None:
    """Recompute the backbone's activations in the backward pass instead of keeping them.

    Raises:
        UserError: timm's model has no such option.
    """
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]  # nn.Module types every attribute as Tensor | Module
    except (AttributeError, AssertionError) as error:
        raise UserError(f"--grad-checkpointing: timm's {model_name} does not support it; leave the flag out") from error


@torch.inference_mode()
def check_image_size(model: nn.Module, image_size: int, flag: str) -> None:
    """Check an image size by running one black image through ``model``, which is left in eval mode.

    Raises:
        UserError: the backbone takes no images of this size (a vision transformer's patches, TResNet's first layer).
    """
    try:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{flag} {image_size}: the backbone takes no images of this size ({first_line(error)}); give one that it "
            "takes, or leave the flag out"
        ) from error
