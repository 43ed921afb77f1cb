"""Care of checkpoints: side files that survive kills, looking inside, and averaging weights."""

from __future__ import annotations

import errno
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import src.checkpoint.average
import src.checkpoint.digest
import src.checkpoint.released
from src.calibration.thresholds import Calibration
from src.checkpoint import load_checkpoint
from src.checkpoint.__main__ import main
from src.checkpoint.average import average_checkpoints
from src.checkpoint.describe import describe
from src.checkpoint.digest import check_digest, file_digest, save_with_digest, side_file, write_digest
from src.checkpoint.inspect import inspect_file
from src.data.split import make_split
from src.errors import UserError
from src.inference.tagger import Tagger
from src.models import SDLModel, create_model
from tests.helpers import SIZE, TINY, make_toy_split, save_tiny, tiny_model

OLD, NEW = b"the old content", b"the new content, which is longer"
HAS_SHA256SUM = shutil.which("sha256sum") is not None


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change what a checkpoint holds; its side file goes."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    side_file(path).unlink(missing_ok=True)
    return path


def save(path: Path, content: bytes) -> str:
    return save_with_digest(path, lambda stream: stream.write(content))


# Side files


@pytest.mark.skipif(not HAS_SHA256SUM, reason="needs coreutils")
@pytest.mark.parametrize("name", ["a.ckpt", "two words.ckpt", "日本.ckpt", "back\\slash.ckpt", "new\nline\r.ckpt"])
def test_a_side_file_is_what_sha256sum_prints_and_checks(name, tmp_path):
    (tmp_path / name).write_bytes(NEW)
    digest = write_digest(tmp_path / name)
    printed = subprocess.run(["sha256sum", name], cwd=tmp_path, capture_output=True, check=True).stdout
    assert side_file(tmp_path / name).read_bytes() == printed
    assert digest.encode() in printed
    subprocess.run(["sha256sum", "--check", side_file(name)], cwd=tmp_path, check=True, capture_output=True)
    assert check_digest(tmp_path / name) is True


