"""Atomic writing, and one-line errors for files that cannot be read or written."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from src.errors import UserError
from src.utils.files import atomic_write, check_writable, write_json
from src.utils.json_files import read_json


@pytest.mark.parametrize(("mode", "content"), [("wb", b"\x00\xff"), ("w", "grün 日本\n")])
def test_file_and_its_folders_are_written(mode, content, tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with atomic_write(path, mode) as stream:
        stream.write(content)
    assert path.read_bytes() == (content if mode == "wb" else content.encode("utf-8"))
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_failed_block_leaves_only_the_old_file(error, tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path, "w") as stream:
            stream.write("half of the n")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_file_has_the_usual_mode(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file", "w") as stream:
            stream.write("x")
        assert os.umask(umask) == umask  # the process's mask is put back
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_impossible_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*file/x/y\.json: .*choose an output folder"),
        atomic_write(tmp_path / "file" / "x" / "y.json"),
    ):
        pytest.fail("the block must not run")


def test_folder_as_target_is_a_user_error(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*taken: Is a directory"):
        write_json(tmp_path / "taken", {})
    assert os.listdir(tmp_path) == ["taken"]


def test_full_disk_is_a_user_error(tmp_path, monkeypatch):
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "x.json").write_text("[]")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*x\.json: No space left on device"):
        write_json(tmp_path / "x.json", [1])
    assert os.listdir(tmp_path) == ["x.json"]
    assert read_json(tmp_path / "x.json") == []


def test_broken_pipe_of_the_standard_output_is_not_the_files_error(tmp_path):
    with pytest.raises(BrokenPipeError), atomic_write(tmp_path / "x.html", "w"):
        raise BrokenPipeError
    assert list(tmp_path.iterdir()) == []


def test_json_round_trip_keeps_text_readable(tmp_path):
    value = {"label": "crème brûlée", "scores": [1, 2.5, None], "日本": True}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "crème brûlée" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_invalid_json_value_leaves_the_old_file(value, tmp_path):
    write_json(tmp_path / "x.json", "old")
    with pytest.raises((ValueError, TypeError), match="JSON"):
        write_json(tmp_path / "x.json", [value])
    assert read_json(tmp_path / "x.json") == "old"


def test_a_byte_order_mark_is_allowed(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xbc"}')
    assert read_json(tmp_path / "x.json") == {"a": "ü"}


def test_check_writable_leaves_files_unchanged(tmp_path):
    check_writable(tmp_path / "new" / "r.json", "--json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json", "--json")
    assert (tmp_path / "old.json").read_text() == "old"
    with pytest.raises(UserError, match=r"--json .*old\.json/r\.json: cannot be written"):
        check_writable(tmp_path / "old.json" / "r.json", "--json")
    with pytest.raises(UserError, match=r"--json .*new: is a folder"):
        check_writable(tmp_path / "new", "--json")
