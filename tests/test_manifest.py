"""The manifest of a folder: what this program wrote is its own, all else is the user's."""

from __future__ import annotations

import json
import multiprocessing
import os
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.utils import manifest as module
from src.utils.files import atomic_write
from src.utils.manifest import NAME, Manifest, digest_of


def write(path, text):
    with atomic_write(path, "w") as stream:
        stream.write(text)


def filled(folder, **files):
    with Manifest(folder).recording():
        for name, text in files.items():
            write(folder / name, text)


def lines(folder):
    return [json.loads(line) for line in (folder / NAME).read_bytes().splitlines()]


def test_files_that_were_written_are_owned_until_somebody_changes_them(tmp_path):
    with Manifest(tmp_path).recording() as manifest:
        write(tmp_path / "a", "one")
        write(tmp_path / "below" / "b", "two")
    (tmp_path / "mine").write_text("one")  # the content of a recorded file under another name
    for known in (manifest, Manifest(tmp_path)):
        assert known.files() == [tmp_path / "a", tmp_path / "below" / "b"]
        assert not known.owns(tmp_path / "mine")
    (tmp_path / "a").write_text("edited")
    assert Manifest(tmp_path).files() == [tmp_path / "below" / "b"]


def test_what_is_written_elsewhere_or_after_the_block_is_not_recorded(tmp_path):
    filled(tmp_path / "folder", a="one")
    write(tmp_path / "folder" / "later", "x")
    assert [line["name"] for line in lines(tmp_path / "folder")] == ["a"]


@pytest.mark.parametrize("name", ["caf\udce9.jpg", "a\nb", '"', "日本", "n" * 255, " ", "..a", "-"])
def test_odd_names_are_recorded(name, tmp_path):
    filled(tmp_path, **{name: "x"})
    assert Manifest(tmp_path).owns(tmp_path / name)


def test_the_line_comes_before_the_file(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, a="x")
    assert os.listdir(tmp_path) == [NAME]
    assert lines(tmp_path)[0]["name"] == "a"


def test_a_half_written_last_line_costs_only_itself(tmp_path):
    filled(tmp_path, a="one", b="two")
    content = (tmp_path / NAME).read_bytes()
    for cut in range(1, len(content)):
        (tmp_path / NAME).write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        assert len(Manifest(tmp_path).files()) in (whole, whole + 1)  # the line end alone may be missing
    filled(tmp_path, c="three")
    assert [path.name for path in Manifest(tmp_path).files()] == ["a", "b", "c"]


@given(
    names=st.lists(st.text("./\\ab:~" + string.whitespace + "\0", max_size=12), max_size=5),
    junk=st.lists(st.binary(max_size=40), max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_a_hostile_manifest_reaches_nothing_outside_the_folder(names, junk, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    folder = outside / "folder"
    folder.mkdir()
    for path in (outside / "a", outside / "b", folder / "a"):
        path.write_text("x")
    os.symlink(outside, folder / "b")
    digest = digest_of(outside / "a")
    names = [*names, "../a", str(outside / "a"), "b/a", "b", ".", "..", "a/../../a", "", "b/folder/a"]
    told = [json.dumps({"name": name, "sha256": digest}).encode() for name in names]
    (folder / NAME).write_bytes(b"\n".join([*junk, *told]))
    manifest = Manifest(folder)
    assert set(manifest.files()) <= {folder / "a"}
    for name in names:
        if "\0" not in name:
            manifest.remove(folder / name)
    assert (outside / "a").exists()
    assert (outside / "b").exists()


@pytest.mark.parametrize(
    "line",
    [b"[]", b"1", b"null", b'{"name": 1, "sha256": "x"}', b'{"name": "a"}', b"\xff", b"[" * 100_000, b"9" * 10_000],
)
def test_damaged_lines_are_passed_over(line, tmp_path):
    filled(tmp_path, a="x")
    with open(tmp_path / NAME, "ab") as stream:
        stream.write(line + b"\n")
    filled(tmp_path, b="x")
    assert [path.name for path in Manifest(tmp_path).files()] == ["a", "b"]


@pytest.mark.parametrize("make", [lambda path: os.symlink("elsewhere", path), os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_manifest(make, tmp_path):
    make(tmp_path / NAME)
    with pytest.raises(UserError, match=NAME):
        filled(tmp_path, a="x")
    with pytest.raises(UserError, match=NAME), Manifest(tmp_path).lock("--path_output"):
        pytest.fail("the block must not run")
    assert os.listdir(tmp_path) == [NAME]


def test_remove_takes_own_files_only(tmp_path):
    filled(tmp_path, a="x", b="x")
    (tmp_path / "b").write_text("edited")
    manifest = Manifest(tmp_path)
    assert [manifest.remove(tmp_path / name) for name in ("a", "b", "none", NAME)] == [True, False, False, False]
    assert sorted(os.listdir(tmp_path)) == [NAME, "b"]


def test_refuse_foreign_names_the_users_files(tmp_path):
    filled(tmp_path, a="x")
    (tmp_path / "cat.jpg").write_text("mine")
    Manifest(tmp_path).refuse_foreign([tmp_path / "a", tmp_path / "new"], "--output")
    with pytest.raises(UserError, match=r"--output .*: cat\.jpg would be replaced"):
        Manifest(tmp_path).refuse_foreign([tmp_path / "a", tmp_path / "cat.jpg"], "--output")


def test_a_second_run_is_refused_while_the_first_lives(tmp_path):
    folder = tmp_path / "run"
    with Manifest(folder).lock("--path_output"):
        with pytest.raises(UserError, match=r"^--path_output .*run: another run is writing"):
            Manifest(folder).lock("--path_output").__enter__()
        write(folder / "a", "x")
    with Manifest(folder).lock("--path_output") as manifest:
        assert manifest.owns(folder / "a")


def test_a_lock_that_recorded_nothing_leaves_no_file(tmp_path):
    with Manifest(tmp_path).lock("--path_output"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as earlier, Manifest(tmp_path).lock("--path_output"):
        assert earlier.apply(int) == 0
        pool = context.Pool(1)  # started while the lock is held
    try:
        with Manifest(tmp_path).lock("--path_output"):
            pass
    finally:
        pool.terminate()


def test_without_locks_runs_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("src.utils.locks.try_lock", lambda _: None)
    with Manifest(tmp_path).lock("--path_output"):
        write(tmp_path / "a", "x")
    assert Manifest(tmp_path).files() == [tmp_path / "a"]


def test_a_full_disk_is_a_user_error_and_the_file_does_not_appear(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "write", lambda *_: 3)
    with pytest.raises(UserError, match=r"cannot use .*: the disk is full"):
        filled(tmp_path, a="x")
    assert not (tmp_path / "a").exists()