def test_check_tells_whole_changed_and_unknown_files(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(OLD)
    assert check_digest(path) is None
    write_digest(path)
    assert check_digest(path) is True
    path.write_bytes(OLD[:-1] + b"?")
    assert check_digest(path) is False
    path.write_bytes(OLD[:-1])
    assert check_digest(path) is False


@pytest.mark.parametrize(
    "form", ["{}  x.ckpt\n", "{} *x.ckpt\r\n", "{}  another name", "# {}  x\n# " + 64 * "0" + "  x"]
)
def test_every_form_of_line_is_read(form, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(OLD)
    digest = file_digest(path)
    for spelling in (digest, digest.upper()):
        side_file(path).write_text(form.format(spelling))
        assert check_digest(path) is True
    side_file(path).write_text(form.format("1" * 64))
    assert check_digest(path) is False


def test_files_that_cannot_be_checked_are_user_errors(tmp_path):
    path = tmp_path / "x.ckpt"
    for bad in (path, tmp_path):
        with pytest.raises(UserError, match=r"cannot read .*; give the path of a file"):
            check_digest(bad)
    path.write_bytes(OLD)
    side_file(path).write_text("no digest\n")
    with pytest.raises(UserError, match=r"x\.ckpt\.sha256 holds no line of sha256sum; delete it"):
        check_digest(path)
    save(path, NEW)  # which is no reason for a training run to stop
    assert check_digest(path) is True
    side_file(path).unlink()
    side_file(path).mkdir()
    with pytest.raises(UserError, match=r"cannot read .*x\.ckpt\.sha256"):
        check_digest(path)


def test_saving_replaces_both_files_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "x.ckpt"
    for content in (OLD, NEW, NEW):
        assert save(path, content) == file_digest(path)
        assert path.read_bytes() == content
        assert side_file(path).read_text() == f"{file_digest(path)}  x.ckpt\n"
        assert sorted(os.listdir(path.parent)) == ["x.ckpt", "x.ckpt.sha256"]


def test_a_writer_may_go_back_in_the_file(tmp_path):
    def write(stream):
        stream.write(b"????")
        stream.seek(0)
        stream.write(b"head")

    assert save_with_digest(tmp_path / "x", write) == file_digest(tmp_path / "x")
    save_with_digest(tmp_path / "y", lambda stream: torch.save({"a": torch.arange(3)}, stream))
    assert check_digest(tmp_path / "y") is True
    assert torch.load(tmp_path / "y", weights_only=True)["a"].tolist() == [0, 1, 2]


def test_a_failed_save_leaves_both_files(tmp_path):
    path = tmp_path / "x.ckpt"
    save(path, OLD)
    before = side_file(path).read_bytes()

    def fail(stream):
        stream.write(NEW)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*x\.ckpt: No space left"):
        save_with_digest(path, fail)
    assert (path.read_bytes(), side_file(path).read_bytes()) == (OLD, before)
    assert sorted(os.listdir(tmp_path)) == ["x.ckpt", "x.ckpt.sha256"]


def killed_save(path: Path, content: bytes, moment: int) -> bool:
    """Save in a child that is killed (-9) before its n-th renaming or flushing to disk; whether it was."""
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
            save(path, content)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status)


def sha256sum_complains(path: Path) -> bool:
    """Whether coreutils call the file broken."""
    if not HAS_SHA256SUM or not side_file(path).exists():
        return False
    checked = subprocess.run(
        ["sha256sum", "--check", side_file(path).name], cwd=path.parent, capture_output=True, text=True, check=False
    )
    return "FAILED" in checked.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("start", ["nothing", "no side file", "side file"])
def test_no_kill_makes_a_good_file_look_broken(start, tmp_path):
    path = tmp_path / "x.ckpt"
    seen = set()
    for moment in range(50):
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        if start != "nothing":
            save(path, OLD)
        if start == "no side file":
            side_file(path).unlink()
        killed = killed_save(path, NEW, moment)
        if path.exists():
            told = check_digest(path)
            seen.add((path.read_bytes(), told))
            assert told is not False
            assert not sha256sum_complains(path)
            path.write_bytes(b"?" + path.read_bytes())
            assert check_digest(path) is (None if told is None else False)  # while real damage shows
        if not killed:
            break
    assert not killed
    assert moment >= 5
    assert (
        seen
        == {
            "nothing": {(NEW, None), (NEW, True)},
            "no side file": {(OLD, None), (NEW, None), (NEW, True)},
            "side file": {(OLD, True), (NEW, True)},
        }[start]
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_after_kill_leaves_a_good_file_and_a_save_tidies_up(tmp_path):
    path = tmp_path / "x.ckpt"
    save(path, OLD)
    for moment in range(8):
        killed_save(path, NEW + bytes([moment]), moment)
        assert check_digest(path) is True
        assert not sha256sum_complains(path)
    save(path, NEW)
    assert side_file(path).read_text() == f"{file_digest(path)}  x.ckpt\n"


def test_a_file_that_is_replaced_while_it_is_checked_is_not_called_broken(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    save(path, OLD)
    for order in ("replaced before reading", "replaced after reading"):

        def slow(path, order=order):
            if order == "replaced before reading":
                save(path, NEW)
                return file_digest(path)
            digest = file_digest(path)
            save(path, OLD)
            return digest

        with monkeypatch.context() as patch:
            patch.setattr(src.checkpoint.digest, "file_digest", slow)
            assert check_digest(path) is True


def test_verify_tells_each_file_and_its_exit_status(tmp_path, capsys):
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


# Looking inside


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
        "generalized.mAP_skip": 9.0,
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


def test_the_facts_of_this_projects_file(tmp_path):
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


def test_the_text_says_it_at_a_glance(tmp_path):
    path = tmp_path / "x.ckpt"
    full_checkpoint(path)
    write_digest(path)
    text = " ".join(describe(inspect_file(path)).split())
    for part in (
        "checkpoint of this project",
        f"size {path.stat().st_size:,} bytes",
        "(its side file agrees)",
        f"model {TINY}, M = 2, D = 4",
        "32 x 32 pixels, bilinear",
        "labels 6 of the split toy",
        "seen: 3 (tag0, tag1, tag2)",
        "unseen: 2 (tag4, tag5) neither: 1 (tag3)",
        "vectors of length 4; the space is known by river",
        "2 further words",
        "calibration yes, from 40 images with 120 seen positives",
        "2 labels have thresholds of their own, the others 0.250; seen labels lose 1.500",
        "zero-shot: F1@3 12.35, mAP 7.25 (40 images, 2 labels)",
        "generalised: mAP_skip 9.00",
        "protocol: all-images",
        "settings images all-images, lr 0.001, freeze_bn True, epoch 3 versions",
    ):
        assert part in text, part
    assert max(map(len, describe(inspect_file(path)).splitlines())) <= 120


def test_half_weights_and_a_differing_side_file_show(tmp_path):
    path = tmp_path / "x.ckpt"
    save_tiny(path)

    def halve(content):
        content["state_dict"] = {
            key: tensor.half() if tensor.ndim == 4 else tensor for key, tensor in content["state_dict"].items()
        }

    edit(path, halve)
    assert inspect_file(path)["side_file"] is None
    assert "(no side file)" in describe(inspect_file(path))
    side_file(path).write_text("0" * 64 + "  x.ckpt\n")
    facts = inspect_file(path)
    assert facts["side_file"] is False
    assert facts["weights"]["dtypes"]["float16"] > 3
    text = describe(facts)
    assert "DIFFERS from its side file" in text
    assert "float16" in text
    assert "calibration  no" in text
    assert "metrics      none: not measured" in text


def test_weights_that_are_not_finite_are_counted_and_named(tmp_path):
    path = tmp_path / "x.ckpt"
    first = next(iter(save_tiny(path).state_dict()))

    def spoil(content):
        content["state_dict"]["embedding.weight"][0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        content["state_dict"][first].view(-1)[0] = torch.nan

    facts = inspect_file(edit(path, spoil))
    assert facts["weights"]["not_finite"] == {first: 1, "embedding.weight": 3}
    assert f"4 numbers are NaN OR INFINITE: {first} (1), embedding.weight (3)" in describe(facts)


def released_state(**tensors: Tensor) -> dict[str, Tensor]:
    return {"layer1.0.conv1.0.weight": torch.zeros(1), **tensors}


def test_a_release_file_says_what_the_released_code_put_in(tmp_path, monkeypatch):
    def create_on_meta(*arguments: Any) -> SDLModel:
        with torch.device("meta"):
            return create_model(*arguments)

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
    assert "3 (cat, dog, sun)" in text


def test_a_released_backbone_and_a_file_that_does_not_fit_are_described_all_the_same(tmp_path):
    torch.save({"model": released_state()}, tmp_path / "backbone.pth")
    facts = inspect_file(tmp_path / "backbone.pth")
    assert (facts["kind"], facts["weights"]["tensors"]) == ("backbone", 1)
    state = released_state(**{"conv1.1.weight": torch.zeros(64), "embedding.weight": torch.zeros(200, 1)})
    torch.save(state, tmp_path / "odd.pth")
    facts = inspect_file(tmp_path / "odd.pth")
    assert (facts["kind"], facts["weights"]["tensors"]) == ("bare", 3)
    assert "200 outputs, no multiple of the word-vector length 300" in facts["problem"]
    assert "no multiple" in " ".join(describe(facts).split())


def test_a_training_state_is_told(tmp_path):
    content = {
        "format": "sdl-training-state/1",
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
    assert "no checkpoint to tag with" in text
    assert "epoch 4, step 17" in text
    assert "lr 0.5" in text
    torch.save({"format": "sdl-training-state/1"}, tmp_path / "bare.pt")
    assert "training run" in describe(inspect_file(tmp_path / "bare.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": "sdl-checkpoint/9", "state_dict": {}}, "has the format 'sdl-checkpoint/9'; this version knows"),
        ({"fc.weight": torch.zeros(1)}, "neither a checkpoint of this project nor a TResNet"),
        ({"a": 1}, "holds no state dict of tensors"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        inspect_file(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(settings=[1, 2]),
        lambda content: content.update(metrics=3),
        lambda content: content.update(versions=7),
        lambda content: content.pop("split"),
        lambda content: content["space"].update(probes=None),
    ],
)
def test_a_damaged_description_is_a_user_error(change, tmp_path):
    save_tiny(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt is an incomplete checkpoint of this project"):
        inspect_file(edit(tmp_path / "x.ckpt", change))


def test_inspect_goes_on_after_a_file_that_it_cannot_read(tmp_path, capsys):
    save_tiny(tmp_path / "x.ckpt")
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    (tmp_path / "y.ckpt").write_bytes(b"no checkpoint")
    paths = [str(tmp_path / name) for name in ("y.ckpt", "x.ckpt", "model.onnx")]
    assert main(["inspect", *paths]) == 2
    output = capsys.readouterr()
    assert "checkpoint of this project" in output.out
    assert "ONNX file, which is not looked into here" in " ".join(output.out.split())
    assert output.err.startswith("python -m src.checkpoint: error: ")
    assert "y.ckpt" in output.err
    assert main(["inspect", *paths[1:], "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [facts["kind"] for facts in listed] == ["sdl", "onnx"]


def test_json_has_words_for_everything_in_a_file(tmp_path, capsys):
    save_tiny(
        tmp_path / "x.ckpt",
        metrics={"zero_shot.mAP": float("nan")},
        settings={"betas": (0.9, 0.99), "at": torch.zeros(1), "lr": float("inf")},
    )
    assert main(["inspect", "--json", str(tmp_path / "x.ckpt")]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["metrics"]["zero_shot.mAP"] == "nan"
    assert facts["settings"] == {"betas": [0.9, 0.99], "at": "tensor([0.])", "lr": "inf"}
    assert main(["inspect", str(tmp_path / "x.ckpt")]) == 0


# Averaging


def drawn(seed: int) -> SDLModel:
    """A model whose every tensor is its own, step counters too."""
    model = tiny_model(seed=seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(10 + seed)
    return model


def sources(folder: Path, count: int = 3, **facts: object) -> list[Path]:
    paths = [folder / f"{seed}.ckpt" for seed in range(count)]
    for seed, path in enumerate(paths):
        save_tiny(path, drawn(seed), **facts)
    return paths


def state_of(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 1.0], [0.1, 1e-3, 7.0], [1e308, 1e308, 1e308]])
def test_the_mean_equals_a_plain_loop(weights, tmp_path):
    paths = sources(tmp_path)
    average_checkpoints(paths, tmp_path / "mean.ckpt", weights)
    states = [state_of(path) for path in paths]
    mean = state_of(tmp_path / "mean.ckpt")
    assert mean.keys() == states[0].keys()
    relative = [1.0] * 3 if weights is None else [weight / 1e308 if weight > 1e300 else weight for weight in weights]
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


def test_the_mean_of_one_file_is_the_file_itself(tmp_path):
    (path,) = sources(tmp_path, 1)
    average_checkpoints([path], tmp_path / "mean.ckpt", [0.3])
    for (key, tensor), expected in zip(state_of(tmp_path / "mean.ckpt").items(), state_of(path).values(), strict=True):
        assert torch.equal(tensor, expected), key
        assert tensor.dtype == expected.dtype


def test_the_order_of_the_files_changes_nothing_but_the_counters(tmp_path):
    paths = sources(tmp_path)
    average_checkpoints(paths, tmp_path / "a.ckpt", [1, 2, 3])
    average_checkpoints(paths[::-1], tmp_path / "b.ckpt", [3, 2, 1])
    for (key, a), b in zip(state_of(tmp_path / "a.ckpt").items(), state_of(tmp_path / "b.ckpt").values(), strict=True):
        assert torch.equal(a, b) == a.is_floating_point(), key


def test_the_result_loads_tags_and_says_what_it_is_of(tmp_path, capsys):
    paths = sources(
        tmp_path, calibration=calibration(), metrics={"zero_shot.mAP": 5.0}, settings={"epoch": 3, "metadata": "m"}
    )
    edit(paths[1], lambda content: content["settings"].update(epoch=4, only_here=1))
    output = tmp_path / "mean.ckpt"
    flags = ["--weights", "1", "2", "1", "--output", str(output)]
    assert main(["average", *map(str, paths), *flags]) == 0
    printed = capsys.readouterr().out
    assert f"0.5000 of {paths[1]}" in printed
    assert "the mean has none; fit it with validate.py --fit-thresholds" in printed
    assert check_digest(output) is True
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
    assert f"settings metadata m mean of file {paths[0]}, sha256 {file_digest(paths[0])}, weight 1.0 file" in text


def halved(path: Path) -> Path:
    def halve(content):
        content["split"]["word_vectors"] = content["split"]["word_vectors"].half()
        content["state_dict"] = {
            key: tensor.half() if tensor.ndim > 1 else tensor for key, tensor in content["state_dict"].items()
        }

    return edit(path, halve)


def test_half_precision_stays_where_all_files_have_it(tmp_path):
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


def test_only_the_sum_and_one_file_are_in_memory(tmp_path, monkeypatch):
    paths = sources(tmp_path, 4)
    loaded: list[weakref.ref[Tensor]] = []
    alive = []
    real = src.checkpoint.average.read_state_file

    def read(path):
        alive.append(sum(reference() is not None for reference in loaded))
        content = real(path)
        loaded.append(weakref.ref(content["state_dict"]["embedding.weight"]))
        return content

    monkeypatch.setattr(src.checkpoint.average, "read_state_file", read)
    average_checkpoints(paths, tmp_path / "mean.ckpt")
    assert alive == [0, 0, 0, 0]


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
        (lambda content: content["state_dict"].update(odd=torch.ones(1)), "only one of them has odd"),
        (
            lambda content: content["state_dict"].update({"embedding.weight": torch.ones(1)}),
            "unlike in shape or kind are embedding.weight",
        ),
        (
            lambda content: content["state_dict"].update(
                {"embedding.weight": content["state_dict"]["embedding.weight"].long()}
            ),
            "unlike in shape or kind are embedding.weight",
        ),
        (
            lambda content: content["state_dict"]["embedding.weight"].fill_(torch.inf),
            r"1\.ckpt has weights that are NaN or infinite, which no mean survives: embedding.weight",
        ),
        (lambda content: content.update(state_dict={}), "incomplete checkpoint .*: it holds no state dict of tensors"),
        (lambda content: content.update(settings=None), "incomplete checkpoint .*: its settings are no dict"),
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


def test_a_source_that_differs_from_its_side_file_is_refused(tmp_path):
    paths = sources(tmp_path, 2)
    write_digest(paths[0])
    edit(paths[1], lambda content: content["metrics"].update(changed=1))
    shutil.copy(side_file(paths[0]), side_file(paths[1]))
    with pytest.raises(UserError, match=r"1\.ckpt differs from its side file .*1\.ckpt\.sha256"):
        average_checkpoints(paths, tmp_path / "mean.ckpt")


def test_wrong_flags_of_average_are_refused(tmp_path, capsys):
    paths = [str(path) for path in sources(tmp_path, 2)]
    for flags, message in (
        (["--output", paths[1]], "is one of the files to average; choose another name"),
        (["--output", str(tmp_path)], "is a folder; give the path of a file"),
        (["--output", "x", "--weights", "1"], "--weights: 1 numbers for 2 files; give one a file"),
        (["--output", "x", "--weights", "1", "0"], "is not a number above 0"),
        ([], "required: --output"),
    ):
        assert main(["average", *paths, *flags]) == 2
        assert message in capsys.readouterr().err
    assert not Path("x").exists()


def test_the_command_line_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["checkpoint", "--help"])
    monkeypatch.delitem(sys.modules, "src.checkpoint.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("src.checkpoint", run_name="__main__")
    assert ended.value.code == 0
    assert "usage: python -m src.checkpoint" in capsys.readouterr().out
