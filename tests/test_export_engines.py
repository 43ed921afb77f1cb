"""PyTorch and ONNX Runtime: the choice between them, equal tags and metrics, and error messages."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import export
import infer
import train
import validate
from src.checkpoint.digest import save_with_digest
from src.config.infer import infer_parser, infer_settings
from src.errors import UserError
from src.exported.engines import open_model
from src.exported.session import ExportedModel
from src.inference.run import recorded_settings, tag_images
from src.inference.tagger import Tagger
from src.options import Runtime, TagRule
from tests.helpers import save_tiny, write_images
from tests.script_helpers import PLAIN, TINY, call, child, succeeded, user_error, without_curves
from tests.test_tagger import drawn


@pytest.fixture(scope="module")
def pair(sample, tmp_path_factory) -> Path:
    """``m.ckpt`` of a short training on the sample, with ``m.onnx`` beside it and ``m8.onnx`` in 8 bits."""
    folder = tmp_path_factory.mktemp("pair")
    flags = ("--data", sample, *TINY, *PLAIN, "--num-epochs", 1, "--seed", 1, "--lr", 3e-3)
    with without_curves():
        succeeded(call(train.main, *flags, "--path_output", folder / "run"))
    shutil.move(folder / "run" / "model-last.ckpt", folder / "m.ckpt")
    succeeded(call(export.main, "--model_path", folder / "m.ckpt", "--output", folder / "m.onnx"))
    int8 = ("--int8", "--calibration", sample, "-j", 0)
    succeeded(call(export.main, "--model_path", folder / "m.ckpt", "--output", folder / "m8.onnx", *int8))
    write_images(folder / "images", 5)
    return folder


def copies(pair: Path, folder: Path, *names: str) -> list[Path]:
    return [Path(shutil.copy(pair / name, folder / name)) for name in names]


def tags_of(path: Path) -> dict[str, list[tuple[str, float]]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {result["image"]: [(tag["label"], tag["score"]) for tag in result["tags"]] for result in content["results"]}


def test_both_engines_give_the_same_tags_as_child_processes(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    imported = {}
    for name, flags in {"ckpt": ("--engine", "torch"), "onnx": ()}.items():
        rest = ("--pic_path", pair / "images", "--no_picture", "--json", tmp_path / f"{name}.json", "-j", 0)
        finished = succeeded(child("infer.py", "--model_path", pair / f"m.{name}", *flags, *rest))
        imported[name] = {line.split("|")[-1].strip() for line in finished.stderr.splitlines()}
    ours, theirs = (tags_of(tmp_path / f"{name}.json") for name in ("ckpt", "onnx"))
    assert ours.keys() == theirs.keys()
    assert len(ours) == 5
    for image, tags in ours.items():
        assert [label for label, _ in tags] == [label for label, _ in theirs[image]]
        assert [score for _, score in tags] == pytest.approx([score for _, score in theirs[image]], abs=1e-4)
    assert "timm" in imported["ckpt"]
    assert not imported["onnx"] & {"timm", "onnx", "onnxscript"}  # they take seconds to import


@pytest.mark.parametrize(
    ("flags", "calls", "threads"),
    [
        (("--batch_size", 4, "-j", 2, "--num_threads", 2), 2, 1),
        (("--batch_size", 4, "-j", 2, "--num_threads", 5), 2, 2),
        (("--batch_size", 4, "-j", 3, "--num_threads", 2), 2, 1),
        (("--batch_size", 4, "-j", 0, "--num_threads", 2), 1, 2),
        (("--batch_size", 5, "-j", 2, "--num_threads", 2), 1, 2),  # no more than a batch
    ],
)
def test_many_images_are_embedded_by_each_thread_with_its_share_of_the_processor(
    pair, tmp_path, monkeypatch, flags, calls, threads
):
    taggers = []

    def recorded(tagger, *arguments, **keywords):
        taggers.append(tagger)
        return tag_images(tagger, *arguments, **keywords)

    monkeypatch.setattr("src.inference.run.tag_images", recorded)
    rest = ("--pic_path", pair / "images", "--no_picture", "--quiet")
    before = torch.get_num_threads()
    try:
        for name in ("m.onnx", "m.ckpt"):
            engine = ("--engine", "torch") if name == "m.ckpt" else ()
            output = ("--json", tmp_path / f"{name}.json")
            succeeded(call(infer.main, "--model_path", pair / name, *engine, *rest, *flags, *output))
    finally:
        torch.set_num_threads(before)
    exported, plain = taggers
    assert (exported.parallel_calls, plain.parallel_calls) == (calls, 1)
    assert exported.model.session.get_session_options().intra_op_num_threads == threads
    ours, theirs = (tags_of(tmp_path / f"{name}.json") for name in ("m.onnx", "m.ckpt"))
    assert list(ours) == list(theirs)
    for image, tags in ours.items():
        assert [label for label, _ in tags] == [label for label, _ in theirs[image]]
        assert [score for _, score in tags] == pytest.approx([score for _, score in theirs[image]], abs=1e-4)


def test_metrics_are_the_same(pair, sample, tmp_path):
    reports = {}
    for name, flags in {
        "torch": (pair / "m.ckpt", "--engine", "torch"),
        "auto": (pair / "m.ckpt",),
        "onnx": (pair / "m.onnx",),
        "int8": (pair / "m8.onnx",),
    }.items():
        json_file = tmp_path / f"{name}.json"
        rest = ("--metadata", sample, "-j", 0, "--device", "cpu", "--json", json_file)
        succeeded(call(validate.main, "--model-path", *flags, *rest))
        reports[name] = json.loads(json_file.read_text(encoding="utf-8"))
    assert {name: report["engine"] for name, report in reports.items()} == {
        "torch": "torch",
        "auto": "onnx float32",
        "onnx": "onnx float32",
        "int8": "onnx int8",
    }
    for name in ("auto", "onnx"):
        assert reports[name]["metrics"] == pytest.approx(reports["torch"]["metrics"], abs=1e-6)
    assert reports["int8"]["metrics"]["generalized.mAP"] == pytest.approx(
        reports["torch"]["metrics"]["generalized.mAP"], abs=15
    )


def test_auto_takes_the_exported_file_of_this_checkpoint_and_says_so_once(pair, capsys):
    tagger = Tagger.load(pair / "m.ckpt")
    assert tagger.engine == "onnx float32"
    assert isinstance(tagger.model, ExportedModel)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(pair / "m.onnx") in line
    assert "--engine torch" in line
    tags = [[(tag.label, tag.unseen) for tag in of] for of in tagger.tag(drawn(), top_k=4)]
    plain = Tagger.load(pair / "m.ckpt", runtime=Runtime("torch"))
    assert plain.engine == "torch"
    assert [[(tag.label, tag.unseen) for tag in of] for of in plain.tag(drawn(), top_k=4)] == tags
    assert capsys.readouterr().err == ""


def test_auto_never_takes_a_stale_an_int8_or_a_broken_file(pair, tmp_path, capsys):
    (checkpoint,) = copies(pair, tmp_path, "m.ckpt")
    beside = tmp_path / "m.onnx"
    assert open_model(checkpoint).engine == "torch"
    assert capsys.readouterr().err == ""
    shutil.copy(pair / "m8.onnx", beside)
    assert open_model(checkpoint).engine == "torch"
    assert "int8" in capsys.readouterr().err
    beside.write_bytes(b"no model")
    assert open_model(checkpoint).engine == "torch"
    assert "is no whole ONNX file" in capsys.readouterr().err
    shutil.copy(pair / "m.onnx", beside)
    assert open_model(checkpoint, Runtime(image_size=64)).engine == "torch"
    assert "32 pixels, not 64" in capsys.readouterr().err
    content = torch.load(checkpoint, weights_only=True)
    save_with_digest(checkpoint, {**content, "metrics": {}})
    assert open_model(checkpoint).engine == "torch"
    assert f"{beside} was made of another version of {checkpoint}" in capsys.readouterr().err


def test_engine_onnx_says_which_command_is_missing(pair, tmp_path):
    (checkpoint,) = copies(pair, tmp_path, "m.ckpt")
    remedy = f"python export.py --model_path {checkpoint} --output {tmp_path / 'm.onnx'}"
    with pytest.raises(UserError, match="no exported model") as error:
        open_model(checkpoint, Runtime("onnx"))
    assert remedy in str(error.value)
    shutil.copy(pair / "m8.onnx", tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"--engine onnx: .*int8"):
        open_model(checkpoint, Runtime("onnx"))
    shutil.copy(pair / "m.onnx", tmp_path / "m.onnx")
    assert open_model(checkpoint, Runtime("onnx")).engine == "onnx float32"
    save_tiny(checkpoint)
    with pytest.raises(UserError, match="was made of another version of"):
        open_model(checkpoint, Runtime("onnx"))


def test_flags_that_need_pytorch_weights(pair, sample, tmp_path):
    image = pair / "images" / "0.png"
    given = ("--model_path", pair / "m.onnx", "--pic_path", image, "--no_picture")
    message = user_error(call(infer.main, *given, "--explain"))
    assert "--explain" in message
    assert "PyTorch weights" in message
    assert "no PyTorch weights" in user_error(call(infer.main, *given, "--engine", "torch"))
    assert "exported for images of 32 pixels" in user_error(call(infer.main, *given, "--input_size", 64))
    assert "--num_rows 3" in user_error(call(infer.main, *given, "--num_rows", 3))
    fit = ("--fit-thresholds", tmp_path / "fitted.ckpt")
    message = user_error(call(validate.main, "--model-path", pair / "m.onnx", "--metadata", sample, *fit))
    assert "--fit-thresholds" in message
    assert "export the copy" in message


def test_explain_uses_pytorch(pair, tmp_path):
    flags = ("--pic_path", pair / "images" / "0.png", "--path_output", tmp_path, "-j", 0)
    finished = succeeded(call(infer.main, "--model_path", pair / "m.ckpt", *flags, "--explain", 1))
    assert "ONNX" not in finished.stderr
    assert (tmp_path / "0-why.png").is_file()


def test_resume_requires_the_same_engine(pair, tmp_path):
    tagger = {name: Tagger.load(pair / name) for name in ("m.onnx", "m8.onnx")}
    args = infer_parser(None).parse_args(["--pic_path", "x", "--model_path", str(pair / "m.ckpt")])
    given, rule = infer_settings(args), TagRule(3)
    plain = recorded_settings(given, Tagger.load(pair / "m.ckpt", runtime=Runtime("torch")), rule)
    settings = [plain, *(recorded_settings(given, each, rule) for each in tagger.values())]
    assert len({each["engine"] for each in settings}) == 3


def test_own_words_and_resume_work_from_the_file_alone(pair, tmp_path):
    label = Tagger.load(pair / "m.onnx").split.labels[0]
    results = tmp_path / "r.json"
    flags = ("--model_path", pair / "m.onnx", "--pic_path", pair / "images", "--no_picture", "-j", 0, "--quiet")
    succeeded(call(infer.main, *flags, "--tags", label, "--only_tags", "--json", results))
    again = succeeded(call(infer.main, *flags, "--tags", label, "--only_tags", "--json", results, "--resume"))
    assert "5 of 5 images are done already" in again.stderr
    assert {name for tags in tags_of(results).values() for name, _ in tags} == {label}


def test_without_onnxruntime_a_checkpoint_still_works(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert open_model(pair / "m.ckpt").engine == "torch"
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="pip install onnxruntime"):
        open_model(pair / "m.onnx")
    with pytest.raises(UserError, match="pip install onnxruntime"):
        open_model(pair / "m.ckpt", Runtime("onnx"))
