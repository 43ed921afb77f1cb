"""Helpers of the script tests: run scripts in this process or a child process, and read their output."""

from __future__ import annotations

import colorsys
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import train
from src.data.labels import LabelledImages, LabelMatrix
from src.data.metadata_writer import MetadataContent, write_metadata
from src.data.split import make_split
from src.training.tensorboard import Logger
from src.utils.digest import SUFFIX
from tests.conftest import run_script

# A random timm backbone, which trains an epoch of the drawn images in a tenth of a second
TINY = ("--model-name", "test_efficientnet", "--model-path", "none", "--image-size", 32, "-b", 8)
PLAIN = ("--augmentation", "none", "--cutout", 0, "-j", 0)  # no randomness but the order of the images
FULL = ("--augmentation", "randaugment", "--cutout", 0.5)
SETTINGS = ("zero_shot", "generalized")
# Files of a run with the flags above, as documented
RUN_FILES = {
    ".sdl-manifest.jsonl",
    "log.jsonl",
    "settings.toml",
    "curves.png",
    "report.html",
    "state.pt",
    "state-previous.pt",
    *(
        f"model-{name}.ckpt{suffix}"
        for name in ("last", "best-zero_shot", "best-generalized")
        for suffix in ("", SUFFIX)
    ),
}

Finished = subprocess.CompletedProcess[str]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: more slow down models this small on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
            yield
    finally:
        torch.set_num_threads(before)


def without_curves() -> contextlib.AbstractContextManager[Any]:
    """Draw no curves in the block, which takes longer than the rest of a run this small."""
    return mock.patch("src.visualize.save_curves")


def child(*arguments: object, cwd: Path | None = None) -> Finished:
    """Run a script as a child process: ``child("train.py", "--data", ...)``."""
    with one_thread():
        return run_script(*arguments, cwd=cwd)


def call(main: Callable[[list[str]], int], *arguments: object) -> Finished:
    """Call a script's ``main`` in this process: ``call(train.main, "--data", ...)``."""
    argv = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with one_thread(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(argv)
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())


def attempt(data: Path, folder: Path, *flags: object, seed: int | None = 3) -> Finished:
    """Run train.py in this process, small and plain unless ``flags`` say otherwise; it may fail."""
    seeded = () if seed is None else ("--seed", seed)
    with without_curves():
        return call(train.main, "--data", data, *TINY, *PLAIN, *seeded, "--path_output", folder, *flags)


def train_here(data: Path, folder: Path, *flags: object, seed: int | None = 3) -> Finished:
    """Run :func:`attempt`, which must succeed."""
    return succeeded(attempt(data, folder, *flags, seed=seed))


def train_frozen(data: Path, folder: Path, cache: Path, seed: int, *flags: object) -> Finished:
    """Train a head for three epochs on cached features."""
    return train_here(
        data, folder, "--freeze-backbone", "--feature-cache", cache, "--num-epochs", 3, "--seed", seed, *flags
    )


def first_loss(data: Path, folder: Path, *flags: object) -> dict[str, float]:
    """Return the training part of the log after one epoch with a learning rate next to zero."""
    train_here(data, folder, "--num-epochs", 1, "--lr", 1e-20, "-b", 24, *flags)
    return log_of(folder)[0]["train"]


def succeeded(finished: Finished) -> Finished:
    assert finished.returncode == 0, finished.stderr
    return finished


def user_error(finished: Finished) -> str:
    """Return the message of a user error: status 2, one error line, no traceback."""
    assert finished.returncode == 2, (finished.returncode, finished.stderr)
    assert "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, finished.stderr
    return lines[0]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of ``log.jsonl`` without the seconds."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for entry in entries:
        assert entry.pop("seconds") >= 0
    return entries


