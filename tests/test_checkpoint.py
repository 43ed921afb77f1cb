"""Checkpoints: golden output through both released forms, round trips, strictness, and files that must be refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import src.checkpoint.released
from src.checkpoint import CheckpointInfo, ModelConfig, load_checkpoint, save_checkpoint
from src.errors import UserError
from src.models import create_model
from src.models.state_files import read_state_file
from src.utils.digest import side_file
from tests.conftest import GOLDEN
from tests.helpers import (
    SIZE,
    TINY,
    golden_model,
    golden_state,
    make_toy_split,
    save_golden,
    save_tiny,
    tiny_model,
)


@pytest.fixture
def skip_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build released models without weights: for tests that ask what a file says, not what it computes."""

    def create_on_meta(*args: Any, **kwargs: Any) -> torch.nn.Module:
        with torch.device("meta"):
            return create_model(*args, **kwargs)

    monkeypatch.setattr(src.checkpoint.released, "create_model", create_on_meta)
    monkeypatch.setattr(src.checkpoint.released, "load_strictly", lambda *args: None)


def released_file(path: Path, outputs: int = 2100, **release_keys: object) -> Path:
    """Smallest state dict that is recognised as the released code's tresnet_m; see ``skip_weights``."""
    state = {
        "conv1.0.weight": torch.zeros(64, 48, 3, 3),
        "conv1.1.weight": torch.zeros(64),
        "layer1.0.conv1.0.weight": torch.zeros(1),
        "embedding.weight": torch.zeros(outputs, 1),
    }
    torch.save({"model": state, **release_keys} if release_keys else state, path)
    return path


def images(count: int = 2, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change what a checkpoint holds, and remove its side file."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    side_file(path).unlink(missing_ok=True)
    return path


# The released code's files


def test_a_bare_state_dict_gives_the_released_models_output():
    # golden_model is loaded from a bare state dict
    golden = np.load(GOLDEN / "tresnet_m_sdl.npz")
    x = np.random.RandomState(int(golden["input_seed"])).uniform(size=(2, 3, 224, 224)).astype(np.float32)
    with torch.inference_mode():
        output = golden_model()(torch.from_numpy(x))
    torch.testing.assert_close(output, torch.from_numpy(golden["output"]), rtol=1e-4, atol=1e-4)


def test_a_release_file_gives_the_same_model_and_its_labels(tmp_path):
    labels = {3: "sky", 0: "cat", 2: "dog", 1: "sun"}
    path = save_golden(tmp_path / "release.pth", num_classes=4, idx_to_class=labels)
    model, info = load_checkpoint(path)
    assert not model.training
    for (key, tensor), expected in zip(model.state_dict().items(), golden_model().state_dict().values(), strict=True):
        assert torch.equal(tensor, expected), key
    assert info == CheckpointInfo(
        "release", ModelConfig("tresnet_m", 7, 300, 224, "bicubic"), labels=("cat", "sun", "dog", "sky")
    )


def test_a_bare_file_resizes_as_its_train_script_did(tmp_path, skip_weights):
    _, info = load_checkpoint(released_file(tmp_path / "x.pth"))
    assert info == CheckpointInfo("bare", ModelConfig("tresnet_m", 7, 300, 224, "bilinear"))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({2: "c", 0: "a", 1: "b"}, ("a", "b", "c")),
        ({"1": "b", "0": "a"}, ("a", "b")),
        ({np.int64(1): "b", np.int64(0): "a"}, ("a", "b")),
        ({}, ()),
    ],
)
def test_release_labels_are_in_index_order_for_any_dict_order(labels, expected, tmp_path, skip_weights):
    path = released_file(tmp_path / "x.pth", num_classes=np.int64(len(labels)), idx_to_class=labels)
    assert load_checkpoint(path)[1].labels == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({0: "a", 2: "c"}, r"indices of idx_to_class are not 0\.\.1"),
        ({"zero": "a"}, "no dict from indices to names"),
    ],
)
def test_release_labels_with_holes_or_other_indices_are_refused(labels, message, tmp_path, skip_weights):
    with pytest.raises(UserError, match=message):
        load_checkpoint(released_file(tmp_path / "x.pth", idx_to_class=labels, num_classes=2))


@pytest.mark.parametrize(
    ("outputs", "expectations", "rows", "dim"),
    [
        (2100, {}, 7, 300),
        (2100, {"num_rows": 14}, 14, 150),
        (200, {"wordvec_dim": 50}, 4, 50),
        (200, {"num_rows": 4}, 4, 50),
    ],
)
def test_m_and_d_of_a_released_file_follow_from_its_head(outputs, expectations, rows, dim, tmp_path, skip_weights):
    _, info = load_checkpoint(released_file(tmp_path / "x.pth", outputs), **expectations)
    assert (info.config.num_rows, info.config.wordvec_dim) == (rows, dim)


