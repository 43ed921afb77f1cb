"""Weight files as other training tools save them: read without running anything, and found behind keys and prefixes."""

from __future__ import annotations

import argparse
import collections
import pickle
import types
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from src.checkpoint import load_checkpoint
from src.config.train import ModelSettings
from src.errors import UserError
from src.models import SDLModel
from src.models.backbones import load_backbone
from src.models.layouts import find_weights
from src.models.state_files import read_state_file
from src.training.initial_model import initial_model
from tests.helpers import TINY, golden_state, tiny_model


class Config(dict):
    """Stands for a class of another tool, such as omegaconf's or mmengine's."""


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return timm.create_model(TINY, num_classes=9).state_dict()


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor / 2 if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def loaded(path: Path, **options: Any) -> dict[str, Tensor]:
    model = tiny_model()
    load_backbone(model, TINY, path, **options)
    return model.backbone.state_dict()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


def of_lightning(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(2)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(0.1), "dir": PurePosixPath("a")}},
        "optimizer_states": [torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": Config(lr=0.1, net=Config(name="x")),
    }


TOOLS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "timm": lambda state: {"arch": TINY, "state_dict": state, "args": argparse.Namespace(a=1), "best": np.float64(1)},
    "lightning": of_lightning,
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled inside": lambda state: {key.replace("layer1.", "layer1._orig_mod."): one for key, one in state.items()},
    "DataParallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "compiled DDP": lambda state: {"model": prefixed(state, "_orig_mod.module.")},
    "FSDP": lambda state: prefixed(state, "_fsdp_wrapped_module."),
    "model_state_dict": lambda state: {"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "net": lambda state: {"net": state, "acc": 99.0},
    "nested": lambda state: {"checkpoint": {"model": {"module": state}}},
    "part of a detector": lambda state: {"model": {**prefixed(state, "backbone.body."), "rpn.weight": torch.ones(3)}},
    "average alone": lambda state: {"model_ema": state},
    "averaged model": lambda state: {"n_averaged": torch.tensor(4), **prefixed(state, "module.")},
    "ordered": lambda state: collections.OrderedDict(state),
    "default dict": lambda state: collections.defaultdict(dict, model=state),
    "another dict": lambda state: {"state_dict": Config(state)},
    "parameters": lambda state: {key: nn.Parameter(one, requires_grad=False) for key, one in state.items()},
    "without counters": lambda state: {key: one for key, one in state.items() if "num_batches" not in key},
    "half": lambda state: {key: one.half() if one.is_floating_point() else one for key, one in state.items()},
    "NumPy": lambda state: {"model": {key: one.numpy() for key, one in state.items()}, "best": np.float32(0.5)},
    "odd values": lambda state: {
        "state_dict": state, "names": np.array(["a", "é"]), "dtype": torch.float16, "when": types.SimpleNamespace(a=1),
        "scores": np.zeros((2, 3), order="F"), "text": np.str_("x"), "set": {1, 2}, "bytes": b"\x00\xff", "z": 1j,
        "device": torch.device("cpu"), "size": torch.Size([1, 2]), "big": 2**300, "sparse": torch.eye(3).to_sparse(),
        "flag": np.bool_(True), "type": np.dtype(">i4"), "generator": torch.get_rng_state(), "class": Config,
    },
}  # fmt: skip


@pytest.mark.parametrize("form", ["zip", "older", "protocol 4"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_of_another_tool_starts_training(tool, form, state, tmp_path):
    options = {"older": {"_use_new_zipfile_serialization": False}, "protocol 4": {"pickle_protocol": 4}}.get(form, {})
    torch.save(TOOLS[tool](state), tmp_path / "x.pth", **options)
    exact = (
        {**state, **{k: v.half().float() for k, v in state.items() if v.is_floating_point()}}
        if tool == "half"
        else state
    )
    if tool == "without counters":
        exact = {key: torch.zeros_like(one) if "num_batches" in key else one for key, one in state.items()}
    assert same(loaded(tmp_path / "x.pth"), exact)


def test_a_whole_pickled_model_gives_its_weights(state, tmp_path):
    model = timm.create_model(TINY, num_classes=9)
    model.load_state_dict(state)
    for whole in (model, {"epoch": 1, "model": nn.DataParallel(model)}, AveragedModel(model)):
        torch.save(whole, tmp_path / "x.pth")
        assert same(loaded(tmp_path / "x.pth"), state)


def test_safetensors_are_read_whatever_their_name(state, tmp_path):
    for name in ("model.safetensors", "weights.bin"):
        save_file(state, tmp_path / name, metadata={"format": "pt"})
        assert same(loaded(tmp_path / name), state)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_arrays_are_read(protocol, state, tmp_path):
    content = {"model": {key: one.numpy() for key, one in state.items()}, "__author__": "somebody"}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    assert same(loaded(tmp_path / "x.pkl"), state)


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_scalars_of_both_versions_of_numpy_are_numbers(module, tmp_path):
    content = {"number": np.float64(0.5), "whole": np.int32(7), "text": np.str_("é"), "array": np.arange(3)}
    raw = pickle.dumps(content, protocol=2).replace(b"numpy._core", module.encode())
    (tmp_path / "x.pkl").write_bytes(raw)
    found = read_state_file(tmp_path / "x.pkl")
    assert (found["number"], found["whole"], found["text"], found["array"].tolist()) == (0.5, 7, "é", [0, 1, 2])


# A moving average beside the weights


BESIDE: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "timm": lambda state: {"state_dict": state, "state_dict_ema": halved(state), "args": argparse.Namespace()},
    "model_ema": lambda state: {"model": state, "model_ema": prefixed(halved(state), "module.")},
    "nested": lambda state: {"ema": {"decay": 0.9, "module": halved(state)}, "model": state},
    "DINO": lambda state: {"student": prefixed(state, "module."), "teacher": prefixed(halved(state), "backbone.")},
    "one dict": lambda state: {"state_dict": {**prefixed(state, "model."), **prefixed(halved(state), "model_ema.")}},
    "bare dict": lambda state: {**state, **prefixed(halved(state), "ema_model.")},
}  # fmt: skip


@pytest.mark.parametrize("tool", BESIDE)
def test_weights_or_their_average_are_taken_and_said(tool, state, tmp_path, capsys):
    torch.save(BESIDE[tool](state), tmp_path / "x.pth")
    settings = {"model_name": TINY, "model_path": str(tmp_path / "x.pth"), "num_rows": 2}
    model = initial_model(ModelSettings(**settings), 4)[0]
    assert same(model.backbone.state_dict(), state)
    assert "--use-ema takes their average in " in capsys.readouterr().err
    model = initial_model(ModelSettings(**settings, use_ema=True), 4)[0]
    assert same(model.backbone.state_dict(), halved(state))
    assert capsys.readouterr().err == ""


def test_no_average_or_two_sets_of_weights_are_refused(state, tmp_path):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"--use-ema: .*holds no moving average of weights; leave the flag out"):
        loaded(tmp_path / "x.pth", use_ema=True)
    torch.save({**prefixed(state, "generator."), **prefixed(state, "critic.")}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"several sets of weights that fit: generator\., critic\.; keep one"):
        loaded(tmp_path / "x.pth")


