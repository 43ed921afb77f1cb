"""Two runs that write one output at the same time: the files in the end are those of one run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import export
import validate
from src.checkpoint import __main__ as checkpoint_program
from src.checkpoint.digest import save_with_digest
from src.utils import temporary
from src.utils.digest import check_digest, open_verified, side_file
from src.utils.files import check_writable
from src.utils.temporary import sweep_temporary, turn_to_write
from src.word_vectors.source import open_word_vectors
from tests.helpers import save_tiny, tiny_model
from tests.prepare_helpers import prepare_source
from tests.script_helpers import call, user_error

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and locks")
FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else multiprocessing


def save(path: Path, run: str) -> None:
    save_with_digest(path / "x.ckpt", {"run": run})


def write_vectors(path: Path, run: str) -> None:
    arguments = ("--tags", path / f"{run}.txt", "--word-vectors", path / "words.txt", "--output", path / "x.npy")
    prepare_source("word-vectors", *arguments, "--overwrite")


def checkpoint_of(path: Path) -> str | None:
    """Return which run wrote the checkpoint, and check that it has its own side file or none."""
    assert check_digest(path / "x.ckpt")[1] is not False
    return torch.load(path / "x.ckpt", weights_only=True)["run"]


def vectors_of(path: Path) -> str | None:
    """Return which run wrote the vectors, and check that each word has its own vector; None without words."""
    if not (path / "x.txt").exists():
        return None
    expected = {"sea": [1, 0], "sun": [0, 1]}
    found = dict(open_word_vectors(path / "x.npy").scan(lambda word: True))
    for word, vector in found.items():
        np.testing.assert_allclose(vector, expected[word])
    (word,) = found
    return {"sea": "first", "sun": "second"}[word]


WRITERS = {"checkpoint": (save, checkpoint_of, ".ckpt"), "vectors": (write_vectors, vectors_of, ".npy")}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "words.txt").write_text("sea 1 0\nsun 0 1\n")
    for name, word in (("first", "sea"), ("second", "sun")):
        (tmp_path / f"{name}.txt").write_text(f"{word}\n")
    return tmp_path


def stopping(write: Callable[[Path, str], None], place: Path, suffix: str, ready: Any, go_on: Any) -> None:
    """Write, but wait for ``go_on`` between the two renames."""
    real = os.replace

    def replace(source: str, target: Path) -> None:
        real(source, target)
        if str(target).endswith(suffix):
            ready.set()
            go_on.wait()

    os.replace = replace
    write(place, "first")


def waiting(write: Callable[[Path, str], None], place: Path, waits: Any) -> None:
    """Write, and say that it has to wait."""

    def sleep(seconds: float, real: Callable[[float], None] = time.sleep) -> None:
        waits.set()
        real(seconds)

    time.sleep = sleep
    write(place, "second")


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_second_run_waits_until_both_files_of_the_first_are_there(place, kind, is_killed):
    write, run_of, suffix = WRITERS[kind]
    ready, go_on, waits = FORK.Event(), FORK.Event(), FORK.Event()
    first = FORK.Process(target=stopping, args=(write, place, suffix, ready, go_on))
    second = FORK.Process(target=waiting, args=(write, place, waits))
    try:
        first.start()
        assert ready.wait(60)
        second.start()
        assert waits.wait(60)
        assert run_of(place) in (("first",) if kind == "checkpoint" else (None,))
        if is_killed:
            os.kill(first.pid, signal.SIGKILL)
        else:
            go_on.set()
        for process in (first, second):
            process.join(60)
        assert [first.exitcode, second.exitcode] == [-signal.SIGKILL if is_killed else 0, 0]
    finally:
        for process in (first, second):
            if process.is_alive():
                process.kill()
    assert run_of(place) == "second"
    assert side_file(place / "x.ckpt").exists() == (kind == "checkpoint")
    sweep_temporary(place)  # as the next run does
    assert not list(place.glob(".sdl-*"))


def save_often(place: Path, run: str) -> None:
    for _ in range(40):
        save(place, run)


def test_many_saves_of_two_runs_leave_a_pair(place):
    runs = [FORK.Process(target=save_often, args=(place, run)) for run in ("first", "second")]
    for run in runs:
        run.start()
    while any(run.is_alive() for run in runs):
        if (place / "x.ckpt").exists():
            open_verified(place / "x.ckpt").close()  # as scripts read it
    assert [run.exitcode for run in runs] == [0, 0]
    assert check_digest(place / "x.ckpt")[1]


def test_what_a_killed_run_leaves_of_its_turn_is_swept(tmp_path):
    turn = turn_to_write(tmp_path / "x.ckpt")
    turn.__enter__()
    (name,) = os.listdir(tmp_path)
    turn.__exit__(None, None, None)
    (tmp_path / name).touch()
    check_writable(tmp_path / "y.ckpt", "--output")
    assert not os.listdir(tmp_path)
    (tmp_path / name).touch()
    with turn_to_write(tmp_path / "x.ckpt"):
        pass
    assert not os.listdir(tmp_path)


def test_a_run_that_keeps_its_turn_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary, "_PATIENCE", 0)
    with turn_to_write(tmp_path / "x.ckpt"):
        with turn_to_write(tmp_path / "y.ckpt"):
            pass
        with pytest.raises(temporary.UserError, match=r"cannot write .*x\.ckpt: another run is writing it"):
            save(tmp_path, "second")
    assert not os.listdir(tmp_path)


def replaced_by(path: Path, other: Path, module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another run replace ``path`` when a function of a module has ended."""
    real = getattr(module, name)

    def late(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        path.write_bytes(other.read_bytes())
        side_file(path).write_bytes(side_file(other).read_bytes())
        return result

    monkeypatch.setattr(module, name, late)


def test_checkpoint_that_is_replaced_while_it_is_used_gives_no_output(sample, tmp_path, monkeypatch):
    from src import checkpoint, validation
    from src.checkpoint import average
    from src.data.metadata import load_metadata

    split = load_metadata(sample).split
    paths = [tmp_path / f"{seed}.ckpt" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        save_tiny(path, tiny_model(seed=seed, wordvec_dim=split.wordvec_dim), split=split)
    out = tmp_path / "out"
    fit = ("--model-path", paths[0], "--metadata", sample, "-j", 0, "--fit-thresholds", out / "fit.ckpt")
    for main, arguments, module, name in (
        (validate.main, fit, validation, "open_model"),
        (checkpoint_program.main, ("average", *paths, "--output", out / "mean.ckpt"), average, "read_own"),
        (export.main, ("--model_path", paths[0], "--output", out / "x.onnx"), checkpoint, "load_checkpoint"),
    ):
        content, side = paths[0].read_bytes(), side_file(paths[0]).read_bytes()
        with monkeypatch.context() as context:
            replaced_by(paths[0], paths[1], module, name, context)
            assert "was replaced while" in user_error(call(main, *arguments))
        assert not list(out.iterdir())
        paths[0].write_bytes(content)
        side_file(paths[0]).write_bytes(side)