def stored(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def weights_of(path: Path) -> dict[str, Tensor]:
    return stored(path)["state_dict"]


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def same_run(one: Path, other: Path) -> None:
    """Assert that two runs are equal: the log but for seconds, all checkpoints, the state of the optimiser."""
    assert log_of(one) == log_of(other)
    names = sorted(path.name for path in one.glob("model-*.ckpt"))
    assert names == sorted(path.name for path in other.glob("model-*.ckpt"))
    for name in names:
        assert stored(one / name)["metrics"] == stored(other / name)["metrics"]
        assert same_weights(weights_of(one / name), weights_of(other / name)), name
    states = [stored(folder / "state.pt") for folder in (one, other)]
    for part in ("module", "average", "optimizer", "scheduler"):
        assert same_tree(states[0][part], states[1][part]), part


def same_tree(one: Any, other: Any) -> bool:
    """Return whether two nests of containers, numbers and tensors are equal to the last bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tree(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_tree, one, other))
    return one == other


class StopAt(Logger):
    """Stop the run in this process after these steps, counted over all epochs, like Ctrl-C."""

    def __init__(self, *steps: int, number: int = signal.SIGINT, times: int = 1) -> None:
        super().__init__()
        self._steps, self._number, self._times = steps, number, times

    def step(self, global_step: int, scalars: Mapping[str, float]) -> None:
        if global_step in self._steps:
            for _ in range(self._times):
                os.kill(os.getpid(), self._number)


def logged_by(logger: Logger) -> contextlib.AbstractContextManager[Any]:
    """Make runs of train.py in this process log to ``logger``."""
    return mock.patch("src.training.tensorboard.Logger", return_value=logger)


def file_names(metadata: Path, part: str) -> list[str]:
    """Return the image files of ``train`` or ``val``, in the order in which they are read."""
    images = json.loads((metadata / f"{part}.json").read_text(encoding="utf-8"))["images"]
    return [image["file_name"] for image in sorted(images, key=lambda image: image["id"])]


def copy_of(metadata: Path, folder: Path) -> Path:
    """Copy a metadata folder that a test changes."""
    return Path(shutil.copytree(metadata, folder, ignore=shutil.ignore_patterns("feature_cache")))


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content)), encoding="utf-8")


def remove_image(data: Path) -> None:
    """Remove the last training image from the labels."""
    gone = file_names(data, "train")[-1]

    def without_last(content: dict[str, Any]) -> dict[str, Any]:
        (number,) = (image["id"] for image in content["images"] if image["file_name"] == gone)
        images = [image for image in content["images"] if image["id"] != number]
        marks = [mark for mark in content["annotations"] if mark["image_id"] != number]
        return {**content, "images": images, "annotations": marks}

    edit_json(data / "train.json", without_last)


def edit_split(metadata: Path, **changes: Any) -> Path:
    """Replace entries of ``split.json``."""
    edit_json(metadata / "split.json", lambda content: {**content, **changes})
    return metadata


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file below ``folder`` with its size and time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def colour_wheel(folder: Path) -> Path:
    """Write a metadata folder that can be learnt in seconds, unseen labels included.

    An image is one noisy colour; the word vector of a colour is its place on the colour wheel. Twelve hues are seen,
    and the four unseen ones lie between them.
    """
    hues = np.arange(16) / 16
    unseen = [2, 6, 10, 14]
    seen = [hue for hue in range(16) if hue not in unseen]
    vectors = torch.tensor(np.stack([np.cos(2 * np.pi * hues), np.sin(2 * np.pi * hues)]), dtype=torch.float32)
    labels = [f"hue {hue}" for hue in range(16)]
    split = make_split(labels, seen, unseen, vectors, name="wheel", source="wheel")
    random = np.random.default_rng(0)
    images = folder.parent / "images"
    images.mkdir()
    parts = {}
    for part, columns in (("train", seen * 6), ("val", [*range(16)] * 3)):
        names = tuple(f"{part}{number:03d}.png" for number in range(len(columns)))
        for name, column in zip(names, columns, strict=True):
            colour = colorsys.hsv_to_rgb(hues[column], random.uniform(0.7, 1), random.uniform(0.6, 1))
            noisy = 255 * np.array(colour) + random.normal(0, 8, (32, 32, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(images / name)
        targets = LabelMatrix.from_dense(torch.eye(16, dtype=torch.int8)[columns])
        parts[part] = LabelledImages(tuple(range(len(columns))), names, targets)
    files = {f"images/{path.name}": path.read_bytes() for path in images.iterdir()}
    write_metadata(folder, MetadataContent(split, parts, image_root="images", word_vector_source="wheel", files=files))
    return folder
