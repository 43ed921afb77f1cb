"""The model that training starts from: random, a backbone's weights, or an SDL checkpoint that is continued."""

from __future__ import annotations

from src.checkpoint import FORMAT, CheckpointInfo, load_checkpoint
from src.errors import UserError
from src.models import SDLModel, create_model
from src.models.backbones import find_backbone_weights, load_backbone
from src.models.state_files import load_strictly, read_state_file, tensors_of


def starting_model(
    model_path: str,
    *,
    model_name: str | None,
    num_rows: int | None,
    wordvec_dim: int,
    image_size: int,
    pretrain_backbone: int | None = None,
    num_classes: int | None = None,
) -> tuple[SDLModel, str, CheckpointInfo | None]:
    """The model that training starts from.

    Args:
        model_path: a file, or ``auto`` (installed or local ImageNet weights), ``timm`` (download), ``none`` (random
            weights).
        model_name: the backbone; None takes that of an SDL checkpoint, else ``tresnet_m``.
        num_rows: M; None takes that of an SDL checkpoint, else 2 (the released COCO script).
        wordvec_dim: D of the data.
        image_size: side of the input in pixels.
        pretrain_backbone: 1: the file gives a backbone, the head is fresh; 0: the file is an SDL model that training
            continues; None tells from the file.
        num_classes: what the classifier of a backbone file must have.

    Returns:
        (model, name of its backbone, what the SDL checkpoint says or None).

    Raises:
        UserError: the file is missing, does not fit, or contradicts the flags.
    """
    is_sdl = model_path not in ("auto", "timm", "none") and _holds_head(model_path)
    if pretrain_backbone == 0 and not is_sdl:
        raise UserError(
            f"--pretrain-backbone 0: {model_path} is no SDL model; use --pretrain-backbone 1 to put a fresh head "
            "on a backbone"
        )
    if num_classes is not None and (is_sdl or model_path in ("timm", "none")):
        raise UserError(
            f"--num-classes {num_classes}: --model-path {model_path} has no classifier to check; leave the flag out"
        )
    if is_sdl and pretrain_backbone != 1:
        model, info = load_checkpoint(model_path, model_name=model_name, num_rows=num_rows, wordvec_dim=wordvec_dim)
        return model, info.config.model_name, info
    if is_sdl:
        source, info = load_checkpoint(model_path, model_name=model_name)
        name, rows = info.config.model_name, num_rows or info.config.num_rows
        model = create_model(name, rows, wordvec_dim, image_size=image_size)
        load_strictly(model.backbone, source.backbone.state_dict(), model_path)  # made for one size, it may not fit
        return model, name, None
    name = model_name or "tresnet_m"
    model = create_model(name, num_rows or 2, wordvec_dim, image_size=image_size, pretrained=model_path == "timm")
    if model_path not in ("timm", "none"):
        load_backbone(model, name, find_backbone_weights(name) if model_path == "auto" else model_path, num_classes)
    return model, name, None


def _holds_head(path: str) -> bool:
    content = read_state_file(path)
    return content.get("format") == FORMAT or "embedding.weight" in tensors_of(content, path)
