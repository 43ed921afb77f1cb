"""Atomic writing, and one-line errors for files that cannot be read or written."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from src.errors import UserError
from src.utils.files import atomic_write, check_writable, read_text, refuse_inputs, write_json
from src.utils.json_files import read_json
from src.utils.temporary import sweep_temporary
from tests.conftest import ROOT


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


TEMPORARY = re.compile(r"\.sdl-[a-z0-9_]{8}\.tmp")


@pytest.mark.parametrize("length", [241, 250, 255])
def test_a_name_may_be_as_long_as_the_disk_allows(length, tmp_path):
    path = tmp_path / ("n" * length)
    write_json(path, 1)
    assert os.listdir(tmp_path) == [path.name]


def test_the_temporary_name_is_short_and_beside_the_target(tmp_path):
    with atomic_write(tmp_path / "x", "w"):
        (name,) = os.listdir(tmp_path)
    assert TEMPORARY.fullmatch(name)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(exists, tmp_path):
    real = tmp_path / "below" / "real.json"
    real.parent.mkdir()
    if exists:
        real.write_text("old")
    (tmp_path / "two").symlink_to("below/real.json")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    write_json(tmp_path / "one", 1)
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "two").is_symlink()
    assert read_json(real) == 1


def test_a_link_to_itself_is_a_user_error(tmp_path):
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(UserError, match=r"cannot write .*x"):
        write_json(tmp_path / "x", 1)
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_keeps_its_mode(tmp_path):
    write_json(tmp_path / "x", 1)
    (tmp_path / "x").chmod(0o640)
    write_json(tmp_path / "x", 2)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_fifo_gets_everything_at_once_and_stays(mode, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    content = "é" * 200_000  # more than a pipe holds
    with atomic_write(tmp_path / "link", mode) as stream:
        stream.write("no" if mode == "w" else b"no")
        stream.seek(0)
        stream.write(content if mode == "w" else content.encode())
    reader.join()
    assert got == [content.encode()]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_fifo_whose_reader_ends_is_a_user_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: os.close(os.open(tmp_path / "pipe", os.O_RDONLY)), daemon=True)
    reader.start()
    with pytest.raises(UserError, match=r"cannot write .*pipe: its reader ended"):
        write_json(tmp_path / "pipe", "x" * 1_000_000)
    reader.join()


def test_a_failed_block_sends_nothing_to_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a reader
    with pytest.raises(ValueError, match="no"), atomic_write(tmp_path / "pipe"):
        raise ValueError("no")


def test_devices_are_written_to():
    before = os.stat("/dev/null")
    write_json("/dev/null", 1)
    assert os.path.samestat(before, os.stat("/dev/null"))
    with pytest.raises(UserError, match=r"cannot write /dev/full: No space left"):
        write_json("/dev/full", 1)


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "link"])
@pytest.mark.parametrize("mode", ["w", "a"])
def test_the_standard_output_is_continued_wherever_it_goes(name, mode, tmp_path):
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "log").write_text("earlier\n")
    code = f"import src.utils.files as f; print('before'); f.write_json({name!r}, 1); print('after')"
    with open(tmp_path / "log", mode) as log:
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            check=True,
        )
    assert (tmp_path / "log").read_text() == ("earlier\n" if mode == "a" else "") + "before\n1\nafter\n"
    assert sorted(os.listdir(tmp_path)) == ["link", "log"]


def test_sweeping_takes_dead_temporaries_only(tmp_path):
    for name in (".sdl-abcdefgh.tmp", ".sdl-mine.tmp", "sdl-abcdefgh.tmp", ".report.tmp"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".sdl-linklink.tmp").symlink_to(".report.tmp")
    os.mkfifo(tmp_path / ".sdl-fifofifo.tmp")
    (tmp_path / ".sdl-folderrr.tmp").mkdir()
    before = set(os.listdir(tmp_path))
    with atomic_write(tmp_path / "x"):
        sweep_temporary(tmp_path)
        assert len(set(os.listdir(tmp_path)) - before) == 1
    assert before - set(os.listdir(tmp_path)) == {".sdl-abcdefgh.tmp"}
    sweep_temporary(tmp_path / "none")


def test_where_there_are_no_locks_old_temporaries_are_dead(tmp_path, monkeypatch):
    monkeypatch.setattr("src.utils.temporary.try_lock", lambda _: None)
    for name in (".sdl-oldoldol.tmp", ".sdl-newnewne.tmp"):
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / ".sdl-oldoldol.tmp", (1, 1))
    sweep_temporary(tmp_path)
    assert os.listdir(tmp_path) == [".sdl-newnewne.tmp"]


def test_the_next_start_sweeps_what_a_killed_writer_left(tmp_path):
    code = (
        "import os, signal\nfrom src.utils.files import atomic_write\n"
        f"with atomic_write({str(tmp_path / 'x')!r}) as stream:\n  stream.write(b'half'); stream.flush()\n"
        "  os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert TEMPORARY.fullmatch(os.listdir(tmp_path)[0])
    check_writable(tmp_path / "x", "--json")
    assert os.listdir(tmp_path) == []


def test_the_first_file_in_a_folder_sweeps_it(tmp_path):
    (tmp_path / ".sdl-deadbeef.tmp").write_text("half")
    write_json(tmp_path / "x", 1)
    assert os.listdir(tmp_path) == ["x"]


def test_check_writable_neither_opens_a_fifo_nor_touches_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null", "/dev/stdout"):
        check_writable(path, "--json")


@pytest.mark.parametrize("link", [os.symlink, os.link, shutil.copy])
def test_an_output_is_no_input(link, tmp_path):
    (tmp_path / "model.pth").write_text("weights")
    link(tmp_path / "model.pth", tmp_path / "other")
    inputs = [("--pic_path", tmp_path / "none"), ("--model_path", tmp_path / "model.pth")]
    outputs = {"--csv": tmp_path / "t.csv", "--json": tmp_path / "other"}
    if link is shutil.copy:
        refuse_inputs(outputs, inputs)
    else:
        with pytest.raises(UserError, match=r"--json .*other: would overwrite --model_path .*model\.pth; choose"):
            refuse_inputs(outputs, inputs)


def test_a_folder_that_is_read_stands_for_its_files(tmp_path):
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "labels.json").write_text("[]")
    refuse_inputs({"--json": folder / "new.json"}, [("--metadata", folder)])
    with pytest.raises(UserError, match=r"--json .*labels\.json: would overwrite --metadata .*data;"):
        refuse_inputs({"--json": folder / "below" / "labels.json"}, [("--metadata", folder)])


def test_two_outputs_are_no_one_file(tmp_path):
    (tmp_path / "link").symlink_to("a.json")
    with pytest.raises(UserError, match=r"--json and --csv .*link: the same file; give each its own"):
        refuse_inputs({"--json": tmp_path / "a.json", "--csv": tmp_path / "link"}, [])
    refuse_inputs({"--json": Path("/dev/null"), "--csv": Path("/dev/null")}, [])


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no endless device here")
def test_a_text_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("src.utils.files._MAX_TEXT", 1000)
    with pytest.raises(UserError, match="--tags_file /dev/zero: has more than 1,000 bytes"):
        read_text("/dev/zero", "--tags_file")
