"""Runs of train.py that can be killed, as forks of one process, which is faster than new processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tests.conftest import ROOT
from tests.script_helpers import one_thread

# train.py takes seconds to import, so every run is a fork, in a process group of its own. Steps are counted in a file.
_DRIVER = """
import json, os, signal, sys, train
import src.training.setup, src.training.tensorboard
from src.training.tensorboard import Logger

class Counting(Logger):
    def step(self, global_step, scalars):
        os.pwrite(counter, b"%12d" % global_step, 0)

def die_before(call):
    left = [call]
    def counted(original):
        def wrapped(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)
        return wrapped
    for name in ("replace", "rename", "fsync", "unlink", "write"):
        setattr(os, name, counted(getattr(os, name)))

for line in sys.stdin:
    argv, home, call = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        for number, name in ((0, os.devnull), (1, home + "/out"), (2, home + "/err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        counter = os.open(home + "/steps", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        src.training.tensorboard.Logger = lambda *_: Counting()
        if call is not None:
            die_before(call)
        status = train.main(argv)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print("pid", pid, flush=True)
    print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forks:
    """Start runs of train.py, one at a time, that can be killed."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> Forks:
        with one_thread():
            self._driver = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _DRIVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._driver.kill()
        self._driver.communicate()

    def start(self, *arguments: object, die_before: int | None = None) -> Fork:
        """Start train.py; ``die_before``: it is killed before this call of the system that changes a file."""
        for name in ("out", "err", "steps"):
            (self._home / name).unlink(missing_ok=True)
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(
            json.dumps([[str(argument) for argument in arguments], str(self._home), die_before]) + "\n"
        )
        self._driver.stdin.flush()
        return Fork(_answer(self._driver.stdout, "pid"), self._driver.stdout, self._home)


def _answer(driver: IO[str], name: str) -> int:
    """Read the driver's answer; a status that a failed test left unread must not be taken for a process to kill."""
    line = driver.readline().split()
    while name == "pid" and line[0] == "status":
        line = driver.readline().split()
    assert line[0] == name, line
    return int(line[1])


class Fork:
    """A run that :class:`Forks` has started."""

    def __init__(self, pid: int, driver: IO[str], home: Path) -> None:
        self._pid, self._driver, self._home = pid, driver, home

    def wait(self) -> int:
        """Return the exit status, or the negative number of the signal."""
        return _answer(self._driver, "status")

    def kill(self) -> int:
        """Kill the run unless it has just ended; returns the status like :meth:`wait`."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        return self.wait()

    def signal_all(self, number: int) -> None:
        """Signal the run and its children, as a terminal does."""
        os.killpg(self._pid, number)

    def children(self) -> list[int]:
        text = "".join(path.read_text() for path in Path(f"/proc/{self._pid}/task").glob("*/children"))
        return [int(word) for word in text.split()]

    def kill_child(self) -> None:
        os.kill(self.children()[0], signal.SIGKILL)

    def errors(self) -> str:
        return (self._home / "err").read_text(encoding="utf-8")

    def steps(self) -> int:
        """Return the number of steps over all epochs; 0 if there was none since the start."""
        path = self._home / "steps"
        return int(path.read_bytes() or 0) if path.exists() else 0

    def wait_for_step(self, step: int) -> None:
        self._until(lambda: self.steps() >= step)

    def wait_for_states(self, folder: Path, count: int) -> None:
        """Wait until the run has written so many states."""
        seen: set[int] = set()

        def written() -> bool:
            with contextlib.suppress(FileNotFoundError):
                seen.add((folder / "state.pt").stat().st_mtime_ns)
            return len(seen) > count

        if count:
            self._until(written)

    def wait_at_most(self, seconds: float) -> None:
        self._until(lambda: False, seconds)

    def _until(self, done: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until ``done()``, the end of the run, or a timeout."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end and self._is_running():
            time.sleep(0.001)

    def _is_running(self) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False