@pytest.mark.parametrize(
    ("outputs", "expectations", "message"),
    [
        (200, {}, "200 outputs, no multiple of the word-vector length 300; give --wordvec_dim or --num_rows"),
        (2100, {"num_rows": 5, "wordvec_dim": 300}, "--num_rows 5: .* holds a model with 7"),
        (2100, {"model_name": "tresnet_l"}, "--model-name tresnet_l: .* holds a model with tresnet_m"),
    ],
)
def test_contradicting_a_released_file_is_refused(outputs, expectations, message, tmp_path, skip_weights):
    with pytest.raises(UserError, match=message):
        load_checkpoint(released_file(tmp_path / "x.pth", outputs), **expectations)


def test_a_released_backbone_without_head_says_how_to_train_one(tmp_path):
    state = {"body.conv1.0.weight": torch.zeros(1), "body.layer1.0.conv1.0.weight": torch.zeros(1)}
    torch.save({"model": state}, tmp_path / "tresnet_m.pth")
    with pytest.raises(UserError, match=r"backbone without the .*head.*train\.py --model-path .*tresnet_m\.pth"):
        load_checkpoint(tmp_path / "tresnet_m.pth")


def test_a_released_model_of_unknown_width_is_refused(tmp_path):
    state = {
        "conv1.1.weight": torch.zeros(65),
        "layer1.0.conv1.0.weight": torch.zeros(1),
        "embedding.weight": torch.zeros(300, 1),
    }
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match="first layer of width 65"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_released_file_with_missing_and_foreign_keys_is_refused(tmp_path):
    state = dict(golden_state())
    state["layer2.0.gone.weight"] = state.pop("layer2.0.conv1.0.0.weight")
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"1 missing keys: .*layer2\.0\.conv1\.conv\.weight; 1 unexpected.*gone"):
        load_checkpoint(tmp_path / "x.pth")


# This project's file


def full_info(split: Any) -> CheckpointInfo:
    extra = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    return CheckpointInfo(
        "sdl",
        ModelConfig(TINY, 2, 4, SIZE, "bicubic"),
        split,
        labels=split.labels,
        extra_words=("river", "crème brûlée", "日本"),
        extra_vectors=extra,
        metrics={"zero_shot.F1@3": 12.5, "generalized.mAP": 7.25},
        settings={"lr": 2.5e-5, "data": "images", "seed": None, "epoch": 3},
    )


def test_round_trip_keeps_weights_outputs_and_info(tmp_path):
    model, split = tiny_model().train(), make_toy_split()
    info = full_info(split)
    save_checkpoint(tmp_path / "x.ckpt", model, info)
    assert model.training  # saving changes no mode
    loaded, found = load_checkpoint(tmp_path / "x.ckpt", model_name=TINY, num_rows=2, wordvec_dim=4)
    assert not any(layer.training for layer in loaded.modules())
    for (key, tensor), expected in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected), key
    with torch.inference_mode():
        assert torch.equal(loaded(images()), model.eval()(images()))
    for name in ("kind", "config", "labels", "extra_words", "metrics", "settings"):
        assert getattr(found, name) == getattr(info, name), name
    assert torch.equal(found.extra_vectors, info.extra_vectors)
    assert (found.split.name, found.split.labels, found.split.seen, found.split.unseen) == (
        split.name,
        split.labels,
        split.seen,
        split.unseen,
    )
    assert torch.equal(found.split.word_vectors, split.word_vectors)
    assert found.versions["torch"] == torch.__version__
    assert found.versions["timm"] == timm.__version__
    assert found.versions["python"].startswith("3.")


def test_a_model_for_one_input_size_comes_back_at_that_size(tmp_path):
    save_tiny(tmp_path / "vit.ckpt", name="test_vit")
    model, info = load_checkpoint(tmp_path / "vit.ckpt")
    assert info.config.image_size == SIZE
    assert model.backbone.pos_embed.shape[1] == (SIZE // 16) ** 2 + 1


@pytest.mark.parametrize("half", [False, True])
def test_the_file_holds_no_objects_but_tensors_and_containers(half, tmp_path):
    save_checkpoint(tmp_path / "x.ckpt", tiny_model(), full_info(make_toy_split()), half=half)
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)  # raises on anything else
    assert content["format"] == "sdl-checkpoint/1"


