"""One run at a time writes an output, and none that has ended keeps others from it."""

import os
import signal
import subprocess
import sys

from src.inference import journal
from tests.conftest import ROOT
from tests.tagging_helpers import contents, message_of, write, writer

LOCK = ".tags.json.lock"

HOLDER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.tagging_helpers import results, writer
with writer(Path(sys.argv[2]), "json", "csv") as target:
    target.write(results(["a.jpg", "b.jpg"])[1])
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_two_runs_on_one_output(tmp_path):
    """The second is told of the first; when that is killed it goes on, even while a child of the first lives."""
    command = [sys.executable, "-c", HOLDER, str(ROOT), str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        before = contents(tmp_path)
        for form in ("json", "csv"):
            for options in ({}, {"resume": True}, {"overwrite": True}):
                target = writer(tmp_path, form, **options)
                message = message_of(lambda target=target: write(target, []))
                assert message.startswith(f"--{form} {tmp_path / f'tags.{form}'}: another run is writing it")
                assert f"process {holder.pid}" in message
        assert contents(tmp_path) == before
        holder.kill()
        holder.wait()
        assert LOCK in contents(tmp_path)
        with writer(tmp_path, "json", "csv", resume=True) as target:
            assert target.done == {"b.jpg"}
        assert contents(tmp_path).keys() == {"tags.json", "tags.csv"}
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_lock_whose_file_went_while_it_was_taken_is_taken_anew(tmp_path, monkeypatch):
    take, taken = journal._take_lock, []

    def slow(descriptor: int) -> bool:
        if not taken:
            (tmp_path / LOCK).unlink()
        taken.append(descriptor)
        return take(descriptor)

    monkeypatch.setattr(journal, "_take_lock", slow)
    with writer(tmp_path, "json"):
        assert len(taken) == 2
        assert contents(tmp_path)[LOCK] == str(os.getpid()).encode()
    assert contents(tmp_path).keys() == {"tags.json"}


def test_a_place_without_locks(tmp_path, monkeypatch):
    def refuse(descriptor: int) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(journal, "_take_lock", refuse)
    message = message_of(lambda: write(writer(tmp_path, "json"), []))
    assert message.startswith(f"--json {tmp_path / 'tags.json'}: {LOCK} beside it cannot be locked: No locks available")
