"""Folders and files that cannot be written to: one line for each output; inputs need no writing."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import export
import infer
import prepare_data
import train
import validate
from src.checkpoint import __main__ as checkpoint_program
from src.data.metadata import load_metadata
from tests.helpers import save_tiny, tiny_model, write_images
from tests.script_helpers import PLAIN, TINY, Finished, attempt, call, snapshot, succeeded, train_here, user_error

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and permission bits")
_CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


def give_up_root() -> None:
    """Bind this process to permission bits although it runs as root: as its user, without capabilities."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, in two halves
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def in_child(pipe: Any, function: Callable[[], Finished], place: Path) -> None:
    """Send what a function returns, or None where permission bits do not bind this process."""
    if os.geteuid() == 0:
        try:
            give_up_root()
        except (OSError, AttributeError):  # another system
            pipe.send(None)
            return
    pipe.send(None if os.access(place, os.W_OK) else function())


@contextmanager
def read_only(*places: Path) -> Iterator[None]:
    """Take the right to write from files, or folders and all that is in them."""
    paths = [path for place in places for path in (place, *(place.rglob("*") if place.is_dir() else ()))]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def bound(place: Path, function: Callable[[], Finished]) -> Finished:
    """Run a function in a child that may not write to a place."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with read_only(place):
        process = context.Process(target=in_child, args=(theirs, function, place))
        process.start()
        theirs.close()
        try:
            finished = ours.recv()
        finally:
            process.join()
    if finished is None:
        pytest.skip("permission bits bind no process here")
    return finished


@pytest.fixture(scope="module")
def inputs(sample, tmp_path_factory) -> Path:
    """Two checkpoints of the sample's labels, its metadata folder, images, and a list of tags."""
    folder = tmp_path_factory.mktemp("inputs")
    split = load_metadata(sample).split
    for seed in (0, 1):
        save_tiny(folder / f"{seed}.ckpt", tiny_model(seed=seed, wordvec_dim=split.wordvec_dim), split=split)
    shutil.copytree(sample, folder / "data")
    write_images(folder / "photos", 3)
    (folder / "tags.txt").write_text(f"{split.labels[0]}\n")
    for label in ("sea", "sun", "sky"):
        write_images(folder / "tree" / label, 4)
    (folder / "vectors.txt").write_text("sea 1 0 0\nsun 0 1 0\nsky 0 0 1\n")
    return folder


INFER = (infer.main, "--model_path {in}/0.ckpt --pic_path {in}/photos -j 0 --top_k 2")
VALIDATE = (validate.main, "--model-path {in}/0.ckpt --metadata {in}/data -j 0")
TRAIN = (train.main, " ".join(map(str, ("--data {in}/data", *TINY, *PLAIN, "--num-epochs 1"))))
TAGS = (prepare_data.main, "word-vectors --tags {in}/tags.txt --word-vectors {in}/data")
SAMPLE = (prepare_data.main, "sample --train-images 4 --val-images 2")
OUTPUTS = [  # (flag with its place, the rest of the command)
    ("--json {ro}/x.json", INFER),
    ("--csv {ro}/new/x.csv", INFER),
    ("--parquet {ro}/x.parquet", INFER),
    ("--html {ro}/x.html", INFER),
    ("--path_output {ro}", INFER),
    ("--path_output {ro}/new", INFER),
    ("--no_picture --write_keywords {ro}", INFER),
    ("--no_picture --write_keywords {ro}/new", INFER),
    ("--json {ro}/metrics.json", VALIDATE),
    ("--fit-thresholds {ro}/fit.ckpt", VALIDATE),
    ("--path_output {ro}", TRAIN),
    ("--path_output {ro}/new", TRAIN),
    ("--output {ro}/x.onnx", (export.main, "--model_path {in}/0.ckpt")),
    ("--output {ro}/mean.ckpt", (checkpoint_program.main, "average {in}/0.ckpt {in}/1.ckpt")),
    ("--output {ro}", SAMPLE),
    ("--output {ro}/new", SAMPLE),
    ("--output {ro}/x.npy", TAGS),
]


def places(text: str, inputs: Path, folder: Path) -> list[str]:
    return [word.format(**{"in": inputs, "ro": folder}) for word in text.split()]


