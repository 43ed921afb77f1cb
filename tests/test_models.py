"""create_model: shapes, layout, normalisation inside the model, options, and InPlaceABN."""

from __future__ import annotations

import copy
import sys
import types
from functools import partial

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import src.checkpoint.released
from src.checkpoint import CheckpointInfo, ModelConfig, load_checkpoint, save_checkpoint
from src.errors import UserError
from src.models import SDLModel, create_model
from src.models.inplace_abn import plain_state_dict, use_inplace_abn
from src.models.sdl_model import enable_grad_checkpointing
from src.scoring import principal_vectors
from tests.helpers import SIZE, TINY, InPlaceABN, live_norms, make_toy_split, tiny_model


@pytest.fixture(params=["stand-in", "real"])
def abn_package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    """The InPlaceABN class that the code finds: tests/helpers.py's, and the compiled one where it is installed."""
    if request.param == "real":
        return pytest.importorskip("inplace_abn", reason="needs the optional, compiled inplace-abn package").InPlaceABN
    module = types.ModuleType("inplace_abn")
    module.InPlaceABN = InPlaceABN
    monkeypatch.setitem(sys.modules, "inplace_abn", module)
    return InPlaceABN


def images(count: int = 2, size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("num_rows", "dim"), [(1, 1), (2, 5), (7, 3)])
def test_output_is_d_times_m_numbers_read_as_a_matrix_with_m_columns(num_rows, dim):
    model = tiny_model(num_rows=num_rows, wordvec_dim=dim)
    with torch.no_grad():
        output = model(images())
        features = model.forward_features(images())
    assert output.shape == (2, dim * num_rows)
    assert features.shape == (2, model.num_features)
    assert {key for key in model.state_dict() if not key.startswith("backbone.")} == {"embedding.weight"}
    weights = model.embedding.weight.detach()
    for m in range(num_rows):  # principal vector m is x[m::M]
        expected = features @ weights[m::num_rows].T
        torch.testing.assert_close(output.view(2, dim, num_rows)[:, :, m], expected)
        torch.testing.assert_close(principal_vectors(output, dim)[:, m], expected)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        model = create_model()
    assert model.embedding.weight.shape == (7 * 300, 2048)
    assert type(model.backbone).__name__ == "TResNet"
    assert len(model.backbone.body.layer1) == 3  # tresnet_m


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("tresnet_m", (0, 0, 0), (1, 1, 1)),
        ("tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("test_efficientnet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_images_in_0_1_reach_the_backbone_normalised_exactly_once(name, mean, std):
    model = create_model(name, 1, 1)
    model.backbone = nn.Identity()  # forward_features now returns what the backbone would see
    x = images()
    expected = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(model.forward_features(x), expected)


@pytest.mark.parametrize(
    ("name", "hint"), [("tresnet_mm", "tresnet_m"), ("resnet5000", "timm.list_models"), ("tresnet_m.no_such_tag", "")]
)
def test_an_unknown_backbone_is_named_with_a_remedy(name, hint):
    with pytest.raises(UserError, match=rf"--model-name {name}: no such backbone.*{hint}"):
        create_model(name)


def test_options_reach_the_backbone():
    assert create_model(TINY, 1, 2, drop_rate=0.3).backbone.drop_rate == 0.3


def test_a_failed_download_is_a_user_error_and_another_failure_is_not(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=f"weights of {TINY}.*no route to host"):
        create_model(TINY, pretrained=True)
    with pytest.raises(OSError, match="no route"):
        create_model(TINY)


@pytest.mark.parametrize("size", [32, 64])
def test_a_backbone_for_one_size_is_built_for_image_size(size):
    model = create_model("test_vit", 2, 3, image_size=size).eval()
    assert model.backbone.pos_embed.shape[1] == (size // 16) ** 2 + 1
    with torch.inference_mode():
        assert model(images(size=size)).shape == (2, 6)


def test_a_backbone_for_any_size_ignores_image_size():
    assert tiny_model(size=32).state_dict().keys() == tiny_model(size=64).state_dict().keys()
    with torch.inference_mode():
        assert tiny_model(size=32)(images(size=64)).shape == (2, 8)


@pytest.mark.parametrize("name", [TINY, "test_vit"])
def test_grad_checkpointing_changes_neither_value_nor_gradient(name):
    plain = tiny_model(name).train()
    saving = create_model(name, 2, 4, image_size=SIZE, grad_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    assert saving.backbone.grad_checkpointing
    losses = []
    for model in (plain, saving):
        loss = model(images(4)).square().sum()
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0])
    for (key, weight), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(other.grad, weight.grad, msg=lambda text, key=key: f"{key}: {text}")


def test_a_backbone_without_grad_checkpointing_is_a_user_error():
    class Asserts(nn.Module):
        def set_grad_checkpointing(self, enable=True):
            assert not enable, "gradient checkpointing not supported"

    for backbone in (nn.Flatten(), Asserts()):
        with pytest.raises(UserError, match="--grad-checkpointing: timm's some_net does not support it"):
            enable_grad_checkpointing(backbone, "some_net")


SMALL = {"layers": [1, 1, 1, 1], "width_factor": 0.25}  # a TResNet with all its kinds of blocks, quick to run


def plain_and_abn() -> tuple[SDLModel, SDLModel]:
    """A small TResNet with positive scales, and the same with InPlaceABN."""
    torch.manual_seed(0)
    plain = create_model("tresnet_m", 2, 4, **SMALL)
    live_norms(plain)
    other = copy.deepcopy(plain)
    use_inplace_abn(other.backbone, "tresnet_m")
    return plain, other


def norm_layers(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if hasattr(layer, "running_var")]


def test_inplace_abn_absent_names_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "inplace_abn", None)
    with pytest.raises(UserError, match=r"--inplace-abn needs .*--no-build-isolation --no-cache-dir inplace-abn"):
        create_model("tresnet_m", 2, 4, inplace_abn=True)


