"""Writers that are killed before each call of the system: old or new whole, nothing lost or doubled after --resume."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from src.utils.digest import check_digest
from src.utils.files import check_writable
from src.utils.manifest import NAME, Manifest
from tests.helpers import save_tiny, tiny_model, write_images
from tests.kill_helpers import KilledRuns
from tests.script_helpers import stored

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
INFER = ("src.inference.run", "src.visualize", "src.checkpoint.own", "jinja2")


def moments(calls: int, most: int) -> list[int]:
    return sorted(random.Random(0).sample(range(1, calls + 1), min(calls, most)))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_is_old_or_new_at_every_call(is_link, tmp_path):
    home, way = tmp_path / "home", tmp_path / "way"
    target = home / "real" if is_link else way / "x"

    def start_over(old: bytes | None) -> None:
        for folder in (home, way):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        if is_link:
            (way / "x").symlink_to(target)
        if old is not None:
            target.write_bytes(old)

    with KilledRuns("tests.kill_helpers") as runs:
        for old in (None, b"old"):
            start_over(old)
            status, calls = runs.run(target.parent, way / "x")
            assert status == 0
            assert calls >= 8
            for moment in range(1, calls + 1):
                start_over(old)
                assert runs.run(target.parent, way / "x", kill_before=moment).status == -signal.SIGKILL
                found = target.read_bytes() if target.exists() else None
                assert found in (old, b"new"), moment
                assert (way / "x").is_symlink() == is_link
                assert Manifest(target.parent).owns(target) == (found == b"new"), moment
                check_writable(way / "x", "--json")
                assert names(way) | names(home) <= {"x", "real", NAME}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    for number in (0, 1):
        save_tiny(folder / f"{number}.ckpt", tiny_model(seed=number))
    write_images(folder / "in", 3, broken=(1,))
    return folder


def test_infer_killed_at_any_call_resumes_to_the_same_outputs(place, tmp_path):
    out = tmp_path / "out"
    flags = ("--model_path", place / "0.ckpt", "--pic_path", place / "in", "-j", 0, "--top_k", 2, "--batch_size", 1)
    files = ("--json", out / "tags.json", "--csv", out / "tags.csv", "--annotate", "--path_output", out / "drawn")
    with KilledRuns("infer", *INFER) as runs:
        status, calls = runs.run(*flags, *files)
        assert status == 1  # one image is broken
        whole = {path.name: path.read_bytes() for path in (out / "tags.json", out / "tags.csv")}
        drawn = {NAME, "0.png", "2.png"}
        assert names(out / "drawn") == drawn
        for moment in moments(calls, 5):
            shutil.rmtree(out)
            assert runs.run(*flags, *files, kill_before=moment).status == -signal.SIGKILL
            for name, content in whole.items():
                assert not (out / name).exists() or (out / name).read_bytes() == content, moment
            assert runs.run(*flags, *files, "--resume").status == 1
            assert {name: (out / name).read_bytes() for name in whole} == whole, moment
            assert names(out) == {"tags.json", "tags.csv", "tags.json.record.jsonl", "drawn"}
            assert names(out / "drawn") == drawn, moment
    assert len(json.loads(whole["tags.json"])["results"]) == 2


def test_infer_killed_while_it_replaces_a_page_keeps_the_old_one(place, tmp_path):
    page = tmp_path / "page.html"
    flags = ("--model_path", place / "0.ckpt", "-j", 0, "--no_picture", "--html", page)
    with KilledRuns("infer", *INFER) as runs:
        runs.run(*flags, "--pic_path", place / "in" / "0.png")
        old = page.read_bytes()
        calls = runs.run(*flags, "--pic_path", place / "in").calls
        new = page.read_bytes()
        assert old != new
        for moment in moments(calls, 2):
            page.write_bytes(old)
            assert runs.run(*flags, "--pic_path", place / "in", kill_before=moment).status == -signal.SIGKILL
            assert page.read_bytes() in (old, new), moment
    check_writable(page, "--html")
    assert names(tmp_path) == {"page.html"}


def test_average_killed_at_any_call_leaves_no_stale_digest(place, tmp_path):
    path = tmp_path / "mean.ckpt"
    flags = ("average", "--output", path)
    one, other = ((*flags, place / "0.ckpt", place / name) for name in ("0.ckpt", "1.ckpt"))
    with KilledRuns("src.checkpoint.__main__", "src.checkpoint.average") as runs:
        assert runs.run(*one).status == 0
        old = stored(path)["settings"]
        calls = runs.run(*other).calls
        new = stored(path)["settings"]
        assert old != new
        for moment in moments(calls, 3):
            assert runs.run(*one).status == 0
            assert runs.run(*other, kill_before=moment).status == -signal.SIGKILL
            assert stored(path)["settings"] in (old, new), moment
            assert check_digest(path)[1] in (None, True), moment
    check_writable(path, "--output")
    assert names(tmp_path) <= {"mean.ckpt", "mean.ckpt.sha256"}
