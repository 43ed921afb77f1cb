"""Writers that are killed on their way: a sample of ``python -m tests.kills``, and every call of a single file."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from src.utils.files import atomic_write, check_writable
from src.utils.manifest import NAME, Manifest
from tests.kills import WRITERS, Kills, killable

SAMPLE = (
    "infer-again",
    "infer-page",
    "prepare-overwrite",
    "word-vectors-overwrite",
    "validate-again",
    "average",
)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    with killable(folder, SAMPLE) as runs:
        yield folder, runs


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write_file(argv: list[str]) -> int:
    """Write ``new`` to a file, recorded in the manifest of a folder: argv is (folder, file)."""
    folder, path = argv
    with Manifest(folder).recording(), atomic_write(path) as stream:
        stream.write(b"new")
    return 0


@pytest.mark.parametrize(("is_link", "old"), [(False, None), (False, b"old"), (True, b"old")])
def test_a_file_is_old_or_new_at_every_call(place, is_link, old, tmp_path):
    home, way = tmp_path / "home", tmp_path / "way"
    _, runs = place
    target = home / "real" if is_link else way / "x"

    def start_over() -> None:
        for folder in (home, way):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        if is_link:
            (way / "x").symlink_to(target)
        if old is not None:
            target.write_bytes(old)

    start_over()
    status, calls, _ = runs.run("tests.test_killed_writers:write_file", target.parent, way / "x")
    assert status == 0
    assert calls >= 6
    for moment in range(1, calls + 1):
        start_over()
        ended = runs.run("tests.test_killed_writers:write_file", target.parent, way / "x", kill_before=moment)
        assert ended.is_killed
        found = target.read_bytes() if target.exists() else None
        assert found in (old, b"new"), moment
        assert (way / "x").is_symlink() == is_link
        assert Manifest(target.parent).owns(target) == (found == b"new"), moment
        check_writable(way / "x", "--json")
        assert names(way) | names(home) <= {"x", "real", NAME}


@pytest.mark.parametrize("name", SAMPLE)
def test_killed_writer_leaves_old_or_new_and_continues_to_the_same(place, name):
    folder, runs = place
    kills = Kills(WRITERS[name], runs, folder)
    assert list(kills.before_calls(1, random.Random(name))) == []
    assert kills.kills
