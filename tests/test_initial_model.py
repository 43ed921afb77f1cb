"""The initial model of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from src.checkpoint import CheckpointInfo, ModelConfig, save_checkpoint
from src.config.train import ModelSettings
from src.errors import UserError
from src.models import SDLModel
from src.training.initial_model import initial_model
from tests.helpers import SIZE, TINY, make_toy_split, save_tiny, tiny_model


def start(model_path: object, **flags: Any) -> tuple[SDLModel, ModelConfig, CheckpointInfo | None]:
    wordvec_dim = flags.pop("wordvec_dim", 4)
    return initial_model(ModelSettings(model_path=str(model_path), **{"image_size": SIZE, **flags}), wordvec_dim)


def equal_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def save_backbone(path: Path, seed: int = 7) -> nn.Module:
    """Save a timm classifier with 9 classes."""
    torch.manual_seed(seed)
    backbone = timm.create_model(TINY, num_classes=9)
    torch.save(backbone.state_dict(), path)
    return backbone


def test_none_creates_random_weights():
    model, config, info = start("none", model_name=TINY, num_rows=3)
    assert (config, info) == (ModelConfig(TINY, 3, 4, SIZE), None)
    assert (model.num_rows, model.wordvec_dim) == (3, 4)
    assert not equal_weights(model, start("none", model_name=TINY, num_rows=3)[0])


def test_default_is_the_released_coco_script():
    with torch.device("meta"):
        _, config, _ = start("none", image_size=None)
    assert config == ModelConfig("tresnet_m", 2, 4, 224)


def test_auto_loads_the_weights_that_it_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--model-path auto: no weights for {TINY}"):
        start("auto", model_name=TINY)
    backbone = save_backbone(tmp_path / f"{TINY}.pth")
    model, _, info = start("auto", model_name=TINY)
    assert torch.equal(model.backbone.conv1[0].weight, backbone.conv1[0].weight)
    assert info is None


def test_timm_loads_pretrained_weights(monkeypatch):
    asked = []
    create = timm.create_model

    def fake(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", fake)
    start("timm", model_name=TINY)
    start("none", model_name=TINY)
    assert asked == [(TINY, True), (TINY, False)]


@pytest.mark.parametrize("pretrain_backbone", [None, 1])
def test_backbone_file_gets_a_fresh_head(pretrain_backbone, tmp_path):
    backbone = save_backbone(tmp_path / "b.pth")
    model, config, info = start(
        tmp_path / "b.pth", model_name=TINY, num_rows=5, pretrain_backbone=pretrain_backbone, num_classes=9
    )
    assert (config.model_name, info, model.embedding.weight.shape) == (TINY, None, (20, 96))
    for key, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, backbone.state_dict()[key]), key


@pytest.mark.parametrize("pretrain_backbone", [None, 0])
def test_sdl_checkpoint_is_continued(pretrain_backbone, tmp_path):
    saved = save_tiny(tmp_path / "x.ckpt", settings={"epoch": 4})
    model, config, info = start(tmp_path / "x.ckpt", pretrain_backbone=pretrain_backbone)
    assert equal_weights(model, saved)
    assert (config, info.settings) == (ModelConfig(TINY, 2, 4, SIZE), {"epoch": 4})


@pytest.mark.parametrize("pretrain_backbone", [0, 1])
@pytest.mark.parametrize(("flag", "size"), [(None, SIZE), (2 * SIZE, 2 * SIZE)])
def test_interpolation_and_image_size_of_an_sdl_checkpoint_are_kept(pretrain_backbone, flag, size, tmp_path):
    config = ModelConfig(TINY, 2, 4, SIZE, "bicubic")
    save_checkpoint(tmp_path / "x.ckpt", tiny_model(), CheckpointInfo("sdl", config, make_toy_split()))
    _, found, _ = start(tmp_path / "x.ckpt", pretrain_backbone=pretrain_backbone, image_size=flag)
    assert found == ModelConfig(TINY, 2, 4, size, "bicubic")


def test_training_continues_a_release_file_with_bilinear_images(tmp_path, monkeypatch):
    save_tiny(tmp_path / "x.ckpt")
    info = CheckpointInfo("release", ModelConfig(TINY, 2, 4, SIZE, "bicubic"), make_toy_split())
    monkeypatch.setattr("src.training.initial_model.load_checkpoint", lambda path, **expected: (tiny_model(), info))
    assert start(tmp_path / "x.ckpt")[1].interpolation == "bilinear"


@pytest.mark.parametrize("name", [None, TINY])
@pytest.mark.parametrize(("flag", "rows"), [(None, 3), (5, 5)])
def test_backbone_of_an_sdl_checkpoint_gets_a_fresh_head(name, flag, rows, tmp_path):
    saved = save_tiny(tmp_path / "x.ckpt", tiny_model(num_rows=3))
    # another word-vector length: the head could not be kept
    model, found, info = start(tmp_path / "x.ckpt", model_name=name, num_rows=flag, wordvec_dim=6, pretrain_backbone=1)
    assert equal_weights(model.backbone, saved.backbone)
    assert (found, info) == (ModelConfig(TINY, rows, 6, SIZE), None)
    assert (model.num_rows, model.wordvec_dim) == (rows, 6)


def test_backbone_of_another_image_size_is_refused(tmp_path):
    save_tiny(tmp_path / "vit.ckpt", name="test_vit")
    with pytest.raises(UserError, match=r"does not fit the model: 1 wrong shapes: pos_embed"):
        start(tmp_path / "vit.ckpt", pretrain_backbone=1, image_size=2 * SIZE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_rows": 3}, "--num_rows 3: .* holds a model with 2"),
        ({"wordvec_dim": 5}, "--wordvec_dim 5: .* holds a model with 4"),
        ({"model_name": "tresnet_m"}, "--model-name tresnet_m: .* holds a model with test_resnet"),
        ({"model_name": "tresnet_m", "pretrain_backbone": 1}, "--model-name tresnet_m: .* holds a model with"),
    ],
)
def test_flags_that_contradict_an_sdl_checkpoint_are_user_errors(flags, message, tmp_path):
    save_tiny(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        start(tmp_path / "x.ckpt", **flags)


def test_continuing_needs_an_sdl_model(tmp_path):
    save_backbone(tmp_path / "b.pth")
    for path in (tmp_path / "b.pth", "none", "auto", "timm"):
        with pytest.raises(UserError, match=r"--pretrain-backbone 0: .* is no SDL model; use --pretrain-backbone 1"):
            start(path, model_name=TINY, pretrain_backbone=0)


def test_missing_file_and_wrong_number_of_classes_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        start(tmp_path / "none.pth", model_name=TINY)
    save_backbone(tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"--num-classes 1000: .*fc\.weight has 9"):
        start(tmp_path / "b.pth", model_name=TINY, num_classes=1000)


@pytest.mark.parametrize("model_path", ["none", "timm", "sdl"])
def test_number_of_classes_needs_a_classifier(model_path, tmp_path):
    if model_path == "sdl":
        save_tiny(tmp_path / "x.ckpt")
        model_path = str(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"--num-classes 1000: .*has no classifier"):
        start(model_path, model_name=TINY, num_classes=1000)
