"""Build the model that training starts from: random, with a backbone's weights, or an SDL checkpoint."""

from __future__ import annotations

import torch

from src.checkpoint import FORMAT, CheckpointInfo, ModelConfig, load_checkpoint
from src.config.train import IMAGE_SIZE, ModelSettings
from src.data.metadata import Metadata
from src.errors import UserError
from src.inference.vocabulary import check_same_space
from src.models import SDLModel, create_model
from src.models.backbones import find_backbone_weights, load_backbone
from src.models.inplace_abn import use_inplace_abn
from src.models.sdl_model import check_image_size, enable_grad_checkpointing
from src.models.state_files import load_strictly, read_state_file, tensors_of
from src.training.mixed_precision import use_sync_bn
from src.utils.distributed import Processes


def build_model(settings: ModelSettings, metadata: Metadata) -> tuple[SDLModel, ModelConfig]:
    """Build the initial model with its memory options.

    Raises:
        UserError: the file does not fit, or the backbone does not support an option.
    """
    model, name, info = initial_model(settings, metadata.split.wordvec_dim)
    if info is not None:
        check_same_space(info, metadata.split, metadata.folder)
    image_size = settings.image_size or (IMAGE_SIZE if info is None else info.config.image_size)
    check_image_size(model, image_size, "--image-size")
    if settings.grad_checkpointing:
        enable_grad_checkpointing(model.backbone, name)
    if settings.inplace_abn:
        use_inplace_abn(model.backbone, name)
    return model, ModelConfig(name, model.num_rows, model.wordvec_dim, image_size)


def initial_model(settings: ModelSettings, wordvec_dim: int) -> tuple[SDLModel, str, CheckpointInfo | None]:
    """Create the model that training starts from: random, with a backbone's weights, or an SDL checkpoint.

    Args:
        settings: without ``model_name`` and ``num_rows``, those of the SDL checkpoint, else ``tresnet_m`` and 2 (the
            released COCO script).
        wordvec_dim: D of the data.

    Returns:
        (model, name of its backbone, info of the SDL checkpoint that is continued or None).

    Raises:
        UserError: the file is missing, does not fit, or contradicts the flags.
    """
    path, rows, image_size = settings.model_path, settings.num_rows, settings.image_size or IMAGE_SIZE
    is_sdl = path not in ("auto", "timm", "none") and _has_head(path)
    if settings.pretrain_backbone == 0 and not is_sdl:
        raise UserError(
            f"--pretrain-backbone 0: {path} is no SDL model; use --pretrain-backbone 1 to put a fresh head on a "
            "backbone"
        )
    if settings.num_classes is not None and (is_sdl or path in ("timm", "none")):
        raise UserError(
            f"--num-classes {settings.num_classes}: --model-path {path} has no classifier to check; leave the flag out"
        )
    if is_sdl and settings.pretrain_backbone != 1:
        model, info = load_checkpoint(path, model_name=settings.model_name, num_rows=rows, wordvec_dim=wordvec_dim)
        return model, info.config.model_name, info
    if is_sdl:
        source, info = load_checkpoint(path, model_name=settings.model_name)
        name = info.config.model_name
        model = create_model(name, rows or info.config.num_rows, wordvec_dim, image_size=image_size)
        load_strictly(model.backbone, source.backbone.state_dict(), path)  # made for one image size, it may not fit
        return model, name, None
    name = settings.model_name or "tresnet_m"
    model = create_model(name, rows or 2, wordvec_dim, image_size=image_size, pretrained=path == "timm")
    if path not in ("timm", "none"):
        load_backbone(model, name, find_backbone_weights(name) if path == "auto" else path, settings.num_classes)
    return model, name, None


def _has_head(path: str) -> bool:
    content = read_state_file(path)
    return content.get("format") == FORMAT or "embedding.weight" in tensors_of(content, path)


def place_model(model: SDLModel, settings: ModelSettings, device: torch.device, processes: Processes) -> SDLModel:
    """Move the model to its device, with the memory layout and batch norms of the settings."""
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.sync_bn:
        model.backbone = use_sync_bn(model.backbone, device, processes.count)
    return model.to(device)