def test_inplace_abn_is_for_tresnet_only(abn_package):
    with pytest.raises(UserError, match=f"--inplace-abn: {TINY} is no TResNet"):
        create_model(TINY, 2, 4, inplace_abn=True)


def test_the_inplace_abn_option_replaces_every_norm_layer(abn_package):
    plain, model = (create_model("tresnet_m", 2, 4, inplace_abn=option, **SMALL) for option in (False, True))
    assert len(norm_layers(model)) == len(norm_layers(plain)) == 14
    assert all(isinstance(layer, BatchNormAct2d) for layer in norm_layers(plain))
    assert all(isinstance(layer, abn_package) for layer in norm_layers(model))


def test_inplace_abn_equals_plain_batch_norm_in_value(abn_package):
    plain, abn = plain_and_abn()
    with torch.inference_mode():
        # the scales' 1e-5 would show, if it were forgotten
        torch.testing.assert_close(abn.eval()(images()), plain.eval()(images()), rtol=2e-6, atol=2e-6)


def test_inplace_abn_equals_plain_batch_norm_in_gradient_and_statistics(abn_package):
    # In float64: InPlaceABN's backward pass inverts the activation (slope 1e-3), which amplifies rounding.
    plain, abn = (model.double().train() for model in plain_and_abn())
    with torch.no_grad():
        for layer, other in zip(norm_layers(plain), norm_layers(abn), strict=True):
            torch.testing.assert_close(other.weight, layer.weight - 1e-5, rtol=0, atol=2e-7)  # rounded to float32
            other.weight.copy_(layer.weight - 1e-5)
    losses = []
    for model in (plain, abn):
        loss = model(images(8).double()).square().mean()
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0])
    gradients = [{key: weight.grad for key, weight in model.named_parameters()} for model in (plain, abn)]
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[0].items():
        assert (gradients[1][key] - expected).norm() < 1e-6 * expected.norm(), key
    state = plain.state_dict()
    for key, value in plain_state_dict(abn).items():
        torch.testing.assert_close(value, state[key], msg=lambda text, key=key: f"{key}: {text}")


def test_a_checkpoint_of_an_inplace_abn_model_loads_into_a_plain_one(abn_package, tmp_path, monkeypatch):
    _, abn = plain_and_abn()
    with torch.no_grad():  # training may take w below zero, where the function still has the scale |w| + 1e-5
        for layer in norm_layers(abn):
            layer.weight[::2].neg_()
    split = make_toy_split(dim=4)
    save_checkpoint(tmp_path / "x.ckpt", abn, CheckpointInfo("sdl", ModelConfig("tresnet_m", 2, 4, SIZE), split))
    monkeypatch.setattr(src.checkpoint.released, "create_model", partial(create_model, **SMALL))
    loaded, _ = load_checkpoint(tmp_path / "x.ckpt")
    assert all(isinstance(layer, BatchNormAct2d) for layer in norm_layers(loaded))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images()), abn.eval()(images()), rtol=2e-6, atol=2e-6)


def test_a_negative_scale_has_no_inplace_abn_form(abn_package):
    model = create_model("tresnet_m", 2, 4, **SMALL)
    with torch.no_grad():
        model.backbone.body.layer3[0].conv1.bn.weight[5] = -0.25
    with pytest.raises(UserError, match=r"--inplace-abn: .*negative.*-0\.25"):
        use_inplace_abn(model.backbone, "tresnet_m")


def test_inplace_abn_keeps_the_mode_and_the_step_counter(abn_package):
    model = create_model("tresnet_m", 2, 4, **SMALL)
    model.backbone.body.conv1.bn.num_batches_tracked.fill_(12)
    model.eval()
    use_inplace_abn(model.backbone, "tresnet_m")
    assert not any(layer.training for layer in model.modules())
    assert plain_state_dict(model)["backbone.body.conv1.bn.num_batches_tracked"] == 12