def test_of_several_sets_of_weights_the_one_that_fits_is_taken(state, tmp_path):
    critic = {f"layer{number}.weight": torch.ones(1) for number in range(len(state) + 1)}
    torch.save({"model": critic, "encoder": state}, tmp_path / "x.pth")
    assert same(loaded(tmp_path / "x.pth"), state)
    torch.save({"last": state, "best": halved(state)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="several sets of weights that fit: last, best; keep one"):
        loaded(tmp_path / "x.pth")


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_plain_pickle_of_tensors_and_of_arrays_with_swapped_axes_is_read(protocol, state, tmp_path):
    convolutions = {key for key, value in state.items() if value.ndim == 4}
    arrays = {key: np.moveaxis(np.moveaxis(state[key].numpy(), 1, -1).copy(), -1, 1) for key in convolutions}
    for content in (state, {**state, **arrays}):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
        assert same(loaded(tmp_path / "x.pkl"), state)


@pytest.mark.parametrize("wrap", ["model.", "_orig_mod.", "net.module."])
def test_a_wrapped_model_of_the_released_code_tags(wrap, tmp_path):
    torch.save({"state_dict": prefixed(golden_state(), wrap), "hyper_parameters": Config(a=1)}, tmp_path / "x.ckpt")
    model, info = load_checkpoint(tmp_path / "x.ckpt")
    assert isinstance(model, SDLModel)
    assert (info.kind, info.config.num_rows) == ("bare", 7)


# What is not read is named


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (torch.eye(3).to_sparse(), r"torch\._utils\._rebuild_sparse_tensor"),
        (Config(a=1), r"test_foreign_checkpoints\.Config"),
        (np.array([None]), "numpy.ndarray"),
    ],
)
def test_a_weight_that_is_no_plain_tensor_is_named_by_its_key(odd, named, state, tmp_path):
    torch.save({"state_dict": {**state, "conv1.0.weight": odd}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=named) as caught:
        loaded(tmp_path / "x.pth")
    assert "conv1.0.weight" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("conv1.0.weight", lambda one: one * torch.nan, r"NaN or infinite: conv1\.0\.weight"),
        ("bn1.running_var", lambda one: -one, r"variances below zero: bn1\.running_var"),
        ("conv1.0.weight", lambda one: one.long(), r"wrong types: conv1\.0\.weight torch\.int64 instead of"),
        ("conv1.0.weight", lambda one: one[:1], r"1 wrong shapes: conv1\.0\.weight"),
    ],
)
def test_weights_that_cannot_be_right_are_refused(key, change, message, state, tmp_path):
    assert key in state
    torch.save({**state, key: change(state[key])}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        loaded(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty$"),
        (bytes(10240), "begins with zeros only"),  # also the end mark of a tar archive
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "run git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "it is a web page"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_other_files_are_recognised(content, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state_file(tmp_path / "x.pth")


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize("in_zip", [True, False])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (quantised, "conv.weight is torch._utils._rebuild_qtensor; .*dequantize"),
        (lambda: (quantised(), None), "conv.weight holds torch._utils._rebuild_qtensor; .*dequantize"),
        (lambda: torch.eye(3).to_sparse(), "conv.weight is torch._utils._rebuild_sparse_tensor; .*to_dense"),
    ],
)
def test_tensors_that_are_not_plain_are_named(value, message, in_zip, tmp_path):
    content = {"scale": torch.ones(2), "conv.weight": value(), "bias": torch.zeros(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"state_dict": content}, tmp_path / "x.pth", _use_new_zipfile_serialization=in_zip)
    read = read_state_file(tmp_path / "x.pth")["state_dict"]
    assert torch.equal(read["scale"], torch.ones(2))
    assert torch.equal(read["bias"], torch.zeros(3))
    with pytest.raises(UserError, match=rf"x\.pth: holds other objects than plain tensors: {message}"):
        find_weights(read, tmp_path / "x.pth")


@pytest.mark.parametrize("value", [5, None, "weights", [torch.ones(1)], torch.ones(1)])
def test_files_of_one_value_are_no_checkpoints(value, tmp_path):
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"is no checkpoint: it holds one value of type {type(value).__name__} "):
        read_state_file(tmp_path / "x.pth")