@pytest.mark.parametrize(("flags", "command"), OUTPUTS)
def test_output_in_a_read_only_folder_is_refused_in_one_line(flags, command, inputs, tmp_path):
    main, rest = command
    folder = tmp_path / "ro"
    folder.mkdir()
    before = snapshot(tmp_path)
    finished = bound(folder, lambda: call(main, *places(rest, inputs, folder), *places(flags, inputs, folder)))
    message = user_error(finished)
    flag = flags.split(" {ro}")[0].split()[-1]
    assert flag in message, message
    assert str(folder) in message
    assert "Permission denied" in message
    assert snapshot(tmp_path) == before
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("flags", "command"), [one for one in OUTPUTS if "." in one[0]])
def test_earlier_output_that_is_read_only_is_refused_in_one_line(flags, command, inputs, tmp_path):
    main, rest = command
    arguments = places(rest, inputs, tmp_path) + places(flags, inputs, tmp_path)
    succeeded(call(main, *arguments))
    path = Path(arguments[-1])
    before = snapshot(tmp_path)
    finished = bound(path, lambda: call(main, *arguments))
    message = user_error(finished)
    assert str(path) in message
    assert "Permission denied" in message or "exists" in message  # of vectors, which are never taken for earlier ones
    assert snapshot(tmp_path) == before


def test_sidecars_in_a_read_only_folder_are_named_and_counted(inputs, tmp_path):
    photos = Path(shutil.copytree(inputs / "photos", tmp_path / "photos"))
    before = snapshot(photos)
    main, rest = INFER
    flags = ("--no_picture", "--write_xmp", "--pic_path", photos, "--json", tmp_path / "x.json")
    finished = bound(photos, lambda: call(main, *places(rest, inputs, photos), *flags))
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    for name in before:
        assert sum(name in line and "Permission denied" in line for line in finished.stderr.splitlines()) == 1
    assert "3 " in finished.stderr.splitlines()[-1]
    assert (tmp_path / "x.json").exists()
    assert snapshot(photos) == before


def test_resuming_in_a_read_only_run_folder_is_refused_in_one_line(inputs, tmp_path):
    train_here(inputs / "data", tmp_path / "run", "--num-epochs", 1)
    before = snapshot(tmp_path)
    flags = ("--num-epochs", 2, "--resume")
    message = user_error(bound(tmp_path / "run", lambda: attempt(inputs / "data", tmp_path / "run", *flags)))
    assert "--path_output" in message
    assert "Permission denied" in message
    assert snapshot(tmp_path) == before


READERS = [
    (*INFER, "--json {out}/x.json --path_output {out}/drawn"),
    (*INFER, "--no_picture --write_keywords {out}/copies"),
    (*VALIDATE, "--fit-thresholds {out}/fit.ckpt"),
    (*TRAIN, "--path_output {out}/run"),
    (*TRAIN, "--path_output {out}/run --freeze-backbone --seed 1"),
    (*TRAIN, "--path_output {out}/run --freeze-backbone --seed 1 --feature-cache {in}/cache"),
    (export.main, "--model_path {in}/0.ckpt", "--output {out}/x.onnx --int8 --calibration {in}/photos -j 0"),
    (checkpoint_program.main, "inspect {in}/0.ckpt {in}/1.ckpt", ""),
    (checkpoint_program.main, "average {in}/0.ckpt {in}/1.ckpt", "--output {out}/mean.ckpt"),
    (*TAGS, "--output {out}/x.npy"),
    (prepare_data.main, "word-vectors --metadata {in}/data --word-vectors {in}/data", "--output {out}/new"),
    (
        prepare_data.main,
        "table --source {in}/tree --word-vectors {in}/vectors.txt --unseen-fraction 0.3",
        "--output {out}/new",
    ),
]


@pytest.mark.parametrize(("main", "command", "flags"), READERS)
def test_inputs_may_be_read_only(main, command, flags, inputs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    before = snapshot(inputs)
    arguments = [word.format(**{"in": inputs, "out": out}) for word in f"{command} {flags}".split()]
    finished = bound(inputs, lambda: call(main, *arguments))
    assert succeeded(finished)
    assert snapshot(inputs) == before
    assert list(out.iterdir()) or not flags
