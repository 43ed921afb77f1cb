"""train.py in two processes of torchrun: equal to one with larger batches, also after one of them died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import validate
from tests.conftest import ROOT
from tests.script_helpers import (
    PLAIN,
    RUN_FILES,
    TINY,
    call,
    copy_of,
    edit_json,
    file_names,
    log_of,
    one_thread,
    stored,
    train_here,
    weights_of,
)

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch was built without torch.distributed"
)

# Five images a batch in each of two processes are ten in one. 13 evaluation images are three batches, of which the
# first process has two.
EPOCHS = 5
RUN = ("--num-epochs", EPOCHS, "--lr", 1e-3, "--seed", 3, "--save-steps", 1)
FROZEN_BN = ("--freeze-bn",)
PLAIN_BN = ("--ema", 0.5)  # each process has running statistics of its own, and so has its moving average


@pytest.fixture(scope="module")
def data(sample, tmp_path_factory):
    """The drawn images, three evaluation images fewer, and one that cannot be read in each part."""
    folder = copy_of(sample, tmp_path_factory.mktemp("data") / "sample")
    gone = set(file_names(folder, "val")[-3:])

    def fewer(content):
        numbers = {image["id"] for image in content["images"] if image["file_name"] in gone}
        images = [image for image in content["images"] if image["id"] not in numbers]
        marks = [mark for mark in content["annotations"] if mark["image_id"] not in numbers]
        return {**content, "images": images, "annotations": marks}

    edit_json(folder / "val.json", fewer)
    for part in ("train", "val"):
        (folder / "images" / file_names(folder, part)[4]).write_bytes(b"not an image")
    return folder


def torchrun(data: Path, folder: Path, *flags: object, options: tuple[object, ...] = ()) -> subprocess.Popen[str]:
    """train.py in two processes."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node=2", *options]
    script = ["train.py", "--data", data, *TINY, *PLAIN, "-b", 5, *RUN, "--device", "cpu", "--path_output", folder]
    with one_thread():
        return subprocess.Popen(
            [str(word) for word in [*command, "--standalone", *script, *flags]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )


def run_together(data: Path, folder: Path, *flags: object) -> dict[str, Any]:
    """Run two processes to the end."""
    process = torchrun(data, folder, *flags)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return {"folder": folder, "out": out, "err": err}


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    return run_together(data, tmp_path_factory.mktemp("together") / "out", *FROZEN_BN)


@pytest.fixture(scope="module")
def plain_bn(data, tmp_path_factory):
    return run_together(data, tmp_path_factory.mktemp("plain_bn") / "out", *PLAIN_BN)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The same run in one process, in batches of the same images."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    train_here(data, folder, "-b", 10, *RUN, *FROZEN_BN)
    return folder


def test_two_processes_take_the_steps_of_one(together, alone):
    for one, two in zip(log_of(alone), log_of(together["folder"]), strict=True):
        assert two["train"] == pytest.approx(one["train"], rel=1e-5)
        assert two["train"]["num_images"] == 24
        assert two["lr"] == one["lr"]


def test_two_processes_have_the_metrics_of_one(together, alone):
    """Each embeds some of the evaluation images, not the same number of them."""
    for one, two in zip(log_of(alone), log_of(together["folder"]), strict=True):
        assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
        assert two["bad_evaluation_images"] == one["bad_evaluation_images"] == 1
    assert log_of(alone)[0]["metrics"]["generalized.num_images"] == 12


def test_two_processes_end_with_the_weights_of_one(together, alone):
    one, two = (weights_of(folder / "model-last.ckpt") for folder in (alone, together["folder"]))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
    assert stored(together["folder"] / "state.pt")["settings"]["processes"] == 2


def test_the_first_process_alone_prints_and_writes(together, data):
    out, lines = together["out"], together["out"].splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == EPOCHS
    assert out.count("last epoch:") == 1
    assert "on cpu in 2 processes" in out
    for part in ("train", "val"):  # by whichever process found it
        assert together["err"].count(str(data / "images" / file_names(data, part)[4])) == 1
    assert {path.name for path in together["folder"].iterdir()} == RUN_FILES


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="finds the processes of a run in Linux's /proc")
def test_run_resumed_after_a_dead_process_equals_uninterrupted_run(plain_bn, data, tmp_path):
    """torchrun starts all processes again, and they resume from the last state."""
    folder = tmp_path / "out"
    process = torchrun(data, folder, *PLAIN_BN, options=("--max-restarts=2",))
    wait_until(lambda: len(lines_of(folder / "log.jsonl")) >= 1, process)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    wait_until(lambda: len(lines_of(folder / "log.jsonl")) >= EPOCHS, process)
    epochs = len(log_of(folder))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert epochs == EPOCHS
    assert "exitcode: -9" in err  # torchrun reports the dead process
    assert not list(folder.glob(".*.tmp"))
    for ours, theirs in zip(log_of(folder), log_of(plain_bn["folder"]), strict=True):
        for part in ("train", "metrics", "ema_metrics"):
            assert ours[part] == pytest.approx(theirs[part], rel=1e-4)
    for name in ("model-last.ckpt", "model-last-ema.ckpt"):
        ours, theirs = (weights_of(run / name) for run in (folder, plain_bn["folder"]))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_mistake_that_one_process_finds_is_one_line(data, tmp_path):
    """Only the first process looks at the output folder; the other one waits for it, or loses the connection."""
    (tmp_path / "report.html").write_text("mine")
    process = torchrun(data, tmp_path)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    lines = [line for line in err.splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1, lines
    (line,) = lines
    assert "report.html would be replaced" in line
    assert "Connection closed" not in err


@pytest.mark.parametrize(("key", "suffix"), [("metrics", ""), ("ema_metrics", "-ema")])
def test_logged_metrics_are_those_of_the_saved_checkpoint(plain_bn, data, tmp_path, key, suffix):
    """With plain batch norms, of which every process has its own running statistics while it trains."""
    checkpoint, report = plain_bn["folder"] / f"model-last{suffix}.ckpt", tmp_path / "report.json"
    call(validate.main, "--model-path", checkpoint, data, "-j", 0, "-b", 5, "--json", report)  # 1: an unreadable image
    metrics = json.loads(report.read_text(encoding="utf-8"))["metrics"]
    assert log_of(plain_bn["folder"])[-1][key] == pytest.approx(metrics, rel=1e-4)


@pytest.mark.parametrize("how", ["reduce", "broadcast"])
def test_distribute_bn_makes_buffers_equal(how):
    """Two processes have different running statistics, and weights that must not move."""
    script = f"""
        import torch
        from torch import nn
        from src.utils.distributed import joined

        with joined("cpu") as processes:
            module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
            weight = nn.init.constant_(module[0].weight, processes.rank).clone()
            module[1].running_mean += torch.tensor([1.0, 2.0, 3.0]) * (1 + processes.rank)
            processes.distribute_bn(module, {how!r})
            factor = 1.5 if {how!r} == "reduce" else 1.0
            assert torch.equal(module[1].running_mean, factor * torch.tensor([1.0, 2.0, 3.0]))
            assert torch.equal(module[1].running_var, torch.ones(3))
            assert torch.equal(module[0].weight, weight)
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--no-python"]
    finished = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert finished.returncode == 0, finished.stderr


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def wait_until(done, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while not done():
        assert process.poll() in (None, 0), process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.002)


def rank_of(torchrun: int, rank: int) -> int:
    """The process id of one of torchrun's processes."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == torchrun and f"LOCAL_RANK={rank}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
    raise AssertionError(f"torchrun {torchrun} has no process {rank}")
