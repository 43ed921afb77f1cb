"""Care of checkpoints: side files that survive kills, inspection, and averaged weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import src.checkpoint.released
from src.calibration.thresholds import Calibration
from src.checkpoint import load_checkpoint
from src.checkpoint.__main__ import main
from src.checkpoint.average import average_checkpoints
from src.checkpoint.digest import save_with_digest, write_digest
from src.checkpoint.inspect import describe, inspect_file
from src.data.split import make_split
from src.errors import UserError
from src.inference.tagger import Tagger
from src.models import SDLModel, create_model
from src.utils.digest import check_digest, file_digest, side_file
from tests.conftest import ROOT
from tests.helpers import SIZE, TINY, make_toy_split, save_tiny, tiny_model

OLD, NEW = b"the old content", b"the new content, which is longer"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the content of a checkpoint and remove its side file."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    side_file(path).unlink(missing_ok=True)
    return path


def agrees(path: Path) -> bool | None:
    return check_digest(path)[1]


# Side files


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
@pytest.mark.parametrize("name", ["a.ckpt", "two words.ckpt"])
def test_side_file_has_the_format_of_sha256sum(name, tmp_path):
    (tmp_path / name).write_bytes(NEW)
    digest = write_digest(tmp_path / name)
    printed = subprocess.run(["sha256sum", name], cwd=tmp_path, capture_output=True, check=True).stdout
    assert side_file(tmp_path / name).read_bytes() == printed
    assert check_digest(tmp_path / name) == (digest, True)


def test_check_recognises_good_damaged_and_unknown_files(tmp_path):
    path = tmp_path / "x.ckpt"
    with pytest.raises(UserError, match=r"cannot read .*; give the path of a file"):
        check_digest(path)
    path.write_bytes(OLD)
    assert check_digest(path) == (file_digest(path), None)
    side_file(path).write_text(f"{file_digest(path).upper()} *x.ckpt\r\n")
    assert agrees(path) is True
    for damaged in (OLD[:-1] + b"?", OLD[:-1]):
        path.write_bytes(damaged)
        assert check_digest(path) == (file_digest(path), False)


def test_saving_replaces_both_files_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "x.ckpt"
    for content in ("old", "new", "new"):
        save_with_digest(path, content)
        assert torch.load(path) == content
        assert side_file(path).read_text() == f"{file_digest(path)}  x.ckpt\n"
        assert sorted(os.listdir(path.parent)) == ["x.ckpt", "x.ckpt.sha256"]


def killed_save(path: Path, moment: int) -> bool:
    """Save in a child that is killed before its n-th rename or fsync; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        left = moment

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return real(*arguments)

            return call

        os.replace, os.fsync = dying(os.replace), dying(os.fsync)
        try:
            save_with_digest(path, "new")
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_kill_makes_a_good_file_look_damaged(tmp_path):
    path = tmp_path / "x.ckpt"
    for moment in range(5):  # fsync and rename of the checkpoint, fsync and rename of the side file, not killed
        save_with_digest(path, "old")
        assert killed_save(path, moment) == (moment < 4)
        assert torch.load(path) == ("new" if moment >= 2 else "old")
        assert agrees(path) is (True if moment == 4 else None)


def test_verify_prints_a_verdict_per_file_and_exits_with_1_for_damage(tmp_path, capsys):
    good, bad, plain = (tmp_path / name for name in ("good", "bad", "plain"))
    for path in (good, bad, plain):
        path.write_bytes(OLD)
    write_digest(good)
    write_digest(bad)
    assert main(["verify", str(good), str(plain)]) == 0
    assert capsys.readouterr().out == f"{good}: OK\n{plain}: no side file\n"
    bad.write_bytes(NEW)
    assert main(["verify", str(bad), str(good)]) == 1
    assert capsys.readouterr().out == f"{bad}: DIFFERS\n{good}: OK\n"
    assert main(["verify", str(tmp_path / "none"), str(good)]) == 2
    output = capsys.readouterr()
    assert output.out == f"{good}: OK\n"
    assert "cannot read" in output.err


