"""What the tests of the scripts share: running them here or as a child process, and reading what they leave."""

from __future__ import annotations

import colorsys
import contextlib
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from src.data.labels import LabelledPictures, LabelMatrix
from src.data.metadata_writer import write_metadata
from src.data.split import make_split
from tests.conftest import run_script

# A random timm backbone that does an epoch of the drawn pictures in a tenth of a second.
TINY = ("--model-name", "test_efficientnet", "--model-path", "none", "--image-size", 32, "-b", 8)
PLAIN = ("--augmentation", "none", "--cutout", 0, "-j", 0)  # no randomness but the order of the pictures

Finished = subprocess.CompletedProcess[str]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """On a busy machine PyTorch's threads wait for each other; these models are too small to need more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
            yield
    finally:
        torch.set_num_threads(before)


def without_curves() -> contextlib.AbstractContextManager[Any]:
    """Within it train.py draws no curves, which takes longer than all the rest of a run this small."""
    return mock.patch("src.visualize.save_curves")


def child(*arguments: object, cwd: Path | None = None) -> Finished:
    """A script as a child process: ``child("train.py", "--data", ...)``."""
    with one_thread():
        return run_script(*arguments, cwd=cwd)


def call(main: Callable[[list[str]], int], *arguments: object) -> Finished:
    """A script's ``main`` in this process: ``call(train.main, "--data", ...)``."""
    argv = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with one_thread(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(argv)
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())


def succeeded(finished: Finished) -> Finished:
    assert finished.returncode == 0, finished.stderr
    return finished


def user_error(finished: Finished) -> str:
    """The message of a run that ended with a mistake of the user: status 2, one error line, no traceback."""
    assert finished.returncode == 2, (finished.returncode, finished.stderr)
    assert "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, finished.stderr
    return lines[0]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``log.jsonl`` without the time each epoch took."""
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


def file_names(metadata: Path, part: str) -> list[str]:
    """The pictures of ``train`` or ``val``, in the order in which they are read."""
    images = json.loads((metadata / f"{part}.json").read_text(encoding="utf-8"))["images"]
    return [image["file_name"] for image in sorted(images, key=lambda image: image["id"])]


def copy_of(metadata: Path, folder: Path) -> Path:
    """A copy of a metadata folder that a test may change."""
    return Path(shutil.copytree(metadata, folder, ignore=shutil.ignore_patterns("feature_cache")))


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content)), encoding="utf-8")


def edit_split(metadata: Path, **changes: Any) -> Path:
    """Replace entries of ``split.json``."""
    edit_json(metadata / "split.json", lambda content: {**content, **changes})
    return metadata


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below ``folder`` with its size and time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def colour_wheel(folder: Path) -> Path:
    """A metadata folder that can be learnt in seconds, unseen labels included.

    A picture is one noisy colour; the word vector of a colour is its place on the colour wheel. Twelve hues are seen,
    and the four unseen ones lie between them: who learns the wheel knows them.
    """
    hues = np.arange(16) / 16
    unseen = [2, 6, 10, 14]
    seen = [hue for hue in range(16) if hue not in unseen]
    vectors = torch.tensor(np.stack([np.cos(2 * np.pi * hues), np.sin(2 * np.pi * hues)]), dtype=torch.float32)
    labels = [f"hue {hue}" for hue in range(16)]
    split = make_split(labels, seen, unseen, vectors, name="wheel", source="wheel")
    random = np.random.default_rng(0)
    pictures = folder.parent / "images"
    pictures.mkdir()
    parts = {}
    for part, columns in (("train", seen * 6), ("val", [*range(16)] * 3)):
        names = tuple(f"{part}{number:03d}.png" for number in range(len(columns)))
        for name, column in zip(names, columns, strict=True):
            colour = colorsys.hsv_to_rgb(hues[column], random.uniform(0.7, 1), random.uniform(0.6, 1))
            noisy = 255 * np.array(colour) + random.normal(0, 8, (32, 32, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(pictures / name)
        targets = LabelMatrix.from_dense(torch.eye(16, dtype=torch.int8)[columns])
        parts[part] = LabelledPictures(tuple(range(len(columns))), names, targets)
    write_metadata(folder, split, parts, image_root="images", word_vector_source="wheel", move_in=[pictures])
    return folder
