"""Build the model that training starts from: random, with a backbone's weights, or an SDL checkpoint."""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from src.checkpoint import FORMAT, CheckpointInfo, ModelConfig, load_checkpoint
from src.checkpoint.info import check_same_space
from src.checkpoint.released import released_weights
from src.config.train import IMAGE_SIZE, ModelSettings
from src.data.metadata import Metadata
from src.errors import UserError
from src.models import SDLModel, create_model
from src.models.backbones import find_backbone_weights, load_backbone, read_classifier
from src.models.class_words import PrincipalHead
from src.models.inplace_abn import use_inplace_abn
from src.models.sdl_model import check_image_size, enable_grad_checkpointing
from src.models.state_files import load_strictly, read_state_file
from src.training.class_words import set_class_words
from src.training.mixed_precision import use_sync_bn
from src.utils.distributed import Processes


def build_model(
    settings: ModelSettings, metadata: Metadata, device: torch.device, processes: Processes
) -> tuple[SDLModel, ModelConfig]:
    """Build the initial model on its device, with the memory options of the settings.

    Raises:
        UserError: the file does not fit, or the backbone does not support an option.
    """
    model, config, info = initial_model(settings, metadata.split.wordvec_dim)
    if info is not None:
        check_same_space(info, metadata.split, metadata.folder)
    if settings.class_words is not None:
        model, config = _with_class_words(model, config, settings, metadata, is_new=info is None)
    check_image_size(model, config.image_size, "--image-size")
    if settings.grad_checkpointing:
        enable_grad_checkpointing(model.backbone, config.model_name)
    if settings.inplace_abn:
        use_inplace_abn(model.backbone, config.model_name)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.sync_bn:
        model.backbone = use_sync_bn(model.backbone, device, processes.count)
    return model.to(device), config


def initial_model(settings: ModelSettings, wordvec_dim: int) -> tuple[SDLModel, ModelConfig, CheckpointInfo | None]:
    """Create the model that training starts from: random, with a backbone's weights, or an SDL checkpoint.

    Args:
        settings: unset flags are those of the SDL checkpoint, else those of the released COCO script: ``tresnet_m``,
            2 principal vectors, images of 224 pixels.
        wordvec_dim: D of the data.

    Returns:
        (model, its configuration, info of the SDL checkpoint that is continued or None).

    Raises:
        UserError: the file is missing, does not fit, or contradicts the flags.
    """
    path, rows = settings.model_path, settings.num_rows
    is_file = path not in ("auto", "timm", "none")
    if is_file and _has_head(path):
        return _from_sdl_checkpoint(settings, wordvec_dim)
    if settings.pretrain_backbone == 0:
        raise UserError(
            f"--pretrain-backbone 0: {path} is no SDL model; use --pretrain-backbone 1 to put a fresh head on a "
            "backbone"
        )
    config = ModelConfig(settings.model_name or "tresnet_m", rows or 2, wordvec_dim, settings.image_size or IMAGE_SIZE)
    if path in ("timm", "none"):
        _refuse_num_classes(settings)
        if settings.use_ema:
            raise UserError(f"--use-ema: --model-path {path} is no file; leave the flag out")
    model = create_model(
        config.model_name, config.num_rows, wordvec_dim, image_size=config.image_size, pretrained=path == "timm"
    )
    if is_file or path == "auto":
        weights = find_backbone_weights(config.model_name) if path == "auto" else path
        note = load_backbone(model, config.model_name, weights, settings.num_classes, use_ema=settings.use_ema)
        if note is not None:
            print(f"--model-path {weights}: {note}", file=sys.stderr)
    return model, config, None


def _with_class_words(
    model: SDLModel, config: ModelConfig, settings: ModelSettings, metadata: Metadata, *, is_new: bool
) -> tuple[SDLModel, ModelConfig]:
    """Put a new head with class words on a backbone.

    Raises:
        UserError: the head is not new, or the file has no classifier whose classes have names and vectors.
    """
    scale, path = settings.class_words, settings.model_path
    assert scale is not None
    if not is_new:
        raise UserError(
            f"--class-words {scale:g}: {path} has a head already, which keeps the class words that it has; leave the "
            "flag out"
        )
    file = find_backbone_weights(config.model_name) if path == "auto" else path
    classifier = read_classifier(model, file, use_ema=settings.use_ema)
    config = replace(config, num_class_words=len(classifier[0]))
    head = PrincipalHead(model.num_features, config.wordvec_dim, config.num_rows, config.num_class_words)
    head.weight = model.embedding.weight  # the random numbers of a run without class words
    model.embedding = head
    found, count = set_class_words(model, classifier, scale, metadata)
    print(f"--class-words: {found:,} of the {count:,} classes of the backbone have a word vector", file=sys.stderr)
    return model, config


def _from_sdl_checkpoint(
    settings: ModelSettings, wordvec_dim: int
) -> tuple[SDLModel, ModelConfig, CheckpointInfo | None]:
    """Continue an SDL checkpoint, or put a fresh head on its backbone."""
    _refuse_num_classes(settings)
    path, rows = settings.model_path, settings.num_rows
    fresh_head = settings.pretrain_backbone == 1
    expected = {} if fresh_head else {"num_rows": rows, "wordvec_dim": wordvec_dim}
    source, info = load_checkpoint(path, model_name=settings.model_name, use_ema=settings.use_ema, **expected)
    config = replace(info.config, image_size=settings.image_size or info.config.image_size)
    if info.kind == "release":  # the released code trained on bilinear images what its infer.py resizes with bicubic
        config = replace(config, interpolation="bilinear")
    if not fresh_head:
        return source, config, info
    config = replace(config, num_rows=rows or config.num_rows, wordvec_dim=wordvec_dim, num_class_words=0)
    model = create_model(config.model_name, config.num_rows, wordvec_dim, image_size=config.image_size)
    load_strictly(model.backbone, source.backbone.state_dict(), path)  # made for one image size, it may not fit
    return model, config, None


def _refuse_num_classes(settings: ModelSettings) -> None:
    if settings.num_classes is not None:
        raise UserError(
            f"--num-classes {settings.num_classes}: --model-path {settings.model_path} has no classifier to check; "
            "leave the flag out"
        )


def _has_head(path: str) -> bool:
    content = read_state_file(path)
    return content.get("format") == FORMAT or "embedding.weight" in released_weights(content, path).state