def test_verify_starts_without_pytorch(tmp_path):
    (tmp_path / "x").write_bytes(OLD)
    code = "import sys, runpy\n" + (
        "try: runpy.run_module('src.checkpoint', run_name='__main__')\n"
        "finally: print(sorted({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "verify", str(tmp_path / "x")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.endswith("no side file\n[]\n")


# Inspection


def calibration(num_labels: int = 6) -> Calibration:
    thresholds = torch.full((num_labels,), torch.nan, dtype=torch.float64)
    thresholds[:2] = 0.5
    return Calibration(thresholds, 0.25, 0.9, 1.5, 2.0, -1.0, 40, 120)


def full_checkpoint(path: Path) -> SDLModel:
    toy = make_toy_split()
    split = make_split(toy.labels, [0, 1, 2], [4, 5], toy.word_vectors, name="toy", source="toy")
    measured = {
        "zero_shot.F1@3": 12.345,
        "zero_shot.mAP": 7.25,
        "zero_shot.num_images": 40,
        "zero_shot.num_labels": 2,
        "generalized.mAP": 9.0,
    }
    return save_tiny(
        path,
        split=split,
        calibration=calibration(),
        metrics=measured,
        settings={"images": "all-images", "lr": 0.001, "freeze_bn": True, "data": None, "overwrite": False, "epoch": 3},
        extra_words=("river", "crème brûlée"),
        extra_vectors=torch.randn(4, 2, generator=torch.Generator().manual_seed(1)),
    )


def test_facts_of_a_checkpoint_of_this_project(tmp_path):
    path = tmp_path / "x.ckpt"
    model = full_checkpoint(path)
    write_digest(path)
    facts = inspect_file(path)
    assert facts["file"] == str(path)
    assert facts["kind"] == "sdl"
    assert facts["bytes"] == path.stat().st_size
    assert facts["sha256"] == file_digest(path)
    assert facts["side_file"] is True
    assert facts["model"] == {
        "model_name": TINY,
        "num_rows": 2,
        "wordvec_dim": 4,
        "image_size": SIZE,
        "interpolation": "bilinear",
        "num_class_words": 0,
    }
    assert facts["weights"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["weights"]["tensors"] == len(model.state_dict())
    assert sum(facts["weights"]["dtypes"].values()) == len(model.state_dict())
    assert facts["weights"]["not_finite"] == {}
    assert {side: facts["labels"][side] for side in ("number", "seen", "unseen", "neither")} == {
        "number": 6,
        "seen": 3,
        "unseen": 2,
        "neither": 1,
    }
    assert facts["labels"]["neither_names"] == ["tag3"]
    assert facts["words"] == {"dim": 4, "probes": ["river"], "further": 2}
    assert facts["calibration"]["own_thresholds"] == 2
    assert facts["calibration"]["seen_bias"] == 1.5
    assert facts["metrics"]["images"] == "all-images"
    assert facts["settings"]["epoch"] == 3
    assert set(facts["versions"]) == {"python", "torch", "timm"}


def test_description_shows_every_fact(tmp_path):
    path = tmp_path / "x.ckpt"
    full_checkpoint(path)
    write_digest(path)
    text = " ".join(describe(inspect_file(path)).split())
    for part in (
        "checkpoint of this project",
        f"size {path.stat().st_size:,} bytes",
        "(its side file agrees)",
        f"model model_name {TINY}, num_rows 2, wordvec_dim 4, image_size 32, interpolation bilinear",
        "labels split toy, number 6, seen 3, seen_names (tag0, tag1, tag2), unseen 2, unseen_names (tag4, tag5)",
        "words dim 4, probes (river), further 2",
        "calibration shared_threshold 0.25,",
        "num_images 40, num_positives 120, own_thresholds 2",
        "metrics zero-shot F1@3 12.35 mAP 7.25 | generalised mAP 9.00 (percent, all-images)",
        "settings images all-images, lr 0.001, freeze_bn True, epoch 3 versions",
    ):
        assert part in text, part
    assert max(map(len, describe(inspect_file(path)).splitlines())) <= 120


def test_description_shows_half_weights_and_a_differing_side_file(tmp_path):
    path = tmp_path / "x.ckpt"
    save_tiny(path)
    halved(path)
    assert "(no side file)" in describe(inspect_file(path))
    side_file(path).write_text("0" * 64 + "  x.ckpt\n")
    facts = inspect_file(path)
    assert facts["side_file"] is False
    assert facts["weights"]["dtypes"]["float16"] > 3
    text = describe(facts)
    assert "DIFFERS from its side file" in text
    assert "float16" in text
    assert "calibration  none" in text
    assert "metrics      none" in text


def test_non_finite_weights_are_counted_and_named(tmp_path):
    path = tmp_path / "x.ckpt"
    first = next(iter(save_tiny(path).state_dict()))

    def spoil(content):
        content["state_dict"]["embedding.weight"][0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        content["state_dict"][first].view(-1)[0] = torch.nan

    facts = inspect_file(edit(path, spoil))
    assert facts["weights"]["not_finite"] == {first: 1, "embedding.weight": 3}
    assert "4 numbers are NaN OR INFINITE" in " ".join(describe(facts).split())


def released_state(**tensors: Tensor) -> dict[str, Tensor]:
    return {"layer1.0.conv1.0.weight": torch.zeros(1), **tensors}


def test_facts_of_a_release_file(tmp_path, monkeypatch):
    def create_on_meta(*arguments: Any, **options: Any) -> SDLModel:
        with torch.device("meta"):
            return create_model(*arguments, **options)

    monkeypatch.setattr(src.checkpoint.released, "create_model", create_on_meta)  # its weights are of no interest
    monkeypatch.setattr(src.checkpoint.released, "load_strictly", lambda *arguments: None)
    state = released_state(**{"conv1.1.weight": torch.zeros(64), "embedding.weight": torch.zeros(2100, 1)})
    path = tmp_path / "release.pth"
    torch.save({"model": state, "num_classes": 3, "idx_to_class": {1: "dog", 0: "cat", 2: "sun"}}, path)
    facts = inspect_file(path)
    assert facts["kind"] == "release"
    assert facts["model"]["model_name"] == "tresnet_m"
    assert facts["model"]["num_rows"] == 7
    assert facts["labels"] == {"number": 3, "names": ["cat", "dog", "sun"]}
    assert facts["weights"]["parameters"] == 2165
    text = describe(facts)
    assert "release file of the released code" in text
    assert "number 3, names (cat, dog, sun)" in text


def test_backbones_and_files_that_do_not_fit_are_described(tmp_path):
    torch.save({"model": released_state()}, tmp_path / "backbone.pth")
    facts = inspect_file(tmp_path / "backbone.pth")
    assert (facts["kind"], facts["weights"]["tensors"]) == ("backbone", 1)
    state = released_state(**{"conv1.1.weight": torch.zeros(64), "embedding.weight": torch.zeros(200, 1)})
    torch.save(state, tmp_path / "odd.pth")
    facts = inspect_file(tmp_path / "odd.pth")
    assert (facts["kind"], facts["weights"]["tensors"]) == ("bare", 3)
    assert "200 outputs, no multiple of the word-vector length 300" in facts["problem"]
    assert "no multiple" in " ".join(describe(facts).split())


def test_training_state_is_described(tmp_path):
    content = {
        "format": "sdl-training-state/2",
        "module": tiny_model().state_dict(),
        "progress": {"epoch": 4, "step": 17, "entries": [{}], "best": {}, "finished": False},
        "settings": {"lr": 0.5},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    torch.save(content, tmp_path / "state.pt")
    facts = inspect_file(tmp_path / "state.pt")
    assert facts["kind"] == "training state"
    assert facts["progress"] == {"epoch": 4, "step": 17, "finished": False}
    text = describe(facts)
    assert "training state for --resume" in text
    assert "epoch 4, step 17" in text
    assert "lr 0.5" in text
    torch.save({"format": "sdl-training-state/2"}, tmp_path / "bare.pt")
    assert "training state" in describe(inspect_file(tmp_path / "bare.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": "sdl-checkpoint/9", "state_dict": {}}, "has the format 'sdl-checkpoint/9'; this version reads"),
        ({"fc.weight": torch.zeros(1)}, "neither a checkpoint of this project nor a TResNet"),
        ({"a": 1}, "holds no state dict of tensors"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        inspect_file(tmp_path / "x.pth")


def test_damaged_facts_are_a_user_error(tmp_path):
    save_tiny(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt is an incomplete checkpoint of this project"):
        inspect_file(edit(tmp_path / "x.ckpt", lambda content: content.pop("split")))


def test_inspect_continues_after_an_unreadable_file(tmp_path, capsys):
    save_tiny(tmp_path / "x.ckpt")
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    (tmp_path / "y.ckpt").write_bytes(b"no checkpoint")
    paths = [str(tmp_path / name) for name in ("y.ckpt", "x.ckpt", "model.onnx")]
    assert main(["inspect", *paths]) == 2
    output = capsys.readouterr()
    assert "checkpoint of this project" in output.out
    assert "ONNX file; use onnx.load" in " ".join(output.out.split())
    assert output.err.startswith("python -m src.checkpoint: error: ")
    assert "y.ckpt" in output.err
    assert main(["inspect", *paths[1:], "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [facts["kind"] for facts in listed] == ["sdl", "onnx"]


# Averaging


def drawn(seed: int) -> SDLModel:
    """A model whose tensors, step counters included, depend on the seed."""
    model = tiny_model(seed=seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(10 + seed)
    return model


def sources(folder: Path, count: int = 3, **facts: object) -> list[Path]:
    facts = {"extra_words": ("b",), "extra_vectors": torch.zeros(4, 1) + 0.5, **facts}
    paths = [folder / f"{seed}.ckpt" for seed in range(count)]
    for seed, path in enumerate(paths):
        save_tiny(path, drawn(seed), **facts)
    return paths


def state_of(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 1.0], [0.1, 1e-3, 7.0]])
def test_mean_equals_a_plain_loop(weights, tmp_path):
    paths = sources(tmp_path)
    average_checkpoints(paths, tmp_path / "mean.ckpt", weights)
    states = [state_of(path) for path in paths]
    mean = state_of(tmp_path / "mean.ckpt")
    assert mean.keys() == states[0].keys()
    relative = weights or [1.0] * 3
    for key, tensor in mean.items():
        values = [state[key] for state in states]
        if not tensor.is_floating_point():
            assert torch.equal(tensor, values[-1])
            continue
        expected = []
        for numbers in zip(*(value.flatten()[:1000].tolist() for value in values), strict=True):
            total = sum(weight * number for weight, number in zip(relative, numbers, strict=True))
            expected.append(total / sum(relative))
        torch.testing.assert_close(tensor.flatten()[:1000], torch.tensor(expected), rtol=1e-6, atol=1e-9, msg=key)


def test_mean_loads_tags_and_lists_its_sources(tmp_path, capsys):
    paths = sources(
        tmp_path, calibration=calibration(), metrics={"zero_shot.mAP": 5.0}, settings={"epoch": 3, "metadata": "m"}
    )
    edit(paths[1], lambda content: content["settings"].update(epoch=4, only_here=1))
    output = tmp_path / "mean.ckpt"
    flags = ["--weights", "1", "2", "1", "--output", str(output)]
    assert main(["average", *map(str, paths), *flags]) == 0
    printed = capsys.readouterr().out
    assert f"0.5000 of {paths[1]}" in printed
    assert "the new file has no calibration: fit one with validate.py --fit-thresholds" in printed
    assert agrees(output) is True
    _, info = load_checkpoint(output)
    assert info.metrics == {}
    assert info.calibration is None
    assert info.settings == {
        "metadata": "m",
        "averaged": [
            {"file": str(path), "sha256": file_digest(path), "weight": weight}
            for path, weight in zip(paths, [1.0, 2.0, 1.0], strict=True)
        ],
    }
    assert len(Tagger.load(output).tag([Image.new("RGB", (40, 30), "red")], top_k=3)[0]) == 3
    assert main(["inspect", str(output)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"settings metadata m, averaged ((file {paths[0]}, sha256 {file_digest(paths[0])}, weight 1), (" in text


def halved(path: Path) -> Path:
    def halve(content):
        content["split"]["word_vectors"] = content["split"]["word_vectors"].half()
        content["state_dict"] = {
            key: tensor.half() if tensor.ndim > 1 else tensor for key, tensor in content["state_dict"].items()
        }

    return edit(path, halve)


def test_half_precision_is_kept_if_all_files_have_it(tmp_path):
    paths = [halved(path) for path in sources(tmp_path)]
    average_checkpoints(paths, tmp_path / "mean.ckpt")
    mean, half = state_of(tmp_path / "mean.ckpt"), state_of(paths[1])
    assert {key: tensor.dtype for key, tensor in mean.items()} == {key: tensor.dtype for key, tensor in half.items()}
    assert mean["embedding.weight"].dtype == torch.float16
    (full,) = sources(tmp_path, 1)
    average_checkpoints([paths[1], full], tmp_path / "mixed.ckpt")
    mixed = state_of(tmp_path / "mixed.ckpt")
    assert {tensor.dtype for tensor in mixed.values()} == {torch.float32, torch.int64}
    expected = (half["embedding.weight"].double() + state_of(full)["embedding.weight"].double()) / 2
    torch.testing.assert_close(mixed["embedding.weight"], expected.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["config"].update(image_size=64), "different configurations: image_size 32 and 64"),
        (lambda content: content["split"]["labels"].reverse(), "have different labels; average models of one task"),
        (lambda content: content["split"].update(seen=[0, 1, 2]), "have different seen and unseen labels"),
        (lambda content: content["split"]["word_vectors"].neg_(), "have different word vectors"),
        (
            lambda content: content.update(extra_words=["a"], extra_vectors=torch.ones(4, 1)),
            "have different further words",
        ),
        (lambda content: content.update(extra_vectors=torch.ones(4, 1)), "have different vectors of further words"),
        (lambda content: content["state_dict"].pop("embedding.weight"), "only one of them has embedding.weight"),
        (
            lambda content: content["state_dict"].update({"embedding.weight": torch.ones(1)}),
            "shapes or kinds differ for embedding.weight",
        ),
        (
            lambda content: content["state_dict"]["embedding.weight"].fill_(torch.inf),
            r"1\.ckpt has weights that are NaN or infinite: embedding.weight; its training failed",
        ),
        (lambda content: content.update(state_dict={}), "holds no state dict of tensors"),
        (lambda content: content.update(format="other"), r"1\.ckpt is no checkpoint of this project; only those"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(change, message, tmp_path):
    paths = sources(tmp_path, 2)
    edit(paths[1], change)
    with pytest.raises(UserError, match=message) as caught:
        average_checkpoints(paths, tmp_path / "mean.ckpt")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*mean*"))


def test_source_that_differs_from_its_side_file_is_refused(tmp_path):
    paths = sources(tmp_path, 2)
    write_digest(paths[0])
    edit(paths[1], lambda content: content["metrics"].update(changed=1))
    shutil.copy(side_file(paths[0]), side_file(paths[1]))
    with pytest.raises(UserError, match=r"1\.ckpt differs from its side file .*1\.ckpt\.sha256"):
        average_checkpoints(paths, tmp_path / "mean.ckpt")


def test_wrong_flags_of_average_are_refused(tmp_path, capsys):
    paths = [str(path) for path in sources(tmp_path, 2)]
    for flags, message in (
        (["--output", paths[1]], f"would overwrite the input {paths[1]}; choose another file"),
        (["--output", str(tmp_path)], "is a folder; give the path of a file"),
        (["--output", "x", "--weights", "1"], "--weights: 1 numbers for 2 files; give one per file"),
        (["--output", "x", "--weights", "1", "0"], "is not a number above 0"),
        ([], "required: --output"),
    ):
        assert main(["average", *paths, *flags]) == 2
        assert message in capsys.readouterr().err
    assert not Path("x").exists()