def test_half_precision_halves_the_file_and_keeps_the_one_dimensional_weights(tmp_path):
    model, split = tiny_model(), make_toy_split()
    model.backbone.layer1[0].bn1.running_var[0] = 1e6  # beyond the range of half precision
    info = full_info(split)
    for name, half in (("full", False), ("half", True)):
        save_checkpoint(tmp_path / name, model, info, half=half)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "full").stat().st_size
    content = read_state_file(tmp_path / "half")
    for key, tensor in content["state_dict"].items():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float16 if tensor.ndim >= 2 else torch.float32), key
    assert (content["split"]["word_vectors"].dtype, content["extra_vectors"].dtype) == (torch.float16, torch.int8)
    loaded, found = load_checkpoint(tmp_path / "half")
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in loaded.state_dict().values())
    assert found.split.word_vectors.dtype == found.extra_vectors.dtype == torch.float32
    torch.testing.assert_close(found.split.word_vectors, split.word_vectors, rtol=1e-3, atol=1e-3)
    assert loaded.backbone.layer1[0].bn1.running_var[0] == 1e6
    with torch.inference_mode():
        expected = model(images())
        torch.testing.assert_close(loaded(images()), expected, rtol=0.01, atol=0.01 * float(expected.abs().max()))


def test_missing_unexpected_and_reshaped_keys_are_all_named(tmp_path):
    save_tiny(tmp_path / "x.ckpt")

    def spoil(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        state["backbone.stranger.weight"] = state.pop("backbone.conv1.0.weight")
        state["embedding.weight"] = state["embedding.weight"][:-1]
        del state["backbone.layer1.0.bn1.running_var"]

    with pytest.raises(UserError) as caught:
        load_checkpoint(edit(tmp_path / "x.ckpt", spoil))
    message = str(caught.value)
    assert "x.ckpt does not fit the model" in message
    assert "2 missing keys: backbone.conv1.0.weight, backbone.layer1.0.bn1.running_var" in message
    assert "1 unexpected keys: backbone.stranger.weight" in message
    assert "1 wrong shapes: embedding.weight (7, 96) instead of (8, 96)" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format="sdl-checkpoint/2"), "has the format 'sdl-checkpoint/2'; this version"),
        (lambda content: content.pop("split"), "incomplete checkpoint of this project: .*split"),
        (lambda content: content["config"].pop("image_size"), "incomplete checkpoint"),
        (lambda content: content["config"].update(colour="blue"), "incomplete checkpoint"),
        (lambda content: content["config"].update(model_name="no_net"), "no_net: no such backbone"),
        (lambda content: content["state_dict"].update(note="hello"), "incomplete checkpoint"),
        (lambda content: content["split"].update(seen=[0, 99]), "label columns outside 0..5: 99"),
        (lambda content: content["split"].update(unseen=[0, 5]), "both seen and unseen: tag0"),
    ],
)
def test_a_damaged_description_is_refused(change, message, tmp_path):
    save_tiny(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        load_checkpoint(edit(tmp_path / "x.ckpt", change))


# Files that are no checkpoint


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(UserError, match=f"no such file: {path}"):
            load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"hello world\n", b"\xff\xd8\xff\xe0 an image", b"\x80\x02}q\x00"])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth (cannot be read|is no checkpoint|holds a dict)"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_checkpoint_that_was_cut_short_is_refused(share, tmp_path):
    save_tiny(tmp_path / "x.ckpt")
    side_file(tmp_path / "x.ckpt").unlink()
    whole = (tmp_path / "x.ckpt").read_bytes()
    (tmp_path / "x.ckpt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"x\.ckpt cannot be read; it is cut short or no PyTorch file"):
        load_checkpoint(tmp_path / "x.ckpt")


class Payload:
    """A pickle that writes a file when it is loaded carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "torch-old", "pickle", "inside"])
def test_a_malicious_pickle_is_refused_and_not_executed(form, tmp_path):
    path, marker = tmp_path / "x.pth", tmp_path / "marker"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Payload(marker)))
    elif form == "inside":
        torch.save({"model": {"weight": torch.zeros(1)}, "idx_to_class": Payload(marker)}, path)
    else:
        torch.save({"model": Payload(marker)}, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(UserError, match=r"x\.pth .*(not safe to load|cannot be read)") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)  # PyTorch's own message advises loading it unsafely
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()  # the payload does work
    assert marker.exists()


# Saving whole or not at all


def test_a_full_disk_is_a_user_error_that_leaves_the_previous_file(tmp_path):
    resource = pytest.importorskip("resource", reason="limits file sizes as POSIX systems can")
    model = save_tiny(tmp_path / "x.ckpt")
    before = (tmp_path / "x.ckpt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*x\.ckpt"):
            save_tiny(tmp_path / "x.ckpt", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(tmp_path)) == ["x.ckpt", "x.ckpt.sha256"]
    assert (tmp_path / "x.ckpt").read_bytes() == before
